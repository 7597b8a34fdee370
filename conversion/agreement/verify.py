"""Two checkpoints against each other: do they compute the same, and if not, where first?"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from conversion.agreement import cases, deployed, inputs, suite
from conversion.agreement.cases import Case, Problem, Tensors
from conversion.agreement.deployed import Graph
from conversion.agreement.environment import check_installed, environment, is_installed
from conversion.agreement.findings import Finding, errors, larger
from conversion.agreement.html_report import Report
from conversion.agreement.predictions import asks, predict
from conversion.agreement.roundings import common
from conversion.agreement.tolerances import Error, tolerance
from conversion.checkpoint import Checkpoint
from conversion.parameters import ARCHITECTURES, architecture_of, shapes
from conversion.tensors import same_bytes
from ms_bert.config import BertConfig
from ms_bert.errors import UserError

FEWEST_TOKENS = 8  # of a row, for pairs of sentences and packed ones
ONNX = "ONNX"
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
MOST_NAMES = 3  # of tensors that are not judged


@dataclasses.dataclass(frozen=True)
class Settings:
    """How two checkpoints are compared.

    Attributes:
        device: of MindSpore. precision: of MindSpore's activations and products. text: lines to run on; None: TEXT.
    """

    device: str = "CPU"
    precision: str = "float32"
    text: Path | None = None


Tell = Callable[[str], None]  # takes a line of progress


def _silent(line: str) -> None:
    pass


def open_two(
    a: Path, b: Path, read: Callable[..., Sequence[Checkpoint]]
) -> tuple[Checkpoint | Graph, Checkpoint | Graph]:
    """The files, each as a checkpoint, or as a graph where its weights have no names.

    Args:
        read: the checkpoints of some paths.

    Raises:
        UserError: neither has weights, or one cannot be read.
    """
    named = [path for path in (a, b) if deployed.holds_weights(path)]
    if not named:
        raise UserError(
            f"neither {a} nor {b} holds weights with names, and a comparison needs at least one that does; name the "
            "checkpoint that one of them was made from."
        )
    found = list(read(*named))
    architecture = found[0].architecture
    one, other = (found.pop(0) if path in named else deployed.open_graph(path, architecture) for path in (a, b))
    return one, other


def verify(
    a: Checkpoint | Graph,
    b: Checkpoint | Graph,
    settings: Settings | None = None,
    tell: Tell = _silent,
) -> Report:
    """Run both on the same real and random inputs, and judge every sublayer, output and gradient.

    The oracle is PyTorch in float64 with the weights of A. The yardstick is PyTorch in float32 (or at the precision
    asked for) with the same weights. MindSpore runs in graph mode, by its own operations and by the fused ones;
    transformers' own model, where it is installed, on what it takes. The tables of embeddings, of which no input shows
    every row, are compared as they are. A tensor that one side stores in half precision is rounded to it on the other
    side too: what half precision costs is no disagreement. A graph without weights is compared by its outputs.

    Args:
        tell: takes a line of progress.

    Raises:
        UserError: they cannot be compared: no config, other sizes, no part in common, weights that are not finite, no
            framework.
    """
    settings = settings or Settings()
    if isinstance(a, Checkpoint) and isinstance(b, Checkpoint):
        return Pair(a, b, settings, tell).report()
    if isinstance(a, Checkpoint):
        return OfGraph(a, b, "AB", settings, tell).report()
    return OfGraph(b, a, "BA", settings, tell).report()


@dataclasses.dataclass(frozen=True)
class Side:
    """One checkpoint in one framework.

    Attributes:
        name: as 'MindSpore (B)'. precision: whose tolerances hold.
        alone: whether it takes rows of one sequence only. forward_only: whether it is asked for no gradients.
        other: whether it computes with other weights than the oracle.
    """

    name: str
    precision: str
    contender: suite.Contender
    problem: Problem
    alone: bool = False
    forward_only: bool = False
    other: bool = False

    def leaves_out(self, name: str) -> bool:
        return self.contender is None or self.contender.leaves_out(name)


class _Verification:
    """What is the same for a pair of checkpoints and for a checkpoint and a graph.

    Attributes, which a subclass sets:
        problem: of the oracle. sides: the yardstick first. same: whether both are known to be one model.
        weights_told: how the weights compare, a clause. names: of A and B; described: what they are, for people.
        texts: real text, or None. labels: the names of the labels of each letter.
    """

    problem: Problem
    sides: list[Side]
    same: bool
    weights_told: str
    names: dict[str, str]
    described: dict[str, str]
    texts: inputs.Texts | None
    labels: dict[str, dict[int, str]]

    def __init__(self, settings: Settings, tell: Tell):
        from conversion.agreement.in_torch import PyTorch

        self.settings, self.tell, self.notes = settings, tell, []
        self.oracle = PyTorch("float64")
        self.predictions = []
        self.poor: set[tuple[str, str]] = set()  # cases and precisions whose forward pass cannot be judged to its end

    def report(self) -> Report:
        findings = self._tables()
        for case in self.problem.cases:
            findings += self._forward(case)
        findings += self._gradients(self.problem.cases[0])
        hidden = self._hides(findings)
        self._tell_what_is_not_judged(findings)
        agrees = all(finding.agrees for finding in findings) and not hidden
        verdict = self._verdict(findings, hidden)
        return Report(
            f"{self.names['A']} against {self.names['B']}",
            verdict,
            agrees,
            tuple(findings),
            environment(self.settings.device),
            tuple(self.notes),
            about=self._about(findings),
            predictions=tuple(self.predictions),
        )

    def _tables(self) -> list[Finding]:
        return []

    def _transformers(self, letter: str) -> list[Side]:
        """transformers' own model with the oracle's weights, where it is installed and has a class for them."""
        if not is_installed("transformers"):
            self.notes.append("transformers is not installed, so its model was not run")
            return []
        from conversion.agreement.in_transformers import Transformers, has

        if not has(self.problem.architecture):
            self.notes.append(f"transformers has no {self.problem.architecture}, so it was not run")
            return []
        return [Side(f"transformers ({letter})", "float32", Transformers(), self.problem, alone=True)]

    # How it is computed

    def _forward(self, case: Case) -> list[Finding]:
        alone = case.batch["sequence_ids"].max() == 1
        asked = self.texts is not None and case.name == inputs.REAL_TEXT
        answers: dict[str, Tensors] = {}

        def of(contender, problem: Problem) -> Tensors:
            return cases.real_only(contender.forward(problem, case.batch), case.batch)

        def keep(side: Side, tensors: Tensors) -> None:
            if asked and "fused" not in side.name and side.name != "MindSpore (A)":
                answers[side.name] = {name: tensors[name] for name in asks(self.problem) if name in tensors}

        sides = [side for side in self.sides if alone or not side.alone]
        found = self._judged("forward", case, sides, of, keep)
        if asked:
            self.predictions = predict(self.problem, self.texts, answers, [self.labels[name[-2]] for name in answers])
        return found

    def _gradients(self, case: Case) -> list[Finding]:
        """Of the sum of all outputs times random directions: it reaches every parameter, whatever the heads."""
        directions = cases.directions(self.problem, case.batch, self.oracle.forward(self.problem, case.batch))

        def of(contender, problem: Problem) -> Tensors:
            return contender.output_gradients(problem, case.batch, directions)

        sides = [side for side in self.sides if not (side.alone or side.forward_only)]
        return self._judged("gradients", case, sides, of)

    def _judged(
        self,
        check: str,
        case: Case,
        sides: list[Side],
        of: Callable[..., Tensors],
        keep: Callable[[Side, Tensors], None] = lambda side, tensors: None,
    ) -> list[Finding]:
        """All sides' findings; the first is the yardstick of the others of its precision.

        Of a large model the tensors of one side take gigabytes: one side after the other is computed and judged.

        Args:
            of: computes. keep: is shown what each side has computed.
        """
        from conversion.agreement.in_torch import PyTorch

        exact, yardsticks, found = of(self.oracle, self.problem), {}, []
        for side in sides:
            self.tell(f"{side.name}: {check}, {case.name}")
            tensors = of(side.contender, side.problem)
            keep(side, tensors)
            if side.precision not in yardsticks:
                torch = sides[0].contender if side is sides[0] else PyTorch(side.precision)
                own = errors(tensors if side is sides[0] else of(torch, self.problem), exact)
                yardsticks[side.precision] = larger(own, errors(of(torch, self._shaken), exact))
            yardstick = yardsticks[side.precision]
            hidden = self._hidden_by_rounding(check, case, side.precision, yardstick)
            of_side = suite.judged(check, case.name, side, tensors, exact, yardstick if side is not sides[0] else None)
            found += [_not_judged(f, yardstick[f.name], side) if f.name in hidden else f for f in of_side]
        return found

    @functools.cached_property
    def _shaken(self) -> Problem:
        return cases.shaken(self.problem)

    def _hidden_by_rounding(self, check: str, case: Case, precision: str, yardstick: dict[str, Error]) -> set[str]:
        """The tensors of which nothing can be said, and what is computed from such a hidden state."""
        names = list(yardstick)
        poor = [name for name in names if not tolerance(check, name, precision).judges(yardstick[name])]
        if check == "forward":
            # Not from probabilities: of large scores a few are poor, and what follows is a mean over all.
            states = [name for name in poor if not name.endswith("probabilities")]
            if states:
                self.poor.add((case.name, precision))
            return {*poor, *(names[names.index(states[0]) :] if states else ())}
        return set(names) if (case.name, precision) in self.poor else set(poor)

    # What is said of it

    def _hides(self, findings: list[Finding]) -> bool:
        """Whether models that are not known to be one may differ in an output that cannot be judged."""
        outputs = cases.outputs(self.problem)
        return not self.same and any(not f.judged and f.check == "forward" and f.name in outputs for f in findings)

    def _tell_what_is_not_judged(self, findings: list[Finding]) -> None:
        for check in dict.fromkeys(finding.check for finding in findings):
            of_check = [finding for finding in findings if finding.check == check]
            names = list(dict.fromkeys(finding.name for finding in of_check))
            worst: dict[str, Finding] = {}
            for finding in of_check:
                if not finding.judged and (finding.name not in worst or finding.yardstick):
                    worst[finding.name] = finding
            if not worst:
                continue
            told = ", ".join(place(name) for name in list(worst)[:MOST_NAMES])
            more = f" and {len(worst) - MOST_NAMES} more" if len(worst) > MOST_NAMES else ""
            first = next(iter(worst.values()))
            cap = tolerance(first.check, first.name, first.precision).cap.norm
            what = "gradients" if check == "gradients" else "tensors"
            self.notes.append(
                f"not judged: {len(worst)} of {len(names)} {what} ({told}{more}); there or earlier, rounding alone (in "
                f"PyTorch in {first.precision}, or of the last bit of the weights) causes errors near or above the cap "
                f"of {cap:.0e}, which could not be told from a fault"
            )

    def _verdict(self, findings: list[Finding], hidden: bool) -> str:
        first, beyond = first_beyond(findings), [finding for finding in findings if not finding.agrees]
        if first is None and hidden:
            return (
                f"{self.weights_told}; whether A and B agree cannot be decided, because rounding hides any difference "
                "in their outputs; compare the tensors with python -m conversion diff."
            )
        if first is None:
            judged = [finding for finding in findings if finding.judged]
            frameworks = ", ".join(dict.fromkeys(f.contender for f in judged if f.check != "tables"))
            if not frameworks:
                return f"{self.weights_told}; what they compute cannot be judged, because rounding hides all of it."
            worst = max(judged, key=lambda finding: finding.share)
            return (
                f"{self.weights_told}, and A and B agree{self._only()}: the errors of {len(judged)} tensors of "
                f"{frameworks} are at most {worst.share:.0%} of their limits ({worst.check}, {place(worst.name)})"
                f"{self._labels_told()}."
            )
        what = "the gradient of " if first.check == "gradients" else ""
        if {finding.contender for finding in beyond} <= {side.name for side in self.sides if not side.other}:
            return (
                f"{self.weights_told}, but {first.contender} differs from PyTorch, first at {what}"
                f"{place(first.name)}: {first.ratio:.3g}x PyTorch's own error, {first.share:.3g}x its limit."
            )
        if first.check == "tables":
            return f"{self.weights_told}; A and B differ in {first.name}, in rows that none of the inputs uses."
        times = f"{first.ratio:.3g}x PyTorch's own error" if first.yardstick else f"error {first.error.norm:.2g}"
        return (
            f"{self.weights_told}; A and B differ, first at {what}{place(first.name)}: {times}, {first.share:.3g}x its "
            f"limit ({first.contender}, {first.case}); {len(beyond)} of {len(findings)} tensors are beyond theirs."
        )

    def _only(self) -> str:
        return ""

    def _labels_told(self) -> str:
        """Whether the labels have other names, where both have a classifier."""
        if "classifier.weight" not in self.problem.weights or self.labels["A"] == self.labels["B"]:
            return ""
        index = next(i for i, name in self.labels["A"].items() if self.labels["B"].get(i) != name)
        names = (repr(self.labels[letter].get(index, "none"))[:100] for letter in "AB")
        return "; the numbers agree, but the names of the labels do not: label {} is {} in A and {} in B".format(
            index, *names
        )

    def _about(self, findings: list[Finding]) -> str:
        """What was compared with what, on which inputs: sentences for people who know none of the words below."""
        where = [self.texts.where] if self.texts else []
        kinds = [case.name for case in self.problem.cases if case.name != inputs.REAL_TEXT]
        frameworks = ", ".join(dict.fromkeys(f.contender for f in findings if f.check != "tables"))
        return (
            f"A is {self.described['A']}. B is {self.described['B']}. Are they the same model, and do they compute the "
            f"same? Their weights were compared, and both were run on the same inputs: {', '.join([*where, *kinds])}. "
            f"Each intermediate number was compared with that of PyTorch in 64 bits. The contenders were {frameworks}."
        )


class Pair(_Verification):
    """Two checkpoints."""

    def __init__(self, a: Checkpoint, b: Checkpoint, settings: Settings, tell: Tell = _silent):
        check_installed(
            "mindspore", "torch", *(["onnxruntime"] if ONNX in (a.source.container, b.source.container) else [])
        )
        super().__init__(settings, tell)
        self.a, self.b = a, b
        self.names = {"A": str(a.source.path), "B": str(b.source.path)}
        self.described = {"A": _described(a), "B": _described(b)}
        config_a, config_b = self._configs()
        self.parts = self._parts()
        names = list(shapes(config_a, self.parts, a.architecture))
        self._check_shapes(names)
        one_config = _without_labels(config_a) == _without_labels(config_b)
        weights = self._weights(names)
        self.same = one_config and all(weights[0][name] is weights[1][name] for name in names)
        self.labels = {"A": _labels(a, config_a), "B": _labels(b, config_b)}
        homes = [one.source.home for one in (a, b) if one.tokenizer]
        tokens = min(config_a.max_position_embeddings, inputs.TOKENS)
        architecture = architecture_of(self.parts, a.architecture)
        masked = ARCHITECTURES[architecture].slots
        self.texts = inputs.read_texts(settings.text, homes, config_a, tokens, masked, self.notes)
        real = [Case(inputs.REAL_TEXT, self.texts.batch)] if self.texts else []
        random = inputs.random_tokens(config_a, inputs.longest(config_a))
        rows = (*real, random, inputs.packed_rows(config_a))
        self.problem, self.problem_b = (
            Problem(_without_labels(config), architecture, values, {}, rows)
            for config, values in zip((config_a, config_b), weights)
        )
        self.sides = [*self._frameworks(), *self._graphs(), *self._transformers("A")]

    def _configs(self) -> tuple[BertConfig, BertConfig]:
        config_a, config_b = self.a.config or self.b.config, self.b.config or self.a.config
        if config_a is None:
            raise UserError(
                f"no config was found beside {self.a.source.path} or {self.b.source.path}; put the model's config.json "
                "there."
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
                self.notes.append(f"{name} is {one} in A's config and {other} in B's: each was run with its own value")
        return config_a, config_b

    def _parts(self) -> tuple[str, ...]:
        """Those that both have, and can be run without the others."""
        a, b = self.a, self.b
        of_a, of_b = ({head.part: head.row for head in ARCHITECTURES[one.architecture].heads} for one in (a, b))
        common_parts = {part for part in a.parts if part in b.parts}
        for part in [part for part in a.parts if part in common_parts and of_a.get(part) != of_b.get(part)]:
            common_parts.remove(part)
            self.notes.append(f"A is a {a.architecture} and B a {b.architecture}: their {part}s are not compared")
        for one, name in ((a, "A"), (b, "B")):
            if others := [part for part in one.parts if part not in b.parts or part not in a.parts]:
                self.notes.append(f"only {name} has {', '.join(others)}: not compared")
        return tuple(_runnable(a, common_parts))

    def _check_shapes(self, names: list[str]) -> None:
        for one, other in ((self.a, self.b), (self.b, self.a)):
            # Where a config is borrowed from the other, nothing else has counted the layers.
            config = one.config or other.config
            if more := [name for name in one.weights if name not in shapes(config, one.parts, one.architecture)]:
                raise UserError(
                    f"{one.source.path} holds {more[0]}, which a model of {config.num_hidden_layers} layers, as "
                    "described by the config, does not have; checkpoints of different sizes cannot be compared."
                )
        _check_tokens(config)
        for name in names:
            one, other = self.a.weights[name].shape, self.b.weights.get(name)
            if other is None or one != other.shape:
                found = "missing" if other is None else tuple(other.shape)
                raise UserError(
                    f"{name} is {tuple(one)} in {self.a.source.path} and {found} in {self.b.source.path}; checkpoints "
                    "of different sizes cannot be compared."
                )

    def _weights(self, names: list[str]) -> tuple[Tensors, Tensors]:
        """Those of A and of B in float32, by a common rounding where they are stored in other dtypes."""
        weights: tuple[Tensors, Tensors] = ({}, {})
        stored: list[dict[str, int]] = [{}, {}]  # how many tensors that the other's dtype cost something, by that dtype
        equal = rounded = 0
        for name in names:
            a, b = (_finite(one, name) for one in (self.a, self.b))
            singles = common(a, b)
            equal += same_bytes(self.a.weights[name], self.b.weights[name])
            alike = np.array_equal(*singles)
            rounded += alike
            for i, own in enumerate((a, b)):
                weights[i][name] = singles[0 if alike else i]  # what is the same is held once
                if not np.array_equal(singles[i], own.astype(np.float32)):
                    dtype = (b, a)[i].dtype.name
                    stored[1 - i][dtype] = stored[1 - i].get(dtype, 0) + 1
        count = f"{len(names)} weights"
        if equal == len(names):
            self.weights_told = f"The {count} are equal byte for byte"
        elif rounded == len(names):
            self.weights_told = f"The {count} are equal up to the rounding of their dtypes"
        else:
            some = len(names) - rounded
            self.weights_told = f"{some} of the {count} differ{'s' * (some == 1)}"
        for name, other, counts in zip("AB", "BA", stored):
            for dtype, number in counts.items():
                self.notes.append(
                    f"{name} stores {number} of {len(names)} tensors in {dtype}: those of {other} were rounded in the "
                    "same way"
                )
        return weights

    def _tables(self) -> list[Finding]:
        """The rows of A's and B's tables of embeddings, of which no input uses all."""
        findings = []
        for name in TABLES:
            one, other = (problem.weights[name].astype(np.float64) for problem in (self.problem, self.problem_b))
            side = Side("weights (B)", "float32", None, self.problem_b)
            nothing = {name: Error(0.0, 0.0)}
            findings += suite.judged("tables", "every row", side, {name: other}, {name: one}, nothing)
            if rows := np.flatnonzero((one != other).any(1)).tolist():
                self.notes.append(f"{name} differs in {len(rows)} of its {len(one)} rows, first in row {rows[0]}")
        return findings

    def _frameworks(self) -> list[Side]:
        """First the yardstick, then what is judged; weights and configs that are the same are computed once."""
        from conversion.agreement.in_torch import PyTorch

        precision, other = self.settings.precision, not self.same
        torch, mindspore = PyTorch(precision), _mindspore(precision, self.settings.device)
        sides = [Side("PyTorch (A)", precision, torch, self.problem)]
        if not self.same:
            sides.append(Side("MindSpore (A)", precision, mindspore[0], self.problem))
            sides.append(Side("PyTorch (B)", precision, torch, self.problem_b, other=True))
        for i, one in enumerate(mindspore):
            # The fused kernels recompute the attention for their gradients, which a model of huge scores makes poor;
            # they are what a model infers by, and their gradients are the agreement suite's.
            sides.append(Side(f"{one.name} (B)", precision, one, self.problem_b, forward_only=i > 0, other=other))
        return sides

    def _graphs(self) -> list[Side]:
        """The ONNX files themselves."""
        from conversion.agreement.in_onnx import Graph

        sides = []
        for one, letter in ((self.a, "A"), (self.b, "B")):
            if one.source.container == ONNX:
                graph = Graph(one.source.path, one.architecture)
                name, other = f"ONNX Runtime ({letter})", letter == "B" and not self.same
                if graph.gives(self.problem):
                    sides.append(Side(name, graph.precision, graph, self.problem, alone=True, other=other))
                else:
                    self.notes.append(f"the graph of {letter} has no output that the other has too: it was not run")
        return sides

    def _only(self) -> str:
        return "" if set(self.parts) == {*self.a.parts, *self.b.parts} else f" on {', '.join(self.parts)}"


class OfGraph(_Verification):
    """A checkpoint and a graph whose weights have no names.

    Args:
        letters: those of the checkpoint and of the graph.
    """

    def __init__(self, model: Checkpoint, graph: Graph, letters: str, settings: Settings, tell: Tell):
        check_installed("mindspore", "torch")
        super().__init__(settings, tell)
        if model.config is None:
            raise UserError(f"no config was found beside {model.source.path}; put the model's config.json there.")
        config, (one, other) = model.config, letters
        _check_tokens(config)
        self.names = {one: str(model.source.path), other: str(graph.path)}
        self.described = {one: _described(model), other: f"{graph.path}, a graph that is run as it is"}
        self.same = False
        self.labels = dict.fromkeys("AB", _labels(model, config))
        parts = _runnable(model, {*model.parts})
        named = list(shapes(config, parts, model.architecture))
        weights = {name: _finite(model, name).astype(np.float32) for name in named}
        self.weights_told = f"The weights of {other} have no names and are not compared"
        longest = tokens = inputs.longest(config)
        if graph.sizes:
            longest = tokens = graph.sizes[1]
        if longest > config.max_position_embeddings or longest < FEWEST_TOKENS:
            raise UserError(
                f"{graph.path} takes rows of {longest} tokens; a comparison with this model needs {FEWEST_TOKENS} to "
                f"{config.max_position_embeddings} tokens; convert it with another --seq-length."
            )
        tokens = tokens if graph.sizes else min(tokens, inputs.TOKENS)
        homes = [model.source.home] if model.tokenizer else []
        architecture = architecture_of(parts, model.architecture)
        masked = ARCHITECTURES[architecture].slots
        self.texts = inputs.read_texts(settings.text, homes, config, tokens, masked, self.notes)
        real = [Case(inputs.REAL_TEXT, self.texts.batch)] if self.texts else []
        rows = (*real, inputs.random_tokens(config, longest))
        self.problem = Problem(config, architecture, weights, {}, rows)
        if not graph.gives(self.problem):
            raise UserError(
                f"{graph.path} has no output that {model.source.path} ({model.architecture}) has too; name the "
                "checkpoint that the graph was made from."
            )
        from conversion.agreement.in_torch import PyTorch

        self.sides = [
            Side(f"PyTorch ({one})", settings.precision, PyTorch(settings.precision), self.problem),
            Side(f"{graph.name} ({other})", graph.precision, graph, self.problem, alone=True, other=True),
            *self._transformers(one),
        ]

    def _gradients(self, case: Case) -> list[Finding]:
        return []  # a graph has none


@functools.lru_cache(maxsize=1)
def _mindspore(precision: str, device: str) -> list[suite.Contender]:
    """Kept, for the graphs that are compiled for one pair serve the next of the same config."""
    from conversion.agreement.in_mindspore import in_graph_mode
    from ms_bert.device import use_device
    from ms_bert.kernels import native

    use_device(device, precision)  # refuses what cannot be, for which nothing that is kept is to be dropped
    if not (found := in_graph_mode(device, precision)):
        reason = native.why_not(precision)
        raise UserError(f"--precision {precision} cannot be verified on this {device} ({reason}); use float32.")
    return found


def _not_judged(finding: Finding, yardstick: Error, side: Side) -> Finding:
    """The finding where no limit means anything; of other weights it is judged if it is beyond what rounding makes."""
    limit = tolerance(finding.check, finding.name, finding.precision).uncapped(yardstick)
    return dataclasses.replace(finding, limit=limit, judged=side.other and not finding.error.within(limit))


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


def place(name: str) -> str:
    """`layer.7.attention.output` as people say it: `layer 7, attention output`; other names as they are."""
    layer = re.fullmatch(r"layer\.(\d+)\.(.+)", name)
    return f"layer {layer[1]}, {layer[2].replace('.', ' ')}" if layer else name


def _runnable(one: Checkpoint, parts: set[str]) -> list[str]:
    """Those of these parts that can be run without the others, in the order of the checkpoint's."""
    lacking = set()
    if "pooler" not in parts:
        lacking = {head.part for head in ARCHITECTURES[one.architecture].heads if head.pooled}
    return [part for part in one.parts if part in parts - lacking]


