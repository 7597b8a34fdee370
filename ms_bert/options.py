"""The options of a pre-training run: frozen dataclasses, from which the command line and run.json are made.

A field's docstring is its `--help`, where tyro keeps the line breaks: each comes after a whole clause. Both frameworks
share these options.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Optional, Protocol

from ms_bert import fields
from ms_bert.errors import UserError, shown
from ms_bert.fields import Range

# Every number has bounds within which nothing that is computed of it overflows or vanishes in float32 or int64; they
# are far beyond what is of use.
STEPS, STEPS_OR_NONE = Range(1, 10**9), Range(0, 10**9)
_SEQ_LENGTH, _BATCH_SIZE = Range(8, 2**16), Range(1, 2**20)
_MASK_RATE = 0.15  # Devlin et al., 2019, 3.1
_Beta = Range(0, 0.9999999)  # the next below 1 in float32 is 0.99999994
_LEAF = 4096  # tokens, at least, unless fewer are asked for: by twice as many a step took 8% longer, by 1,024 24%
_MOST_TOKENS = 2**26  # of a batch; the largest that was published, of BERT with LAMB, has 2^24

# Each is a Python of some 100 MB; one process reads for them all, and cannot feed so many.
_MOST_PROCESSES = 256


def _processes() -> int:
    return min(len(os.sched_getaffinity(0)), _MOST_PROCESSES)


def cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ms_bert"


@dataclasses.dataclass(frozen=True)
class TextOptions:
    """What is read and how it becomes token ids."""

    corpus: tuple[str, ...] = ("builtin",)
    """Text files, folders or globs (.txt .jsonl .json .parquet, also .gz and .xz);
    names of Hugging Face datasets (NAME or NAME:CONFIG, also with @SPLIT);
    or `builtin`, the reference documentation of Python and of the installed libraries."""
    text_field: str = "text"
    """Field of JSON lines, Parquet and datasets that holds the text; each record is a document."""
    documents: Literal["blank-line", "line", "file"] = "blank-line"
    """What ends a document in a text file."""
    sentences: Literal["split", "line"] = "split"
    """Split each line into sentences (English, Chinese and others), or take a line as a sentence."""
    vocab: Optional[Path] = None
    """A vocab.txt, a tokenizer.json or a folder with one; without it, a vocabulary is trained on the corpus."""
    vocab_size: Annotated[int, Range(100, 2**24)] = 8192
    """Entries of a trained vocabulary, special tokens included."""
    vocab_sample: Annotated[int, Range(1, 10**6)] = 200
    """Megabytes of text, spread over the corpus, that a vocabulary is trained on."""
    cased: bool = False
    """Keep case and accents; by default text is lowercased and accents are stripped, as in bert-base-uncased."""
    held_out: Annotated[float, Range(1e-9, 0.5, or_zero=True)] = 0.02
    """Share of the documents kept out of training, for evaluation."""
    processes: Annotated[int, Range(1, _MOST_PROCESSES)] = dataclasses.field(default_factory=_processes)
    """Processes that make the token store."""
    cache: Path = dataclasses.field(default_factory=cache_folder)
    """Folder of token stores, trained vocabularies and compiled graphs, kept for the next run."""

    def __post_init__(self):
        check(self)
        named = bool(self.corpus) and all(self.corpus)
        require(named, "--corpus names nothing", "name at least one file, glob, dataset or `builtin`")


@dataclasses.dataclass(frozen=True)
class Phase:
    """Steps of a run whose batches have one shape."""

    seq_length: Annotated[int, _SEQ_LENGTH]
    batch_size: Annotated[int, _BATCH_SIZE]
    steps: Annotated[int, STEPS]

    @classmethod
    def from_text(cls, text: str) -> Phase:
        """Of SEQ_LENGTHxBATCH_SIZExSTEPS.

        Raises:
            UserError: it is not of this form.
        """
        found = f"--phases has {shown(text)}"
        shape = re.fullmatch(r"([0-9]{1,10})x([0-9]{1,10})x([0-9]{1,10})", text)
        if shape is None:
            raise UserError(f"{found}; choose SEQ_LENGTHxBATCH_SIZExSTEPS, such as 128x256x900000.")
        phase = cls(*map(int, shape.groups()))
        for name, value, expected in fields.faults(cls, vars(phase)):
            raise UserError(f"{found}, where {name} is {value}; choose {expected}.")
        return phase


@dataclasses.dataclass(frozen=True)
class ExampleOptions:
    """How training examples are drawn from the text."""

    seq_length: Annotated[int, _SEQ_LENGTH] = 128
    """Tokens per example, including [CLS] and [SEP]."""
    phases: tuple[str, ...] = ()
    """Phases before the one of --seq-length and --batch-size, each as SEQ_LENGTHxBATCH_SIZExSTEPS:
    begin with short rows or small batches, which is faster.
    The two of the paper: --phases 128x256x900000 --seq-length 512 --batch-size 256 --steps 1000000."""
    objective: Literal["masked", "left-to-right"] = "masked"
    """What is predicted: masked tokens, from those on both sides; or each next token, from those before it.
    With left-to-right attention is causal (`is_decoder` in config.json), and --no-nsp is needed."""
    masking: Literal["token", "whole-word", "ngram"] = "token"
    """What is masked: single tokens, all tokens of a word, or spans of 1 to 3 words."""
    segmenter: Literal["none", "rjieba"] = "none"
    """What finds the words of Chinese text for whole-word and ngram masking.
    With none, each Chinese character is a word."""
    dictionary: Optional[Path] = None
    """A file with a term of your domain on each line: for whole-word and ngram masking each is one word."""
    mask_rate: Annotated[float, Range(0.001, 0.999)] = _MASK_RATE
    """Share of the tokens to predict; of these 80% become [MASK], 10% a random token, 10% stay.
    Held-out text is always masked at 15%, so that losses can be compared."""
    max_predictions: Annotated[Optional[int], Range(1, 2**16)] = None
    """Most tokens masked per example (default: seq-length x mask-rate)."""
    nsp: bool = True
    """Next-sentence prediction on sentence pairs; without it, each example is a piece of one document."""
    short_sequences: Annotated[float, Range(0, 1)] = 0.1
    """Share of the examples that are made shorter, of a random length, so that the model sees short inputs too."""
    pack: Annotated[int, Range(1, 1024)] = 1
    """Most examples per row. A row with room left takes further examples that fit; each attends to itself only.
    Saves the time that padding takes where documents are shorter than rows."""

    def __post_init__(self):
        check(self)
        shortest = min(self.seq_length, *(phase.seq_length for phase in self.earlier), 2**16)
        require(
            self.max_predictions is None or self.max_predictions <= shortest - 3,
            f"--max-predictions is {self.max_predictions}",
            f"choose from 1 to {shortest - 3}, the {'shortest ' if self.phases else ''}sequence length minus 3",
        )
        require(
            self.masking != "token" or (self.segmenter == "none" and self.dictionary is None),
            "--segmenter and --dictionary find words, but --masking token masks single tokens",
            "choose --masking whole-word",
        )
        if self.objective == "left-to-right":
            require(
                not self.nsp,
                "--objective left-to-right has no next-sentence prediction, for [CLS] sees no token after it",
                "add --no-nsp",
            )
            require(
                self.masking == "token" and self.max_predictions is None,
                "--objective left-to-right masks nothing",
                "leave out --masking and --max-predictions",
            )

    @property
    def prediction_slots(self) -> int:
        """P, the masked slots of an example; where it is read from left to right, those of all its tokens."""
        if self.objective == "left-to-right":
            return self.seq_length
        return self.max_predictions or max(1, -int(-self.seq_length * self.mask_rate // 1))

    @property
    def earlier(self) -> tuple[Phase, ...]:
        """The phases before the last."""
        return tuple(map(Phase.from_text, self.phases))

    @property
    def of_held_out(self) -> ExampleOptions:
        """Those of held-out text: the rows of the last phase, masked at the usual rate."""
        return dataclasses.replace(self, mask_rate=_MASK_RATE, max_predictions=None)


@dataclasses.dataclass(frozen=True)
class ModelOptions:
    """Which BERT is trained, and from what."""

    preset: Literal["tiny", "mini", "small", "medium", "base", "large"] = "tiny"
    """Size: tiny 2 layers of 128, mini 4/256, small 4/512, medium 8/512, base 12/768, large 24/1024."""
    config: Optional[Path] = None
    """A config.json, or a folder with one, instead of a preset; its vocab_size must fit the vocabulary."""
    init: Optional[Path] = None
    """Begin from this checkpoint instead of random weights: a folder or a file of any format that `conversion` reads.
    The config and the vocabulary beside it are used, unless --config and --vocab name others.
    Heads that it lacks are initialised at random."""
    truncated_normal: bool = False
    """Draw random weights from a normal distribution cut off at two standard deviations, as Google's code does."""
    dropout: Annotated[Optional[float], Range(0, 0.999)] = 0.0
    """Dropout of hidden states and attention probabilities in this run; None: that of the config, 0.1 of a preset.
    Without it a model that reads each text a few times learns more; 0.1, as in the paper, is for many times.
    config.json keeps that of the config, with which the model is fine-tuned."""

    def __post_init__(self):
        check(self)


