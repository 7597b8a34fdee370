"""The options of a fine-tuning run. A field's docstring is its `--help`. Both frameworks share these options."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Annotated, Literal, Optional

from tyro.conf import Suppress

from ms_bert.fields import Range
from ms_bert.options import (
    STEPS,
    STEPS_OR_NONE,
    Groups,
    MindSporeOptions,
    PyTorchOptions,
    RunOptions,
    TrainingOptions,
    cache_folder,
    check,
    require,
    require_effect,
)

OF_ONE_TASK = {  # options that other tasks have no use for
    "separator": "multi-label",
    "scheme": "tagging",
    "scored_questions": "answer-selection",
    "longest_question": "question-answering",
    "longest_answer": "question-answering",
    "stride": "question-answering",
}
# What stands in the run.json of older runs of all tasks, and changes nothing.
FORMER_DEFAULTS = {"scored_questions": "clean", "longest_question": 64, "longest_answer": 30, "stride": 128}


@dataclasses.dataclass(frozen=True)
class DataOptions:
    """The task and its labelled data."""

    task: Literal[
        "classification",
        "regression",
        "multi-label",
        "tagging",
        "multiple-choice",
        "answer-selection",
        "question-answering",
        "cola",
        "sst2",
        "mrpc",
        "stsb",
        "qqp",
        "mnli",
        "qnli",
        "rte",
        "wnli",
    ] = "classification"
    """What is learned: one label of several, a number, any of several labels,
    a tag for each word (named entities, parts of speech), the answer that stands in a passage,
    which choice of a question is right, which of its candidates answer it;
    or a task of GLUE by its name, whose files, columns, labels and metrics are known."""
    train: Optional[str] = None
    """Labelled data to train on: a file (.tsv .csv .jsonl .json .parquet, or CoNLL for tagging; also .gz and .xz),
    or the name of a Hugging Face dataset (NAME or NAME:CONFIG) or the folder of one
    that was saved; NAME@SPLIT names a split."""
    dev: Optional[str] = None
    """Labelled data to evaluate on and to choose the best checkpoint by."""
    test: tuple[str, ...] = ()
    """More labelled data, on which the finished model is scored, such as the mismatched half of MNLI."""
    dev_share: Annotated[float, Range(0.001, 0.5)] = 0.1
    """Without --dev: share of the training data that is kept out of training and used as such."""
    columns: tuple[str, ...] = ()
    """Columns of the data as ROLE=NAME; the roles are text, text2 (the second text of a pair) and label;
    of multiple choice context, question, choices and label; of answer selection question, candidate, label and id;
    of question answering question, context, answers and id.
    For roles that are not given, columns with usual names are used. Columns of CoNLL files have numbers, from 1."""
    quotes: bool = True
    """Whether double quotes enclose a field in .tsv and .csv files.
    GLUE's own .tsv files are always read without."""
    separator: str = ","
    """What separates the labels of a text in a multi-label file whose labels are not lists."""
    pooling: Literal["cls", "mean"] = "cls"
    """What a classifier of texts sees: the pooler's output for [CLS], as in the paper;
    or the mean of all tokens, which is better where the pooler was never trained."""
    scheme: Literal["auto", "none", "io", "iob1", "bio", "bioes", "bilou"] = "auto"
    """How spans such as named entities are written in tags; none: tags are no spans, as parts of speech are.
    By default it is found out from the training data."""
    scored_questions: Optional[Literal["clean", "all"]] = None
    """Questions of an answer selection that are scored: clean leaves out those of which all candidates are relevant or
    none is, as in the clean version of TREC-QA; with all, a question without a relevant one scores 0
    (default: clean)."""
    longest: Annotated[Optional[int], Range(8, 2**16)] = None
    """Most tokens of a text or a pair, including [CLS] and [SEP]; longer ones are truncated and counted
    (default: 128; for multiple choice 256; for question answering 384,
    where a passage that is longer is seen through several windows)."""
    longest_question: Annotated[Optional[int], Range(1, 2**16)] = None
    """Question answering: most tokens of a question; longer ones are truncated and counted (default: 64)."""
    longest_answer: Annotated[Optional[int], Range(1, 2**16)] = None
    """Question answering: most tokens of an answer that the model gives (default: 30)."""
    stride: Annotated[Optional[int], Range(1, 2**16)] = None
    """Question answering: tokens from the beginning of a window on a long passage to that of the next one; fewer
    where windows would not share as many tokens as an answer may have (default: 128)."""
    skip_bad: bool = False
    """Leave out rows that cannot be used, and count them, instead of stopping at the first."""
    cache: Path = dataclasses.field(default_factory=cache_folder)
    """Folder of compiled graphs, kept for the next run."""

    def __post_init__(self):
        check(self)
        require(bool(self.separator), "--separator is empty", "choose a character such as , or |")
        for name, task in OF_ONE_TASK.items():
            remedy = f"{{}} is for --task {task}, so leave it out"
            effective = self.task == task or getattr(self, name) == FORMER_DEFAULTS.get(name)
            require_effect(self, name, effective, f"the task is {self.task}", remedy)
        of_dev = f"--dev {self.dev} is the development data"
        require_effect(self, "dev_share", self.dev is None, of_dev, "leave one of the two out")