def _described(one: Checkpoint) -> str:
    layers = one.config.num_hidden_layers if one.config else "some"
    return f"{one.source.path} ({one.architecture} of {layers} layers, {one.source.container})"


def _finite(one: Checkpoint, name: str) -> np.ndarray:
    """A weight as it is stored.

    Raises:
        UserError: it holds what is not finite.
    """
    value = one.weights[name].read()
    if not np.isfinite(value.astype(np.float64)).all():
        raise UserError(
            f"{name} in {one.source.path} holds values that are not finite, so its results cannot be compared; convert "
            "it again from an undamaged checkpoint."
        )
    return value


def _check_tokens(config: BertConfig) -> None:
    if config.max_position_embeddings < FEWEST_TOKENS:
        raise UserError(
            f"max_position_embeddings is {config.max_position_embeddings}, but a comparison needs rows of "
            f"{FEWEST_TOKENS} tokens; compare only the tensors, with python -m conversion diff."
        )


def _labels(one: Checkpoint, config: BertConfig) -> dict[int, str]:
    """The names of a classifier's labels; by Hugging Face's default where the config has none."""
    named = config.id2label or {}
    weight = one.weights.get("classifier.weight")
    count = weight.shape[0] if weight is not None else 0
    return {i: str(named.get(str(i), f"LABEL_{i}")) for i in range(count)}


def _without_labels(config: BertConfig) -> BertConfig:
    """What of a config changes a number."""
    return config.replace(id2label=None, label2id=None, problem_type=None)
