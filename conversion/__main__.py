"""Convert, inspect, compare and verify BERT checkpoints: `python -m conversion convert SOURCE TARGET`, `--help`."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, Optional, Union

import tyro

from conversion import checkpoint, names, report
from conversion.agreement import html_report as page
from conversion.checkpoint import Checkpoint
from conversion.convert import Settings, convert
from conversion.families import FAMILIES
from conversion.parameters import ARCHITECTURES, PARTS
from conversion.sources import Source, open_source
from conversion.targets import TARGETS
from ms_bert.device import quiet_logs
from ms_bert.errors import UserError, printable
from ms_bert.process import handle_signals, open_streams

PROGRAM = "python -m conversion"
DESCRIPTION = (
    "Convert, inspect, compare and verify BERT checkpoints. A checkpoint is a file, a folder that holds one (also the "
    "folder of a run), or the prefix of a TensorFlow checkpoint; its format is recognised from its content.\n\n"
    "Targets:\n" + "\n".join(f"  {name:<20} {target.help}" for name, target in TARGETS.items())
)
_Names = Annotated[Optional[Literal[tuple(FAMILIES)]], tyro.conf.arg(name="from")]
_Part = Literal[PARTS[2:]]


@dataclasses.dataclass(frozen=True)
class Named:
    """How to read the names in a file."""

    prefix: str = ""
    """Read only the tensors whose names begin with this prefix, and remove it from the names: to choose one of several
    models in a file."""
    rename: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """OLD=NEW: read a module or tensor called OLD as NEW, for example fc=classifier; may be given several times."""

    def rules(self) -> dict[str, str]:
        """New names by old ones."""
        rules: dict[str, str] = {}
        for rule in self.rename:
            old, found, new = rule.partition("=")
            if not found or not old.rstrip("./") or old in rules:
                raise UserError(
                    f"--rename {rule[:100]!r} is not OLD=NEW, or repeats an OLD; give OLD=NEW, each OLD once."
                )
            rules[old] = new
        return rules

    def open(self, path: Path) -> Source:
        source = open_source(path)
        return (source.below(self.prefix) if self.prefix else source).renamed(self.rules())

    def open_all(self, *paths: Path) -> list[Source]:
        """Each by the prefix and the rules that fit it; each must fit one."""
        sources = [open_source(path) for path in paths]
        if self.prefix:
            fit = [any(name.startswith(self.prefix) for name in source.tensors) for source in sources]
            below = [source.below(self.prefix) if fits else source for source, fits in zip(sources, fit)]
            sources = below if any(fit) else [sources[0].below(self.prefix)]
        for old, new in self.rules().items():
            fit = [any(names.is_below(name, old) for name in source.tensors) for source in sources]
            fit = fit if any(fit) else [True]  # which raises the error
            sources = [source.renamed({old: new}) if fits else source for source, fits in zip(sources, fit)]
        return sources


@dataclasses.dataclass(frozen=True)
class Parts:
    """Which model the file holds, and which parts to use."""

    architecture: Optional[Literal[tuple(ARCHITECTURES)]] = None
    """Class of the model in Hugging Face's transformers; by default the one that the config and the tensors say."""
    allow_missing: tuple[_Part, ...] = ()
    """Parts of the architecture that may be missing."""
    drop: tuple[Literal[(*PARTS[2:], "optimizer")], ...] = ()
    """Parts to leave out, or the optimizer's state."""
    naming: tyro.conf.OmitArgPrefixes[Named] = dataclasses.field(default_factory=Named)

    def read(self, source: Source, family: Optional[str] = None, config: Optional[Path] = None) -> Checkpoint:
        return checkpoint.read_source(source, family, config, self.architecture, self.allow_missing, self.drop)

    def read_all(self, *paths: Path) -> list[Checkpoint]:
        return list(map(self.read, self.naming.open_all(*paths)))


_Parts = tyro.conf.OmitArgPrefixes[Parts]