@dataclasses.dataclass(frozen=True)
class TrainingOptions:
    """How it is trained."""

    batch_size: Annotated[int, _BATCH_SIZE] = 32
    """Sequences per optimizer step."""
    leaves: Annotated[Optional[int], Range(1, 2**16)] = None
    """Compute each batch in this many leaves, a power of two, whose gradients are added up in a fixed order:
    1, 2, 4, ... --workers, up to as many as there are leaves, write the same bytes.
    Leaves of fewer tokens take longer (default: as many, up to 64, as have 4,096 tokens or more each)."""
    accumulate: Annotated[int, Range(1, 2**20)] = 1
    """Compute each leaf of a batch in this many parts, one after the other: less memory, the same gradient.
    When fine-tuned with dropout, other units are dropped, for each part packs its own texts."""
    reduction: Literal["tree", "vendor"] = "tree"
    """How gradients are summed over --workers: in the order of --leaves, so that any number of them writes the same
    bytes, or by the all-reduce of the library, in its own order, which may be faster."""
    steps: Annotated[int, STEPS] = 4000
    """Optimizer steps."""
    learning_rate: Annotated[float, Range(1e-12, 1e30)] = 2e-3
    """Highest learning rate, reached at the end of the warm-up.
    The default is right for `tiny`; larger models need less (base: 1e-4)."""
    warmup_steps: Annotated[int, STEPS_OR_NONE] = 200
    """Steps over which the learning rate rises from 0."""
    schedule: Literal["linear", "constant", "wsd"] = "linear"
    """The learning rate after the warm-up: it falls to 0 from then on (linear), it stays (constant),
    or it stays and falls to 0 in the last --cooldown-steps (wsd: warm-up, stable, decay)."""
    cooldown_steps: Annotated[Optional[int], STEPS] = None
    """With --schedule wsd, steps in which the learning rate falls (default: a fifth of all)."""
    decay_steps: Annotated[Optional[int], STEPS] = None
    """Step at which the learning rate reaches 0 (default: the last step)."""
    decay_power: Annotated[float, Range(0.001, 100)] = 1.0
    """Power of the polynomial decay to 0; 1 is linear."""
    optimizer: Literal["adamw", "adam-weight-decay", "lamb"] = "adamw"
    """AdamW (decoupled, bias-corrected), Google's AdamWeightDecay (no bias correction), or LAMB."""
    weight_decay: Annotated[float, Range(0, 100)] = 0.01
    """Weight decay; never applied to biases and LayerNorm."""
    beta1: Annotated[float, _Beta] = 0.9
    """Decay rate of the gradient's running mean."""
    beta2: Annotated[float, _Beta] = 0.999
    """Decay rate of the squared gradient's running mean."""
    epsilon: Annotated[Optional[float], Range(1e-30, 1)] = None
    """Added to the root of the second moment (default: 1e-8 for adamw, 1e-6 for the others)."""
    clip_norm: Annotated[float, Range(1e-6, 10**6, or_zero=True)] = 1.0
    """Gradients are scaled down to this global norm; 0 turns clipping off."""
    precision: Literal["float32", "float16", "bfloat16", "float64"] = "float32"
    """Precision of activations and matrix products; parameters and optimizer state stay float32.
    With float64 (PyTorch only, to compare with), everything is float64."""
    loss_scale: Annotated[float, Range(1, 2**60)] = 65536.0
    """Initial loss scale in float16; halved when a gradient overflows, doubled after 1000 steps without overflow."""
    recompute: bool = False
    """Compute each layer again in the backward pass instead of keeping its activations."""
    seed: Annotated[int, Range(0, 2**63 - 1)] = 1
    """Random seed of the weights, the examples, the masks and dropout."""

    def __post_init__(self):
        check(self)
        require(self.in_leaves.bit_count() == 1, f"--leaves is {self.leaves}", "choose a power of two")
        self.check_parts(f"--batch-size {self.batch_size}", self.batch_size)
        for name, schedules in (
            ("cooldown_steps", ("wsd",)),
            ("decay_steps", ("linear", "wsd")),
            ("decay_power", ("linear", "wsd")),
        ):
            remedy = f"leave {{}} out, or give --schedule {' or '.join(schedules)}"
            require_effect(self, name, self.schedule in schedules, f"--schedule is {self.schedule}", remedy)

    def check_parts(self, given: str, batch_size: int) -> None:
        """Raise UserError unless a batch of so many rows, as an option says, has --leaves and the parts of each."""
        leaves = f"--leaves {self.leaves} x " if self.in_leaves > 1 else ""
        require(
            batch_size % self.parts == 0,
            f"{given} cannot be divided into {leaves}--accumulate {self.accumulate} equal parts",
            "choose a divisor",
        )

    @property
    def in_leaves(self) -> int:
        """How many leaves a batch has: 1 where nothing was said."""
        return self.leaves or 1

    @property
    def parts(self) -> int:
        """How many parts a batch has, those of its leaves together."""
        return self.in_leaves * self.accumulate

    def with_leaves(self, sizes: Sequence[tuple[int, int]]) -> TrainingOptions:
        """With the usual number of leaves, where none is given.

        Args:
            sizes: of the batches, rows and tokens of a row.
        """
        if self.leaves is not None:
            return self
        fit = [
            count
            for count in (2**power for power in range(7))
            if all(
                rows % (count * self.accumulate) == 0 and rows * tokens >= count * self.accumulate * _LEAF
                for rows, tokens in sizes
            )
        ]
        return dataclasses.replace(self, leaves=max(fit, default=1))

    @property
    def optimizer_epsilon(self) -> float:
        """The epsilon in force: torch's default for AdamW, Google's for the other two."""
        return self.epsilon if self.epsilon is not None else {"adamw": 1e-8}.get(self.optimizer, 1e-6)

    def rate_share(self, name: str, layers: int) -> float:
        """The share of the learning rate that a parameter is trained with, by its name; 0: it is not trained.

        Args:
            layers: of the encoder.
        """
        return 1.0


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """Where it runs, and what it leaves behind."""

    device: Literal["CPU", "GPU", "Ascend"] = "CPU"
    """Device to train on."""
    threads: Annotated[Optional[int], Range(1, 10**6)] = None
    """Threads to compute with, of each worker (default: as many as the processor has, divided among the workers)."""
    workers: Annotated[int, Range(1, 2**16)] = 1
    """Processes on this machine that compute each batch together, 1, 2, 4, ..., at most --leaves of them.
    They are started, watched and, when one fails, started again from the newest checkpoint."""
    max_restarts: Annotated[int, Range(0, 10**6)] = 3
    """How often --workers are started again."""
    output: Optional[Path] = None
    """Run folder to make (default: the first free of runs/PRESET, runs/PRESET-2, ...)."""
    resume: Optional[Path] = None
    """Run folder to continue. Its options are kept; options that would change the training cannot be given."""
    auto_resume: bool = False
    """Continue the run in --output if one has begun there, else begin it:
    for a scheduler that starts the same command again."""
    repeat: Optional[Path] = None
    """A run.json whose options become the defaults of a new run."""
    evaluate: Optional[Path] = None
    """Only evaluate this checkpoint, of any format, on the held-out documents of the corpus, and print the losses.
    With --held-out 0, all documents are used. If it is a run folder, its options become the defaults."""
    log_every: Annotated[int, STEPS] = 10
    """Steps between two lines of metrics.jsonl."""
    eval_every: Annotated[int, STEPS_OR_NONE] = 500
    """Steps between evaluations on the held-out documents, besides one before the first step and one at the end.
    0: only the one at the end."""
    eval_sequences: Annotated[int, STEPS] = 512
    """Held-out sequences per evaluation; for a given batch size they are always the same."""
    checkpoint_every: Annotated[int, STEPS] = 500
    """Steps between checkpoints; one is also written at the end and when the run is interrupted."""
    keep: Annotated[int, STEPS] = 2
    """How many of the newest checkpoints to keep."""
    keep_every: Annotated[int, STEPS_OR_NONE] = 0
    """Also keep every checkpoint whose step is a multiple of this. 0: none."""

    def __post_init__(self):
        check(self)
        require(self.workers.bit_count() == 1, f"--workers is {self.workers}", "choose 1, 2, 4 or another power of two")


