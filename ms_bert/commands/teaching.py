"""What a teacher says of labelled data, computed once before a model learns from it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from ms_bert.commands.framework import Framework
from ms_bert.commands.inference import Inference
from ms_bert.commands.prediction import Predictor
from ms_bert.commands.training import named_layers
from ms_bert.config import BertConfig
from ms_bert.data.sequences import Sequences
from ms_bert.errors import UserError
from ms_bert.finetuning_options import FinetuneOptions
from ms_bert.run import folder
from ms_bert.run.progress import Progress
from ms_bert.tasks.classification import SentenceTask
from ms_bert.tasks.distillation import (
    LOGITS,
    STATES,
    Distillation,
    in_order_of,
    matched_layers,
    narrowed,
    narrowing,
)
from ms_bert.tasks.downstream import DownstreamTask
from ms_bert.tasks.embedding import ARCHITECTURE, Normalize, Pooling

TRAIN = "train"  # the name of the training data, by which a wider teacher is narrowed
CHUNK = 256  # sequences whose hidden states are held at a time

Said = dict[str, np.ndarray]  # what a teacher says of labelled data, (n, ...) float32, by the name of the data


def taught(
    framework: Framework,
    options: FinetuneOptions,
    task: DownstreamTask,
    config: BertConfig,
    examples: Mapping[str, Sequence[Any]],
    sequences: Mapping[str, Sequences],
    progress: Progress,
) -> tuple[DownstreamTask, dict[str, bytes]]:
    """The task as it is learned from --teacher, and the files by which a run remembers what the teacher says; without
    a teacher the task itself and none. What it says is put into the sequences as targets.

    Args:
        config: of the model that learns. examples, sequences: by the same names, one of them TRAIN.

    Raises:
        UserError: the teacher cannot be read, was fine-tuned for another task or other labels, or has no hidden states
            that those of the model can be compared with.
    """
    training = options.training
    if training.teacher is None:
        return task, {}
    if task.labels_tokens and training.teacher_states:
        raise UserError(
            f"--teacher-states compares the vectors of whole texts, but {task.name} learns of single tokens; leave it "
            "out."
        )
    distillation = Distillation(training.temperature, training.teacher_share, training.teacher_states)
    said = _remembered(options, distillation.fields, task, sequences)
    if said is None:
        teacher = Predictor(training.teacher, framework, options.run.device, threads=options.run.threads)
        if type(teacher.task) is not type(task):
            raise UserError(
                f"{training.teacher} was fine-tuned for {teacher.task.name}, but the training data is for {task.name}; "
                "name another --teacher."
            )
        pooling = "cls"
        if isinstance(task, SentenceTask) and isinstance(teacher.task, SentenceTask):
            pooling = task.pooling
            if teacher.task.pairs not in (None, task.pairs):
                kinds = {True: "pairs of texts", False: "single texts"}
                raise UserError(
                    f"{training.teacher} was fine-tuned for {kinds[teacher.task.pairs]}, but the training data is of "
                    f"{kinds[bool(task.pairs)]}; name another --teacher."
                )
        layers = _compared(options, config, teacher.pretrained.config, pooling)
        told = f" for its logits and the states of {named_layers(layers)}" if layers else ""
        progress.say(f"asking the teacher {training.teacher}{told}")
        read = {name: _as_read(options, teacher, task, of, sequences[name]) for name, of in examples.items()}
        said = {LOGITS: {name: _logits(teacher, task, of) for name, of in read.items()}}
        if layers:
            said[STATES] = _states(framework, options, config, teacher, layers, pooling, read)
    for field, by_name in said.items():
        for name, values in by_name.items():
            task.learned_of(sequences[name])[field] = values
    content = {_key(field, name): values for field, by_name in said.items() for name, values in by_name.items()}
    return dataclasses.replace(task, distillation=distillation), {folder.TEACHER: save(content)}


def _key(field: str, name: str) -> str:
    """Of a tensor of the file."""
    return f"{field}/{name}"


def _remembered(
    options: FinetuneOptions, fields: Sequence[str], task: DownstreamTask, sequences: Mapping[str, Sequences]
) -> dict[str, Said] | None:
    """What the teacher said when the run began, by field; None: it must be asked."""
    if options.run.resume is None:
        return None
    try:
        found = load_file(options.run.resume / folder.TEACHER)
    except (OSError, SafetensorError):
        return None
    expected = {
        _key(field, name): len(of.ids) if task.labels_tokens else len(of)
        for field in fields
        for name, of in sequences.items()
    }
    lengths = {key: len(values) for key, values in found.items()}
    if lengths != expected:
        learned = [_key(field, TRAIN) for field in fields]
        if all(lengths.get(key) == expected[key] for key in learned):
            raise UserError(
                f"{options.run.resume} learns from a teacher, who was asked about its data when it began; leave out "
                "--test, or name the files that it began with."
            )
        return None
    return {field: {name: found[_key(field, name)] for name in sequences} for field in fields}


def _as_read(
    options: FinetuneOptions, teacher: Predictor, task: DownstreamTask, examples: Sequence[Any], own: Sequences
) -> Sequences:
    """The examples as a teacher reads them. Where tokens are labelled, they are `own`, those of the model.

    Raises:
        UserError: tokens are labelled, and the teacher's are others, or a sequence has more than it takes.
    """
    if not task.labels_tokens:
        return teacher.task.sequences(examples, teacher.vocabulary, labelled=False)
    theirs = task.sequences(examples, teacher.vocabulary, labelled=False)
    path, most = options.training.teacher, teacher.pretrained.config.max_position_embeddings
    if not (np.array_equal(theirs.ids, own.ids) and np.array_equal(theirs.starts, own.starts)):
        raise UserError(
            f"{path} has another vocabulary than the model, but for {task.name} a teacher says something of each "
            "token; name a --teacher with the same vocabulary."
        )
    if (longest := int(own.lengths.max())) > most:
        raise UserError(
            f"the texts have up to {longest} tokens, but {path} takes only {most}; choose a smaller --longest, or "
            "name another --teacher."
        )
    return theirs


def _logits(teacher: Predictor, task: DownstreamTask, sequences: Sequences) -> np.ndarray:
    """Of what is labelled (n, C), in the order of the task's labels."""
    return np.ascontiguousarray(in_order_of(task.labels, teacher.task.labels, teacher.logits(sequences)))


