"""What a teacher says of labelled data, computed once before a model learns from it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from ms_bert.commands.framework import Framework
from ms_bert.commands.prediction import Predictor
from ms_bert.data.sequences import Sequences
from ms_bert.errors import UserError
from ms_bert.finetuning_options import FinetuneOptions
from ms_bert.run import folder
from ms_bert.run.progress import Progress
from ms_bert.tasks.classification import SentenceTask
from ms_bert.tasks.distillation import TEACHER, Distillation, in_order_of
from ms_bert.tasks.downstream import DownstreamTask


def taught(
    framework: Framework,
    options: FinetuneOptions,
    task: DownstreamTask,
    examples: Mapping[str, Sequence[Any]],
    sequences: Mapping[str, Sequences],
    progress: Progress,
) -> tuple[DownstreamTask, dict[str, bytes]]:
    """The task as it is learned from --teacher, and the files by which a run remembers what the teacher says; without
    a teacher the task itself and none. The logits are put into the sequences as targets.

    Args:
        examples, sequences: by the same names.

    Raises:
        UserError: the teacher cannot be read, or was fine-tuned for another task or other labels.
    """
    training = options.training
    if training.teacher is None:
        return task, {}
    if not isinstance(task, SentenceTask):
        raise UserError(f"--teacher is for classification and regression of texts, not for {task.name}; leave it out.")
    logits = _remembered(options, sequences)
    if logits is None:
        teacher = Predictor(training.teacher, framework, options.run.device, threads=options.run.threads)
        if type(teacher.task) is not type(task):
            raise UserError(
                f"{training.teacher} was fine-tuned for {teacher.task.name}, but the training data is for {task.name}; "
                "name another --teacher."
            )
        progress.say(f"asking the teacher {training.teacher}")
        logits = {
            name: in_order_of(task.labels, teacher.task.labels, teacher.logits(of)) for name, of in examples.items()
        }
    for name, values in logits.items():
        sequences[name].of_sequences[TEACHER] = values
    distillation = Distillation(training.temperature, training.teacher_share)
    content = {name: np.ascontiguousarray(values) for name, values in logits.items()}
    return dataclasses.replace(task, distillation=distillation), {folder.TEACHER: save(content)}


def _remembered(options: FinetuneOptions, sequences: Mapping[str, Sequences]) -> dict[str, np.ndarray] | None:
    """What the teacher said when the run began; None: it must be asked."""
    if options.run.resume is None:
        return None
    try:
        found = load_file(options.run.resume / folder.TEACHER)
    except (OSError, SafetensorError):
        return None
    same = found.keys() == sequences.keys() and all(len(found[name]) == len(of) for name, of in sequences.items())
    return found if same else None