@dataclasses.dataclass(frozen=True)
class MindSporeOptions:
    """Options that only MindSpore has."""

    kernels: Literal["fused", "stock"] = "fused"
    """Operations on the CPU in float32 and bfloat16: C++ ones that compute whole sublayers (fused),
    or, in float32, MindSpore's own (stock).
    MindSpore's own are used everywhere else, and where the C++ ones were not built."""
    graph_cache: bool = True
    """Keep the compiled training step in --cache: the next run of the same shape loads it and starts sooner."""

    def __post_init__(self):
        check(self)


@dataclasses.dataclass(frozen=True)
class PyTorchOptions:
    """Options that only PyTorch has."""

    compile: bool = False
    """Compile the model with torch.compile."""

    def __post_init__(self):
        check(self)


class Groups:
    """Options in groups: a dataclass whose fields are dataclasses of options. Those of a framework are called as it."""

    def to_dict(self) -> dict:
        """The options as nested JSON values."""
        groups = dataclasses.asdict(self)  # type: ignore[call-overload]
        return {group: {k: _plain(v) for k, v in values.items()} for group, values in groups.items()}

    @classmethod
    def from_dict(cls, groups: dict, source: str):
        """Options from what `to_dict` gave.

        Raises:
            UserError: an unknown group or option, or a value that is none of its.
        """
        kinds = {group.name: group.default_factory for group in dataclasses.fields(cls)}  # type: ignore[arg-type]
        try:
            return cls(**{group: _group(group, kinds.get(group), given) for group, given in _items(groups)})
        except UserError as error:
            raise UserError(f"{source}: {error}") from None