def _compared(options: FinetuneOptions, config: BertConfig, teacher: BertConfig, pooling: str) -> tuple[int, ...]:
    """The layers of a teacher whose hidden states a model's are compared with, from 1; none without --teacher-states.

    Raises:
        UserError: they cannot be compared.
    """
    path, layers = options.training.teacher, config.num_hidden_layers
    if not options.training.teacher_states:
        return ()
    if layers < 2:
        raise UserError(
            "--teacher-states compares all layers but the last, and the model has only one; leave it out, or name a "
            "deeper --model."
        )
    if layers > teacher.num_hidden_layers:
        raise UserError(
            f"--teacher-states needs a teacher of no fewer layers than the model, but {path} has "
            f"{teacher.num_hidden_layers} and the model {layers}; name another --teacher, or --keep-layers."
        )
    if teacher.hidden_size < config.hidden_size:
        raise UserError(
            f"--teacher-states needs a teacher no narrower than the model, but the hidden states of {path} have "
            f"{teacher.hidden_size} numbers and the model's {config.hidden_size}; name another --teacher, or leave "
            "--teacher-states out."
        )
    if teacher.is_decoder and pooling == "cls":
        raise UserError(
            f"{path} is read from left to right (is_decoder): its [CLS] sees no word of a text; leave --teacher-states "
            "out, or add --pooling mean."
        )
    return matched_layers(layers, teacher.num_hidden_layers)


def _states(
    framework: Framework,
    options: FinetuneOptions,
    config: BertConfig,
    teacher: Predictor,
    layers: Sequence[int],
    pooling: str,
    read: Mapping[str, Sequences],
) -> Said:
    """A vector of length 1 of each sequence and each of these layers, as wide as the model's own: (n, L, H)."""
    path, found = options.training.teacher, teacher.pretrained
    assert path is not None
    model = Inference(
        found.first_layers(layers[-1]),
        path,
        framework,
        ARCHITECTURE,
        needed=(),
        device=options.run.device,
        threads=options.run.threads,
        arguments={"layers": tuple(layers)},
    )
    pooled, unit = Pooling((pooling,)), Normalize()

    def vectors(of: Sequences) -> np.ndarray:
        made = np.empty((len(of), len(layers), found.config.hidden_size), np.float32)
        for begin in range(0, len(of), CHUNK):
            sequences = of.between(begin, begin + CHUNK)
            states = np.split(model.logits(sequences, per_token=True), sequences.starts[1:-1])
            rows = made[begin : begin + CHUNK]
            rows[:] = unit(np.stack([pooled(of_text) for of_text in states]).reshape(rows.shape))
        return made

    said = {name: vectors(of) for name, of in read.items()}
    if found.config.hidden_size > config.hidden_size:
        train = said[TRAIN]
        projections = [narrowing(train[:, layer], config.hidden_size) for layer in range(len(layers))]
        said = {name: narrowed(of, projections) for name, of in said.items()}
    return said
