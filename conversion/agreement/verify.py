"""Two checkpoints against each other: do they compute the same, and if not, where first?"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from conversion.agreement import cases, suite
from conversion.agreement.cases import Case, Problem, Tensors
from conversion.agreement.environment import environment
from conversion.agreement.findings import Finding, errors
from conversion.agreement.html_report import Report
from conversion.checkpoint import Checkpoint
from conversion.parameters import shapes
from conversion.tensors import same_bytes
from ms_bert.config import BertConfig
from ms_bert.data import tokenizer
from ms_bert.data.batches import Batch
from ms_bert.errors import UserError

TOKENS, SLOTS = 64, 8  # of a row of real text
ONNX = "ONNX"
HALVES = ("float16", "bfloat16")
# Pairs of sentences, where no text is given.
TEXT = (
    "The cat sits on the mat. It has been there since the early morning, and nobody knows why.",
    "MindSpore compiles the whole training step into one graph; PyTorch runs it operation by operation.",
    "Déjà vu: naïve café owners in Zürich, São Paulo and Kraków recognise 東京, emoji and e-mail addresses alike.",
    "语言模型在大量文本上进行预训练。然后在具体任务上微调。",
    "In 1905, Einstein published four papers (on light, atoms, motion and energy) that changed physics forever!",
)


@dataclasses.dataclass(frozen=True)
class Settings:
    """How two checkpoints are compared.

    Attributes:
        device: of MindSpore. precision: of MindSpore's activations and products. text: lines to run on; None: TEXT.
    """

    device: str = "CPU"
    precision: str = "float32"
    text: Path | None = None


def verify(
    a: Checkpoint, b: Checkpoint, settings: Settings | None = None, tell: Callable[[str], None] = lambda line: None
) -> Report:
    """Run both checkpoints on the same real and random inputs, and judge every sublayer, output and gradient.

    The oracle is PyTorch in float64 with the weights of a. The yardstick is PyTorch in float32 (or at the precision
    asked for) with the weights of a, rounded as those of b are stored. MindSpore runs in graph mode.

    Args:
        tell: takes a line of progress.

    Raises:
        UserError: they cannot be compared: no config, other sizes, no part in common, no framework.
    """
    return _Verification(a, b, settings or Settings(), tell).report()


@dataclasses.dataclass(frozen=True)
class Side:
    """One checkpoint in one framework.

    Attributes:
        name: as 'MindSpore (B)'. precision: whose tolerances hold.
    """

    name: str
    precision: str
    contender: suite.Contender
    problem: Problem

    def leaves_out(self, name: str) -> bool:
        return self.contender.leaves_out(name)


class _Verification:
    def __init__(self, a: Checkpoint, b: Checkpoint, settings: Settings, tell: Callable[[str], None]):
        self.a, self.b, self.settings, self.tell, self.notes = a, b, settings, tell, []
        self._check_frameworks()
        config_a, config_b = self._configs()
        self.parts = tuple(part for part in a.parts if part in b.parts)
        for one, name in ((a, "A"), (b, "B")):
            if others := [part for part in one.parts if part not in self.parts]:
                self.notes.append(f"only {name} has {', '.join(others)}: not compared")
        names = list(shapes(config_a, self.parts, a.architecture))
        self._check_shapes(names)
        self.equal = all(same_bytes(a.weights[name], b.weights[name]) for name in names)
        self.one_config = _without_labels(config_a) == _without_labels(config_b)
        weights = [{name: one.weights[name].read() for name in names} for one in (a, b)]
        self.stored = self._rounding(weights)
        made = [self._problem(config, each) for config, each in zip((config_a, config_b), weights)]
        rows = self._cases(config_a)
        self.problem_a, self.problem_b = (dataclasses.replace(problem, cases=rows) for problem in made)
        self.sides, self.graphs, self.oracle = self._sides(), self._graphs(), self._oracle()

    def report(self) -> Report:
        findings = []
        for case in self.problem_a.cases:
            findings += self._forward(case)
        findings += self._gradients(self.problem_a.cases[0])
        agrees = all(finding.agrees for finding in findings)
        how = "byte for byte the same weights" if self.equal else "weights that are not the same bytes"
        notes = (f"A and B have {how}", *self.notes)
        title = f"{self.a.source.path} against {self.b.source.path}"
        about = environment(self.settings.device)
        return Report(title, self._verdict(findings), agrees, tuple(findings), about, notes)

    # What is compared

    def _check_frameworks(self) -> None:
        try:
            import torch  # noqa: F401
        except ModuleNotFoundError:
            raise UserError(
                "the oracle is computed with torch, which is not installed; pip install -e '.[torch]', or check this "
                "machine against the oracle's numbers on file: python -m conversion verify."
            ) from None

    def _configs(self) -> tuple[BertConfig, BertConfig]:
        config_a, config_b = self.a.config or self.b.config, self.b.config or self.a.config
        if config_a is None:
            raise UserError(
                f"there is no config beside {self.a.source.path}, nor beside {self.b.source.path}, and a model needs "
                "one; put a config.json there."
            )
        fields = {**config_a.to_dict(), **config_b.to_dict()}
        for name in fields:
            one, other = config_a.to_dict().get(name), config_b.to_dict().get(name)
            if one != other:
                self.notes.append(f"{name} is {one} in A's config and {other} in B's: each computes with its own")
        return config_a, config_b

    def _check_shapes(self, names: list[str]) -> None:
        for name in names:
            one, other = self.a.weights[name].shape, self.b.weights.get(name)
            if other is None or one != other.shape:
                found = "no such weight" if other is None else tuple(other.shape)
                raise UserError(
                    f"{name} is {tuple(one)} in {self.a.source.path}, and in {self.b.source.path} it is {found}; "
                    "checkpoints of different sizes cannot be compared."
                )

    def _rounding(self, weights: list[Tensors]) -> np.dtype | None:
        """The half precision that B's weights went through and A's did not; None: none."""
        for name, value in weights[1].items():
            if value.dtype.name in HALVES:
                original = weights[0][name].astype(np.float32)
                if not np.array_equal(original.astype(value.dtype).astype(np.float32), original, equal_nan=True):
                    self.notes.append(f"B is stored in {value.dtype.name}: what its rounding costs A is allowed")
                    return value.dtype
        return None

    def _problem(self, config: BertConfig, weights: Tensors) -> Problem:
        single = {name: value.astype(np.float32) for name, value in weights.items()}
        per_token = self.a.architecture == "BertForTokenClassification"
        return Problem(config, self.parts, single, {}, (), per_token)

    def _cases(self, config: BertConfig) -> tuple[Case, ...]:
        made = []
        real = self._real_text(config)
        if real is not None:
            made.append(Case("real text", real))
        length = min(config.max_position_embeddings, 512)
        lengths = ((length,), (length * 2 // 3,))
        made.append(Case("random tokens", cases.make_batch(config, lengths, length, seed=9)))
        short = min(length, TOKENS)
        if short >= 8:
            third = short // 3
            packed = ((third + 1, third, short - 2 * third - 1), (short // 2, short // 4))
            made.append(Case("packed rows", cases.make_batch(config, packed, short, seed=10)))
        return tuple(made)

    def _real_text(self, config: BertConfig) -> Batch | None:
        homes = [one.source.home for one in (self.a, self.b) if one.tokenizer]
        if not homes:
            self.notes.append("no tokenizer lies beside A or B: there was no real text to run on")
            return None
        vocabulary = tokenizer.load(homes[0])
        if vocabulary.size > config.vocab_size:
            self.notes.append(f"the tokenizer in {homes[0]} has more entries than the model: no real text was run on")
            return None
        return text_batch(vocabulary, self._lines(), min(config.max_position_embeddings, TOKENS))

    def _lines(self) -> list[str]:
        if self.settings.text is None:
            return list(TEXT)
        try:
            lines = [line for line in self.settings.text.read_text(encoding="utf-8").splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{self.settings.text} cannot be read ({error}); name a file of UTF-8 text.") from None
        if not lines:
            raise UserError(f"{self.settings.text} holds no text; name a file with a few lines.")
        return lines[:16]

    # How it is computed

    def _sides(self) -> list[Side]:
        """First the yardstick, then what is judged; weights and configs that are the same are computed once."""
        from conversion.agreement.in_torch import PyTorch

        rounded = self.problem_a
        if self.stored is not None:
            weights = {k: v.astype(self.stored).astype(np.float32) for k, v in self.problem_a.weights.items()}
            rounded = dataclasses.replace(self.problem_a, weights=weights)
        torch = PyTorch(self.settings.precision)
        mindspore = _mindspore(self.settings.precision, self.settings.device)
        sides = [self._side("PyTorch (A)", torch, rounded)]
        if not (self.equal and self.one_config):
            sides.append(self._side("MindSpore (A)", mindspore, self.problem_a))
            sides.append(self._side("PyTorch (B)", torch, self.problem_b))
        return [*sides, self._side("MindSpore (B)", mindspore, self.problem_b)]

    def _graphs(self) -> list[Side]:
        """The ONNX files themselves."""
        from conversion.agreement.in_onnx import Graph

        return [
            self._side(f"ONNX Runtime ({name})", Graph(one.source.path, one.architecture), self.problem_a)
            for one, name in ((self.a, "A"), (self.b, "B"))
            if one.source.container == ONNX
        ]

    def _oracle(self):
        from conversion.agreement.in_torch import PyTorch

        return PyTorch("float64")

    def _side(self, name: str, contender, problem: Problem) -> Side:
        # A model that went through half precision is allowed what half precision is allowed.
        precision = self.settings.precision if self.stored is None else self.stored.name
        return Side(name, precision, contender, problem)

    def _computed(self, sides: list[Side], what: str, compute: Callable) -> list[Tensors]:
        found = []
        for side in sides:
            self.tell(f"{side.name}: {what}")
            found.append(compute(side.contender, side.problem))
        return found

    def _forward(self, case: Case) -> list[Finding]:
        alone = case.batch["sequence_ids"].max() == 1 and case.batch["cls_positions"].shape[1] == 1

        def of(contender, problem: Problem) -> Tensors:
            return cases.real_only(contender.forward(problem, case.batch), case.batch)

        sides = [*self.sides, *(self.graphs if alone else [])]
        computed = self._computed(sides, f"forward, {case.name}", of)
        return _judged("forward", case, sides, computed, of(self.oracle, self.problem_a))

    def _gradients(self, case: Case) -> list[Finding]:
        """Of the sum of all outputs times random directions: it reaches every parameter, whatever the heads."""
        directions = cases.directions(self.problem_a, case.batch, self.oracle.forward(self.problem_a, case.batch))

        def of(contender, problem: Problem) -> Tensors:
            return contender.output_gradients(problem, case.batch, directions)

        computed = self._computed(self.sides, f"gradients, {case.name}", of)
        return _judged("gradients", case, self.sides, computed, of(self.oracle, self.problem_a))

    def _verdict(self, findings: list[Finding]) -> str:
        frameworks = ", ".join(dict.fromkeys(finding.contender for finding in findings))
        first = first_beyond(findings)
        if first is None:
            worst = max(findings, key=lambda finding: finding.share)
            return (
                f"A and B agree: {len(findings)} tensors of {frameworks}, at most {worst.share:.0%} of their limits "
                f"({worst.check}, {place(worst.name)})"
            )
        what = "the gradient of " if first.check == "gradients" else ""
        times = f"{first.ratio:.3g}x PyTorch's own error" if first.yardstick else f"error {first.error.norm:.2g}"
        return (
            f"A and B differ, first at {what}{place(first.name)}: {times}, {first.share:.3g}x its limit "
            f"({first.contender}, {first.case}); {sum(not f.agrees for f in findings)} of {len(findings)} tensors "
            "are beyond theirs"
        )


@functools.lru_cache(maxsize=1)
def _mindspore(precision: str, device: str) -> suite.Contender:
    """Kept, for the graphs that are compiled for one pair serve the next of the same config."""
    from conversion.agreement.in_mindspore import MindSpore

    return MindSpore(precision, device)


def _judged(check: str, case: Case, sides: list[Side], computed: list[Tensors], exact: Tensors) -> list[Finding]:
    """All sides' findings; the first is the yardstick of the others."""
    yardsticks, found = errors(computed[0], exact), []
    for i, (side, tensors) in enumerate(zip(sides, computed)):
        found += suite.judged(check, case.name, side, tensors, exact, yardsticks if i else None)
    return found