class TrainerOptions(Protocol):
    """What a trainer needs of the options of a command.

    Attributes:
        truncated_normal: how weights are drawn. cache: folder of compiled graphs.
    """

    @property
    def training(self) -> TrainingOptions: ...

    @property
    def run(self) -> RunOptions: ...

    @property
    def mindspore(self) -> MindSporeOptions: ...

    @property
    def pytorch(self) -> PyTorchOptions: ...

    @property
    def truncated_normal(self) -> bool: ...

    @property
    def cache(self) -> Path: ...

    def to_dict(self) -> dict: ...


@dataclasses.dataclass(frozen=True)
class Options(Groups):
    """Every option of a pre-training run; each framework's command shows its own group and not the other's."""

    text: TextOptions = dataclasses.field(default_factory=TextOptions)
    examples: ExampleOptions = dataclasses.field(default_factory=ExampleOptions)
    model: ModelOptions = dataclasses.field(default_factory=ModelOptions)
    training: TrainingOptions = dataclasses.field(default_factory=TrainingOptions)
    run: RunOptions = dataclasses.field(default_factory=RunOptions)
    mindspore: MindSporeOptions = dataclasses.field(default_factory=MindSporeOptions)
    pytorch: PyTorchOptions = dataclasses.field(default_factory=PyTorchOptions)

    def __post_init__(self):
        earlier = sum(phase.steps for phase in self.examples.earlier)
        require(
            earlier < self.training.steps,
            f"--phases takes {earlier} steps, but --steps is {self.training.steps}",
            "choose more --steps: the last phase has those that --phases leaves",
        )
        last = f"--batch-size {self.training.batch_size} x --seq-length {self.examples.seq_length}"
        for phase, given in zip(self.phases, (*(f"--phases {text}" for text in self.examples.phases), last)):
            tokens = phase.batch_size * phase.seq_length
            require(
                tokens <= _MOST_TOKENS,
                f"{given} is {tokens} tokens",
                f"choose a batch of at most {_MOST_TOKENS} tokens",
            )
            self.training.check_parts(given, phase.batch_size)

    @property
    def phases(self) -> tuple[Phase, ...]:
        """All of them, one after the other, which take all steps together."""
        earlier = self.examples.earlier
        steps = self.training.steps - sum(phase.steps for phase in earlier)
        return (*earlier, Phase(self.examples.seq_length, self.training.batch_size, steps))

    def resolved(self) -> Options:
        """With the leaves that a batch has, where nothing was said."""
        sizes = [(phase.batch_size, phase.seq_length) for phase in self.phases]
        return dataclasses.replace(self, training=self.training.with_leaves(sizes))

    @property
    def row_lengths(self) -> tuple[int, ...]:
        """S, the tokens of a row, in each phase."""
        return tuple(phase.seq_length for phase in self.phases)

    @property
    def truncated_normal(self) -> bool:
        """How weights are drawn."""
        return self.model.truncated_normal

    @property
    def cache(self) -> Path:
        """The folder of compiled graphs."""
        return self.text.cache