@dataclasses.dataclass(frozen=True)
class Convert:
    """Convert SOURCE to TARGET: the new checkpoint is written beside TARGET, read back, compared and then renamed."""

    source: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="SOURCE")]
    """The checkpoint to read."""
    target: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="TARGET")]
    """The file or folder to write. Unless --to is given, the ending chooses the format (.ckpt: ms_bert; .ckpt.index:
    TensorFlow; .safetensors, .onnx and .mindir; no ending: a Hugging Face folder). The config and the tokenizer are
    written beside a file that has a folder to itself, and otherwise into TARGET.files."""
    from_: _Names = None
    """Naming scheme of the source; by default it is recognised."""
    to: Optional[Literal[tuple(TARGETS)]] = None
    """Format of the target; by default the ending of TARGET chooses it."""
    config: Optional[Path] = None
    """A config.json or bert_config.json, or a folder with one, instead of the one beside the source."""
    parts: _Parts = dataclasses.field(default_factory=Parts)
    dtype: Optional[Literal["float32", "float16", "bfloat16"]] = None
    """Convert the weights to this dtype; by default they stay as they are. If it changes, the optimizer's state is left
    out."""
    overwrite: bool = False
    """Replace a target that already exists; never the files of another model, nor a folder that holds anything else."""
    shard_size: Optional[int] = None
    """Size of a shard in megabytes, to split the weights of a Hugging Face folder into several files."""
    optimize: bool = False
    """Apply ONNX Runtime's transformer fusions to an ONNX target."""
    batch_size: Optional[int] = None
    """Batch size of a MindIR target; by default 1."""
    seq_length: Optional[int] = None
    """Tokens per row of a MindIR target; by default 128."""
    json: bool = False
    """Print the result as JSON."""

    def run(self) -> int:
        if self.shard_size is not None and self.shard_size < 1:
            raise UserError(f"--shard-size is {self.shard_size}; choose at least 1 megabyte.")
        settings = Settings(
            self.dtype,
            self.overwrite,
            None if self.shard_size is None else self.shard_size * 10**6,
            self.optimize,
            self.batch_size,
            self.seq_length,
        )
        opened = self.parts.naming.open(self.source)
        result = convert(self.parts.read(opened, self.from_, self.config), self.target, self.to, settings)
        source = result.source
        if self.json:
            told = {
                "source": str(source.source.path),
                "container": source.source.container,
                "names": source.spelling.family,
                "target": str(result.target),
                "to": result.kind,
                "architecture": source.architecture,
                "tensors": len(result.weights),
                "parameters": sum(tensor.size for tensor in result.weights.values()),
                "optimizer": source.scalars if result.moments else None,
                "notes": result.notes,
            }
            print(json.dumps(told, indent=2))
            return 0
        optimizer = f", optimizer at step {source.scalars['step']}" if result.moments else ""
        _tell(
            f"{result.target} ({result.kind}): {source.architecture}, {report.totals(result.weights)}{optimizer}; "
            f"from {source.source.path} ({source.source.container}, {source.spelling.family}), read back and compared",
            *(f"  {note}" for note in result.notes),
        )
        return 0


@dataclasses.dataclass(frozen=True)
class Inspect:
    """Print what FILE holds: names, shapes, dtypes, parameters, format and config; exit code 1 if it is not a BERT."""

    file: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FILE")]
    """The checkpoint."""
    from_: _Names = None
    """Naming scheme of the file; by default it is recognised."""
    config: Optional[Path] = None
    """A config.json or bert_config.json, or a folder with one, instead of the one beside the file."""
    naming: tyro.conf.OmitArgPrefixes[Named] = dataclasses.field(default_factory=Named)
    json: bool = False
    """Print the result as JSON."""

    def run(self) -> int:
        told = report.inspect(self.naming.open(self.file), self.from_, self.config)
        if self.json:
            print(json.dumps(told, indent=2))
        else:
            _tell(report.inspection_text(told))
        return 1 if "not_a_bert" in told else 0


@dataclasses.dataclass(frozen=True)
class Diff:
    """Compare two checkpoints, in any formats, tensor by tensor; exit code 1 if they differ."""

    a: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="A")]
    """The first checkpoint."""
    b: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="B")]
    """The second checkpoint."""
    parts: _Parts = dataclasses.field(default_factory=Parts)
    json: bool = False
    """Print the result as JSON."""

    def run(self) -> int:
        told = report.diff(*self.parts.read_all(self.a, self.b))
        if self.json:
            print(json.dumps(told, indent=2))
        else:
            _tell(report.diff_text(told))
        return 0 if report.same(told) else 1