@dataclasses.dataclass(frozen=True)
class StartOptions:
    """The model to begin with."""

    model: Optional[Path] = None
    """Begin from this checkpoint: a folder or a file of any format that `conversion` reads.
    The config and the vocabulary beside it are used, unless --config and --vocab name others.
    A head that it lacks is initialised at random."""
    config: Optional[Path] = None
    """A config.json, or a folder with one, instead of the one beside the checkpoint."""
    vocab: Optional[Path] = None
    """A vocab.txt, a tokenizer.json or a folder with one, instead of the one beside the checkpoint."""
    keep_layers: tuple[int, ...] = ()
    """Begin with these encoder layers of the model only, such as 1 3 5; the lowest is 1, and they keep their order
    (default: all)."""
    reinitialized_layers: Annotated[Optional[int], Range(0, 1024)] = None
    """Initialise the pooler and this many of the top layers at random.
    0: the pooler only (default: what the checkpoint has is kept)."""
    dropout: Annotated[Optional[float], Range(0, 0.999)] = None
    """Dropout of hidden states and attention probabilities, instead of the config's."""

    def __post_init__(self):
        check(self)


@dataclasses.dataclass(frozen=True)
class FinetuningOptions(TrainingOptions):
    """How it is trained."""

    epochs: Annotated[float, Range(0.001, 10**6)] = 3.0
    """Passes over the training data."""
    leaves: Annotated[int, Range(1, 2**16)] = 1
    """Compute each batch in this many leaves, a power of two, whose gradients are added up in a fixed order:
    1, 2, 4, ... --workers, up to as many as there are leaves, write the same bytes."""
    steps: Annotated[int, STEPS_OR_NONE] = 0
    """Optimizer steps, instead of --epochs. 0: as many as the epochs have."""
    learning_rate: Annotated[float, Range(1e-12, 1e30)] = 5e-5
    """Highest learning rate, reached at the end of the warm-up.
    The paper uses 2e-5 to 5e-5; small models need more."""
    class_weights: Literal["equal", "balanced"] = "equal"
    """Weight of each example in the loss of a classification or of answer selection.
    With balanced, it is inversely proportional to how many examples have its label."""
    layer_decay: Annotated[float, Range(0.01, 1)] = 1.0
    """Learning rate of each encoder layer, as a share of that of the layer above it.
    The heads have that of the top layer, the embeddings a share of that of the lowest."""
    frozen_layers: Annotated[Optional[int], Range(0, 1024)] = None
    """Leave the embeddings and this many of the lowest layers as they are.
    0: the embeddings only (default: everything is trained)."""
    teacher: Optional[Path] = None
    """Learn from this fine-tuned model too (knowledge distillation): its logits, softened, are a second label."""
    temperature: Annotated[float, Range(0.01, 1000)] = 2.0
    """By which the logits are divided when a model is compared with its --teacher."""
    teacher_share: Annotated[float, Range(0, 1)] = 0.5
    """Weight of the distance from the --teacher in the loss; the rest is that of the labels."""
    teacher_states: Annotated[float, Range(0, 10**6)] = 0.0
    """Weight of the distance from the hidden states of the --teacher, layer by layer, which is added to the loss
    (Patient Knowledge Distillation), in tasks on whole texts. 0: they are not compared."""
    augment: tuple[Literal["guesses", "dropped", "swapped"], ...] = ()
    """Change texts of the training data (augmentation): words are replaced by a masked language model's guesses,
    dropped, or swapped with their neighbours. In each epoch chance leaves half of the texts as they are
    and changes each of the others in one of the ways that are named."""
    augment_share: Annotated[float, Range(0.001, 1)] = 0.1
    """Share of the words of a changed text that --augment replaces, drops or swaps, on average."""
    augment_model: Optional[Path] = None
    """What guesses for --augment guesses: a checkpoint with an MLM head and the same vocabulary
    (default: the one of --model)."""
    warmup_share: Annotated[float, Range(0, 1)] = 0.1
    """Share of the steps over which the learning rate rises from 0."""
    warmup_steps: Suppress[Annotated[int, STEPS_OR_NONE]] = 0
    decay_steps: Suppress[Annotated[Optional[int], STEPS]] = None

    def __post_init__(self):
        super().__post_init__()
        require(
            self.augment_model is None or "guesses" in self.augment,
            f"--augment-model {self.augment_model} is what guesses words, but nothing is to be guessed",
            "add --augment guesses, or leave it out",
        )
        for needed, names in (
            ("teacher", ("temperature", "teacher_share", "teacher_states")),
            ("augment", ("augment_share",)),
        ):
            for name in names:
                there = bool(getattr(self, needed))
                require_effect(self, name, there, f"there is no --{needed}", "name one, or leave {} out")

    def rate_share(self, name: str, layers: int) -> float:
        """Layer-wise decay (Sun et al., 2019, 5.3.3): decay ** (layers above it); 0 for what is frozen."""
        below = depth(name)
        if self.frozen_layers is not None and below is not None and below < self.frozen_layers:
            return 0.0
        return 1.0 if below is None else self.layer_decay ** (layers - 1 - below)

    def resolved(self, steps_per_epoch: int) -> FinetuningOptions:
        """With the steps that the epochs have, and those of the warm-up."""
        steps = self.steps or max(1, round(self.epochs * steps_per_epoch))
        return dataclasses.replace(self, steps=steps, warmup_steps=round(self.warmup_share * steps))


