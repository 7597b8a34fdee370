"""Two checkpoints against each other: do they compute the same, and if not, where first?"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from conversion.agreement import cases, suite
from conversion.agreement.cases import Case, Problem, Tensors
from conversion.agreement.environment import check_installed, environment
from conversion.agreement.findings import Finding, errors
from conversion.agreement.html_report import Report
from conversion.agreement.tolerances import Error, tolerance
from conversion.checkpoint import Checkpoint
from conversion.parameters import NEED_POOLER, shapes
from conversion.tensors import same_bytes
from ms_bert.config import BertConfig
from ms_bert.data import tokenizer
from ms_bert.data.batches import Batch
from ms_bert.errors import UserError

TOKENS, SLOTS = 64, 8  # of a row of real text
FEWEST_TOKENS = 8  # of a row, for pairs of sentences and packed ones
ONNX = "ONNX"
HALVES = ("float16", "bfloat16")
# What must be the same in both configs: with other values the tensors within are of other shapes.
SIZES = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
    "type_vocab_size",
)
# No text shows every row of these, so they are compared row by row.
TABLES = tuple(f"bert.embeddings.{name}_embeddings.weight" for name in ("word", "position", "token_type"))
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
    asked for) with the same weights. MindSpore runs in graph mode. The tables of embeddings, of which no input shows
    every row, are compared as they are. A tensor that one side stores in half precision is rounded to it on the other
    side too: what half precision costs is no disagreement.

    Args:
        tell: takes a line of progress.

    Raises:
        UserError: they cannot be compared: no config, other sizes, no part in common, weights that are not finite, no
            framework.
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
        check_installed("torch", *(["onnxruntime"] if ONNX in (a.source.container, b.source.container) else []))
        config_a, config_b = self._configs()
        self.parts = self._parts()
        names = list(shapes(config_a, self.parts, a.architecture))
        self._check_shapes(names)
        self.equal = all(same_bytes(a.weights[name], b.weights[name]) for name in names)
        self.one_config = _without_labels(config_a) == _without_labels(config_b)
        weights = self._weights(names)
        made = [self._problem(config, each) for config, each in zip((config_a, config_b), weights)]
        rows = self._cases(config_a)
        self.problem_a, self.problem_b = (dataclasses.replace(problem, cases=rows) for problem in made)
        self.sides, self.graphs, self.oracle = self._sides(), self._graphs(), self._oracle()

    def report(self) -> Report:
        findings = self._tables()
        for case in self.problem_a.cases:
            findings += self._forward(case)
        findings += self._gradients(self.problem_a.cases[0])
        agrees = all(finding.agrees for finding in findings)
        verdict = self._verdict(findings)
        title = f"{self.a.source.path} against {self.b.source.path}"
        about = environment(self.settings.device)
        return Report(title, verdict, agrees, tuple(findings), about, tuple(self.notes))

    # What is compared

    def _parts(self) -> tuple[str, ...]:
        """Those that both have, and can be run without the others."""
        a, b = self.a, self.b
        common = {part for part in a.parts if part in b.parts}
        if a.architecture != b.architecture and "classifier" in common:
            common.remove("classifier")
            self.notes.append(f"A is a {a.architecture} and B a {b.architecture}: their classifiers are not compared")
        if "pooler" not in common:
            common -= {"nsp"} if a.architecture == "BertForTokenClassification" else NEED_POOLER
        for one, name in ((a, "A"), (b, "B")):
            if others := [part for part in one.parts if part not in b.parts or part not in a.parts]:
                self.notes.append(f"only {name} has {', '.join(others)}: not compared")
        return tuple(part for part in a.parts if part in common)

    def _configs(self) -> tuple[BertConfig, BertConfig]:
        config_a, config_b = self.a.config or self.b.config, self.b.config or self.a.config
        if config_a is None:
            raise UserError(
                f"there is no config beside {self.a.source.path}, nor beside {self.b.source.path}, and a model needs "
                "one; put a config.json there."
            )
        dict_a, dict_b = (_without_labels(config).to_dict() for config in (config_a, config_b))
        for name in {**dict_a, **dict_b}:
            one, other = dict_a.get(name), dict_b.get(name)
            if one != other and name in SIZES:
                raise UserError(
                    f"{name} is {one} in the config of {self.a.source.path} and {other} in that of "
                    f"{self.b.source.path}; models of different sizes cannot be compared."
                )
            if one != other:
                self.notes.append(f"{name} is {one} in A's config and {other} in B's: each computes with its own")
        return config_a, config_b

    def _check_shapes(self, names: list[str]) -> None:
        for one, other in ((self.a, self.b), (self.b, self.a)):
            # Where a config is borrowed from the other, nothing else has counted the layers.
            config = one.config or other.config
            if more := [name for name in one.weights if name not in shapes(config, one.parts, one.architecture)]:
                raise UserError(
                    f"{one.source.path} holds {more[0]}, which the model of {config.num_hidden_layers} layers that the "
                    "config describes has not; checkpoints of different sizes cannot be compared."
                )
        if config.max_position_embeddings < FEWEST_TOKENS:
            raise UserError(
                f"max_position_embeddings is {config.max_position_embeddings}, and a comparison needs rows of "
                f"{FEWEST_TOKENS} tokens; compare the tensors alone with python -m conversion diff."
            )
        for name in names:
            one, other = self.a.weights[name].shape, self.b.weights.get(name)
            if other is None or one != other.shape:
                found = "no such weight" if other is None else tuple(other.shape)
                raise UserError(
                    f"{name} is {tuple(one)} in {self.a.source.path}, and in {self.b.source.path} it is {found}; "
                    "checkpoints of different sizes cannot be compared."
                )

    def _weights(self, names: list[str]) -> list[Tensors]:
        """Those of A and of B in float32, each rounded as the other stores it."""
        weights: list[Tensors] = [{}, {}]
        stored: list[dict[str, int]] = [{}, {}]  # how many tensors that lost something only here, by the dtype
        for name in names:
            values = [one.weights[name].read() for one in (self.a, self.b)]
            for one, value in zip((self.a, self.b), values):
                if not np.isfinite(value.astype(np.float64)).all():
                    raise UserError(
                        f"{name} in {one.source.path} holds values that are not finite, and what is computed with them "
                        "cannot be compared; convert it again from a sound checkpoint."
                    )
            dtypes = [value.dtype for value in values]
            for i, value in enumerate(values):
                single = value.astype(np.float32)
                if dtypes[1 - i].name in HALVES and dtypes[i] != dtypes[1 - i]:
                    rounded = single.astype(dtypes[1 - i]).astype(np.float32)
                    if not np.array_equal(rounded, single):
                        counts = stored[1 - i]
                        counts[dtypes[1 - i].name] = counts.get(dtypes[1 - i].name, 0) + 1
                    single = rounded
                weights[i][name] = single
        for name, other, counts in zip("AB", "BA", stored):
            for dtype, count in counts.items():
                self.notes.append(
                    f"{name} stores {count} of {len(names)} tensors in {dtype}: those of {other} were rounded to it too"
                )
        return weights

    def _tables(self) -> list[Finding]:
        """The rows of A's and B's tables of embeddings, of which no input uses all."""
        findings = []
        for name in TABLES:
            one, other = (problem.weights[name].astype(np.float64) for problem in (self.problem_a, self.problem_b))
            side = Side("weights (B)", "float32", None, self.problem_b)
            nothing = {name: Error(0.0, 0.0)}
            findings += suite.judged("tables", "every row", side, {name: other}, {name: one}, nothing)
            if rows := np.flatnonzero((one != other).any(1)).tolist():
                self.notes.append(f"{name} differs in {len(rows)} of its {len(one)} rows, first in row {rows[0]}")
        return findings

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
        third = short // 3
        packed = ((third + 1, third, short - 2 * third - 1), (short // 2, short // 4))
        made.append(Case("packed rows", cases.make_batch(config, packed, short, seed=10)))
        return tuple(made)

    def _real_text(self, config: BertConfig) -> Batch | None:
        lines = self._lines()
        homes = [one.source.home for one in (self.a, self.b) if one.tokenizer]
        vocabularies = [tokenizer.load(home) for home in dict.fromkeys(homes)]
        why = None
        if not homes:
            why = "no tokenizer lies beside A or B"
        elif vocabularies[0].size > config.vocab_size:
            why = f"the tokenizer in {homes[0]} has more entries than the model"
        if why and self.settings.text:
            raise UserError(f"{why}, so that {self.settings.text} cannot be run on; put a tokenizer there, or omit it.")
        if why:
            self.notes.append(f"{why}: no real text was run on")
            return None
        if len(vocabularies) == 2 and not _alike(*vocabularies, lines):
            self.notes.append("A and B have tokenizers that do not give the same tokens: both were run on those of A's")
        tokens = min(config.max_position_embeddings, TOKENS)
        return text_batch(vocabularies[0], lines, tokens, min(1, config.type_vocab_size - 1))

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

        torch = PyTorch(self.settings.precision)
        mindspore = _mindspore(self.settings.precision, self.settings.device)
        sides = [self._side("PyTorch (A)", torch, self.problem_a)]
        if not (self.equal and self.one_config):
            sides.append(self._side("MindSpore (A)", mindspore, self.problem_a))
            sides.append(self._side("PyTorch (B)", torch, self.problem_b))
        return [*sides, self._side("MindSpore (B)", mindspore, self.problem_b)]

    def _graphs(self) -> list[Side]:
        """The ONNX files themselves."""
        from conversion.agreement.in_onnx import Graph

        sides = []
        for one, name in ((self.a, "A"), (self.b, "B")):
            if one.source.container == ONNX:
                graph = Graph(one.source.path, one.architecture)
                if graph.gives(self.problem_a):
                    sides.append(self._side(f"ONNX Runtime ({name})", graph, self.problem_a))
                else:
                    self.notes.append(f"the graph of {name} gives nothing that the other has too: it was not run")
        return sides

    def _oracle(self):
        from conversion.agreement.in_torch import PyTorch

        return PyTorch("float64")

    def _side(self, name: str, contender, problem: Problem) -> Side:
        return Side(name, self.settings.precision, contender, problem)

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
        frameworks = ", ".join(dict.fromkeys(f.contender for f in findings if f.check != "tables"))
        first = first_beyond(findings)
        only = "" if set(self.parts) == {*self.a.parts, *self.b.parts} else f" on {', '.join(self.parts)}"
        if first is None:
            worst = max(findings, key=lambda finding: finding.share)
            return (
                f"A and B agree{only}: {len(findings)} tensors of {frameworks}, at most {worst.share:.0%} of their "
                f"limits ({worst.check}, {place(worst.name)})"
            )
        what = "the gradient of " if first.check == "gradients" else ""
        if _within_reason(first):
            return (
                f"A and B cannot be told apart: at {what}{place(first.name)} PyTorch's own error in "
                f"{self.settings.precision} is beyond what any framework is allowed, so that rounding hides whatever "
                "differs; compare the tensors with python -m conversion diff."
            )
        if self.equal and self.one_config and not any(f.contender.startswith("ONNX") for f in findings if not f.agrees):
            return (
                f"A and B are the same model, and MindSpore computes it otherwise than PyTorch, first at {what}"
                f"{place(first.name)}: {first.ratio:.3g}x PyTorch's own error, {first.share:.3g}x its limit"
            )
        if first.check == "tables":
            return f"A and B differ in {place(first.name)}, in rows that none of the inputs shows"
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
    for check, contenders in itertools.product(("forward", "gradients", "tables"), ("(B)", "")):
        order: dict[str, None] = dict.fromkeys(finding.name for finding in findings if finding.check == check)
        for name in order:
            at = [f for f in beyond if (f.check, f.name) == (check, name) and f.contender.endswith(contenders)]
            if at:
                return max(at, key=lambda finding: finding.share)
    return None


def _within_reason(finding: Finding) -> bool:
    """Whether it is beyond the cap alone, and not far from what PyTorch itself makes of the weights of A."""
    if finding.yardstick is None:
        return True
    allowed = tolerance(finding.check, finding.name, finding.precision)
    uncapped = dataclasses.replace(allowed, cap=Error(math.inf, math.inf)).limit(finding.yardstick)
    return finding.error.norm <= uncapped.norm and finding.error.largest <= uncapped.largest


def _alike(one: tokenizer.Vocabulary, other: tokenizer.Vocabulary, lines: list[str]) -> bool:
    """Whether two tokenizers give the same tokens."""
    if one.tokenizer.get_vocab() != other.tokenizer.get_vocab():
        return False
    return all(one.tokenizer.encode(line).ids == other.tokenizer.encode(line).ids for line in (*TEXT, *lines))


def place(name: str) -> str:
    """`layer.7.attention.output` as people say it: `layer 7, attention output`."""
    layer = re.fullmatch(r"layer\.(\d+)\.(.+)", name)
    return f"layer {layer[1]}, {layer[2].replace('.', ' ')}" if layer else name.replace("_", " ")


def text_batch(vocabulary: tokenizer.Vocabulary, lines: list[str], tokens: int, second: int = 1) -> Batch:
    """Rows [CLS] half of a line [SEP] the other half [SEP], as `ms_bert.data.batches.FIELDS`.

    Args:
        second: token type of the other half: 0 where the model knows but one.
    """
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
        batch["token_type_ids"][row, len(first) : len(ids)] = second
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