def first_beyond(findings: Sequence[Finding]) -> Finding | None:
    """The first sublayer, in the order of the forward pass, beyond its limit: of B where B's is; or a gradient."""
    beyond = [finding for finding in findings if not finding.agrees]
    for check, contenders in itertools.product(("forward", "gradients"), ("(B)", "")):
        order: dict[str, None] = dict.fromkeys(finding.name for finding in findings if finding.check == check)
        for name in order:
            at = [f for f in beyond if (f.check, f.name) == (check, name) and f.contender.endswith(contenders)]
            if at:
                return max(at, key=lambda finding: finding.share)
    return None


def place(name: str) -> str:
    """`layer.7.attention.output` as people say it: `layer 7, attention output`."""
    layer = re.fullmatch(r"layer\.(\d+)\.(.+)", name)
    return f"layer {layer[1]}, {layer[2].replace('.', ' ')}" if layer else name.replace("_", " ")


def text_batch(vocabulary: tokenizer.Vocabulary, lines: list[str], tokens: int) -> Batch:
    """Rows [CLS] half of a line [SEP] the other half [SEP], as `ms_bert.data.batches.FIELDS`."""
    rng = np.random.default_rng(12)
    rows = len(lines)
    batch = {name: np.zeros((rows, tokens), np.int32) for name in ("input_ids", "token_type_ids", "sequence_ids")}
    batch["input_ids"][:] = vocabulary.pad
    batch["position_ids"] = np.tile(np.arange(tokens, dtype=np.int32), (rows, 1))
    batch["cls_positions"] = np.zeros((rows, 1), np.int32)
    batch["masked_positions"] = np.zeros((rows, SLOTS), np.int32)
    for row, line in enumerate(lines):
        ids = vocabulary.tokenizer.encode(line, add_special_tokens=False).ids[: tokens - 3]
        half = len(ids) // 2
        first = [vocabulary.cls, *ids[:half], vocabulary.sep]
        ids = [*first, *ids[half:], vocabulary.sep]
        batch["input_ids"][row, : len(ids)] = ids
        batch["token_type_ids"][row, len(first) : len(ids)] = 1
        batch["sequence_ids"][row, : len(ids)] = 1
        batch["masked_positions"][row] = rng.integers(0, len(ids), SLOTS)
    batch["masked_labels"] = np.zeros((rows, SLOTS), np.int32)
    batch["masked_weights"] = np.ones((rows, SLOTS), np.float32)
    batch["next_sentence_labels"] = np.zeros((rows, 1), np.int32)
    batch["next_sentence_weights"] = np.ones((rows, 1), np.float32)
    return batch


def _without_labels(config: BertConfig) -> BertConfig:
    """What of a config changes a number."""
    return config.replace(id2label=None, label2id=None, problem_type=None)