def depth(name: str) -> int | None:
    """Number of the encoder layer of a parameter, -1 for the embeddings, None for what stands above the encoder."""
    layer = re.search(r"(?:^|\.)encoder\.layer\.(\d+)\.", name)
    if layer:
        return int(layer[1])
    return -1 if re.search(r"(?:^|\.)embeddings\.", name) else None


@dataclasses.dataclass(frozen=True)
class FinetuningRun(RunOptions):
    """Where it runs, and what it leaves behind."""

    output: Optional[Path] = None
    """Run folder to make (default: the first free of runs/TASK, runs/TASK-2, ...)."""
    seeds: Annotated[int, Range(1, 1000)] = 1
    """Train this many times, with --seed and the seeds after it, and report the mean and the spread of the scores.
    Each run has a folder of its own in the run folder."""
    evaluate: Optional[Path] = None
    """Only score this fine-tuned model, of any format, on the data of --test, and print the scores; train nothing.
    If it is a run folder, its options become the defaults. With --output, predictions are written, too."""
    eval_every: Annotated[int, STEPS_OR_NONE] = 0
    """Steps between evaluations on the development data. 0: one at the end of each epoch."""
    eval_sequences: Suppress[Annotated[int, STEPS]] = 512
    patience: Annotated[int, STEPS_OR_NONE] = 0
    """Stop after this many evaluations in a row that are not better than the best one. 0: train to the end."""
    checkpoint_every: Annotated[int, STEPS_OR_NONE] = 0
    """Steps between checkpoints. 0: one after each evaluation."""
    keep: Annotated[int, STEPS] = 1
    """How many of the newest checkpoints to keep; the one with the best evaluation is always kept."""

    def __post_init__(self):
        super().__post_init__()
        require(
            self.seeds == 1 or self.workers == 1,
            f"--seeds {self.seeds} trains one model after the other, each by one worker",
            "leave out --workers, or run each --seed by itself",
        )

    def resolved(self, steps_per_epoch: int) -> FinetuningRun:
        """With the steps of an epoch where nothing else was asked for."""
        every = self.eval_every or steps_per_epoch
        return dataclasses.replace(self, eval_every=every, checkpoint_every=self.checkpoint_every or every)


@dataclasses.dataclass(frozen=True)
class FinetuneOptions(Groups):
    """Every option of a fine-tuning run; each framework's command shows its own group and not the other's."""

    data: DataOptions = dataclasses.field(default_factory=DataOptions)
    start: StartOptions = dataclasses.field(default_factory=StartOptions)
    training: FinetuningOptions = dataclasses.field(default_factory=FinetuningOptions)
    run: FinetuningRun = dataclasses.field(default_factory=FinetuningRun)
    mindspore: MindSporeOptions = dataclasses.field(default_factory=MindSporeOptions)
    pytorch: PyTorchOptions = dataclasses.field(default_factory=PyTorchOptions)

    @property
    def truncated_normal(self) -> bool:
        """How weights are drawn: as Hugging Face does."""
        return False

    @property
    def cache(self) -> Path:
        """The folder of compiled graphs."""
        return self.data.cache