@dataclasses.dataclass(frozen=True)
class TokenizeOptions:
    """What is made of a corpus ahead of a run."""

    text: TextOptions = dataclasses.field(default_factory=TextOptions)
    shard: Optional[str] = None
    """Make only part I/N, such as 3/16: of the third of 16 shards, files in a row of about equal size.
    Needs --vocab, so that all shards have one vocabulary."""
    merge: Annotated[Optional[int], Range(1, 10**6)] = None
    """Merge the parts of N shards, which are in --cache: the store is that which one machine makes of the text."""
    save_vocab: Optional[Path] = None
    """Write the vocabulary to this file, a tokenizer.json."""

    def __post_init__(self):
        check(self)
        require(self.shard is None or self.merge is None, "--shard and --merge are both given", "choose one of them")
        require(
            self.shard is None or self.text.vocab is not None,
            "--shard needs a vocabulary that all shards share",
            "name one with --vocab; without --shard, --save-vocab trains one on the text of --corpus",
        )
        if self.shard is not None:
            self.numbers  # noqa: B018  raises

    @property
    def numbers(self) -> tuple[int, int]:
        """The number of the shard, from 1, and that of all.

        Raises:
            UserError: --shard has another form.
        """
        found = re.fullmatch(r"([0-9]{1,7})/([0-9]{1,7})", self.shard or "")
        number, count = map(int, found.groups()) if found else (0, 0)
        require(1 <= number <= count, f"--shard is {shown(self.shard)}", "choose I/N with I from 1 to N, such as 3/16")
        return number, count