@dataclasses.dataclass(frozen=True)
class Verify:
    """Check whether the weights of A and B are equal, and whether A and B compute the same from the same inputs.

    Both run in MindSpore's graph mode, in PyTorch and, if it is installed, in transformers. Every sublayer, output and
    gradient is compared with an oracle, PyTorch in float64; the error of PyTorch at the same precision sets the limit.
    If A and B differ, the first sublayer that differs is named, and the exit code is 1. One of them may be a graph
    (.onnx or .mindir) whose weights have no names: it is run as it is, and only its outputs are compared. Without A and
    B, MindSpore on this machine is compared with stored numbers of the oracle; --full compares all frameworks, modes,
    precisions and sizes, plants faults and trains a model.
    """

    a: Annotated[tyro.conf.Positional[Optional[Path]], tyro.conf.arg(metavar="A")] = None
    """The first checkpoint; the oracle uses its weights, or those of B if the weights of A have no names."""
    b: Annotated[tyro.conf.Positional[Optional[Path]], tyro.conf.arg(metavar="B")] = None
    """The second checkpoint."""
    full: bool = False
    """Run the whole agreement suite, which takes minutes."""
    device: Literal["CPU", "GPU", "Ascend"] = "CPU"
    """Device for MindSpore; everything else runs on the CPU."""
    precision: Optional[Literal["float32", "float16", "bfloat16"]] = None
    """Precision of MindSpore's activations and matrix products: by default float32 with A and B, and every precision of
    the device without them; --full always uses every precision."""
    text: Optional[Path] = None
    """Run A and B on the first 16 lines of this text file, instead of a few built-in sentences."""
    parts: _Parts = dataclasses.field(default_factory=Parts)
    report: Path = Path("agreement.html")
    """Where to write the report, a self-contained HTML page; it replaces an older report, but no other file."""
    json: bool = False
    """Print the figures as JSON."""

    def run(self) -> int:
        if (self.a is None) != (self.b is None) or (self.full and self.a is not None):
            raise UserError(
                "verify takes two checkpoints, or none, and none with --full; name both A and B, or neither."
            )
        if (self.text and self.a is None) or (self.precision and self.full):
            raise UserError("--text needs two checkpoints, and --precision cannot be used with --full; leave it out.")
        page.check_free(self.report)
        quiet_logs()
        made = self._verified()
        page.write(self.report, made)
        if self.json:
            from conversion.agreement.full import summary

            print(json.dumps({"verdict": made.verdict, "notes": made.notes, **summary(made)}, indent=2))
        else:
            _tell(f"{made.verdict} Report: {self.report}", *(f"  {line}" for line in [*made.notes, *page.beyond(made)]))
        return 0 if made.agrees else 1

    def _verified(self) -> page.Report:
        def tell(line: str) -> None:
            print(printable(line), file=sys.stderr, flush=True)

        if self.a is not None and self.b is not None:
            from conversion.agreement.verify import Settings, open_two, verify

            settings = Settings(self.device, self.precision or "float32", self.text)
            seen = tell if sys.stderr.isatty() else lambda line: None
            return verify(*open_two(self.a, self.b, self.parts.read_all), settings, seen)
        from conversion.agreement import full

        if self.full:
            return full.everything(self.device, tell)
        return full.against_goldens(self.device, (self.precision,) if self.precision else None, tell)


def _tell(*lines: str) -> None:
    """Print what may quote names and values from files."""
    for line in lines:
        print(printable(line))


def parse(arguments: Sequence[str] | None = None, program: str = PROGRAM) -> Convert | Inspect | Diff | Verify:
    """The command from its command line."""
    return tyro.cli(Union[Convert, Inspect, Diff, Verify], prog=program, description=DESCRIPTION, args=arguments)


def main(arguments: Sequence[str] | None = None, program: str = PROGRAM) -> int:
    """Run the command; returns the exit code.

    Args:
        arguments: of the command line, `convert`, `inspect`, `diff` or `verify` first; None: those of this process.
        program: what the command is called in its help and its messages.
    """
    open_streams()
    command = parse(arguments, program)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # the path of a file need not be UTF-8
    warnings.showwarning = lambda message, *_: print(printable(f"{program}: {message}"), file=sys.stderr)
    before = handle_signals({signal.SIGTERM: _interrupt})
    try:
        return command.run()
    except UserError as error:
        print(f"{program}: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # the reader of our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        done = "nothing was written; " if isinstance(command, Convert) else ""
        hint = f"{done}check that the path is right and accessible and that the disk is not full."
        print(printable(f"{program}: {error}; {hint}"), file=sys.stderr)
        return 1
    except KeyboardInterrupt as interrupt:
        print(f"{program}: interrupted; no incomplete file is left.", file=sys.stderr)
        return 128 + (interrupt.args[0] if interrupt.args else signal.SIGINT)
    finally:
        handle_signals(before)


def _interrupt(number: int, frame) -> None:
    """Let a signal end the command as Ctrl-C does, so that it cleans up."""
    raise KeyboardInterrupt(number)


if __name__ == "__main__":
    sys.exit(main())