# What may be changed when a run is resumed: it leaves the examples and the formula of a step as they were. Files may
# have moved: what they hold is compared with what the run began with.
RESUMABLE = {
    "corpus",
    "train",
    "dev",
    "test",
    "steps",
    "schedule",
    "cooldown_steps",
    "decay_steps",
    "accumulate",
    "reduction",
    "recompute",
    "compile",
    "device",
    "kernels",
    "threads",
    "workers",
    "max_restarts",
    "auto_resume",
    "graph_cache",
    "processes",
    "cache",
    "log_every",
    "eval_every",
    "eval_sequences",
    "checkpoint_every",
    "keep",
    "keep_every",
    "patience",
}


def changed(before: Groups, after: Groups) -> list[str]:
    """Names of the options in which the two differ, `output`, `resume`, `repeat` and `evaluate` aside."""
    names = []
    for group in dataclasses.fields(before):  # type: ignore[arg-type]
        old, new = getattr(before, group.name), getattr(after, group.name)
        names += [f.name for f in dataclasses.fields(old) if getattr(old, f.name) != getattr(new, f.name)]
    return [name for name in names if name not in ("output", "resume", "repeat", "evaluate")]


def check(options) -> None:
    """Raise unless every option of a group is of its type and within its bounds."""
    for name, value, expected in fields.faults(type(options), vars(options)):
        raise UserError(f"--{_dashed(name)} is {shown(_plain(value))}; choose {expected}.")


def require(true: bool, found: str, remedy: str) -> None:
    """Raise UserError with what was found and what to do, unless it is true."""
    if not true:
        raise UserError(f"{found}; {remedy}.")


def require_effect(options: Any, name: str, effective: bool, why: str, remedy: str) -> None:
    """Raise UserError if a field has another value than its default where it has no effect.

    Args:
        why: it has none. remedy: what to do, with {} for the option.
    """
    usual = next(field.default for field in dataclasses.fields(options) if field.name == name)
    option, value = f"--{_dashed(name)}", getattr(options, name)
    require(effective or value == usual, f"{option} is {value}, but {why}", remedy.format(option))


def _dashed(name: str) -> str:
    return name.replace("_", "-")


def _group(name: str, kind, given: dict):
    """A group of options from JSON values."""
    hints = fields.hints(kind) if kind else {}
    unknown = [option for option, _ in _items(given) if option not in hints] if kind else [name]
    if kind is None or unknown:
        raise UserError(f"unknown option {shown(unknown[0])}, written by another version of ms_bert; use that version.")
    return kind(**{option: fields.from_json(value, hints[option]) for option, value in given.items()})


def _items(values: dict) -> list[tuple]:
    if not isinstance(values, dict):
        raise UserError(f"found {shown(values)} where options were expected; begin a new run.")
    return list(values.items())


def _plain(value):
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value
