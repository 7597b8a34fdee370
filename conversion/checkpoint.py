"""A checkpoint by canonical names: every tensor of a file accounted for, by the tables, or told as a fault."""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from conversion import configs
from conversion.families import FAMILIES
from conversion.formats import FORMATS
from conversion.names import WORD_EMBEDDINGS, Spelling, recognised
from conversion.parameters import (
    ARCHITECTURES,
    BACKBONE,
    MODULES,
    NEED_POOLER,
    PARTS,
    architecture_of,
    parameters,
    shapes,
)
from conversion.sources import Source, open_source
from conversion.tensors import FLOATS, Tensor, Tensors, same_bytes
from ms_bert.config import BertConfig, default_labels
from ms_bert.errors import UserError

# Scalars of training that may lie beside the weights, and what they are where nothing is said.
SCALARS = {"global_step": None, "updates": None, "loss_scale": 1.0, "good_steps": 0}
TOKENIZER = ("vocab.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
_FAULTS_TOLD = 3  # of each kind, in the message


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A BERT as a checkpoint holds it.

    Attributes:
        source: where it was read. spelling: how its tensors are named there.
        architecture: Hugging Face's class; None where it has the heads of several, which only `any_heads` lets through.
        parts: of `conversion.parameters.PARTS`.
        weights: by canonical names, in Hugging Face's order. moments: Adam's, as m.NAME and v.NAME; may be empty.
        scalars: step, updates, loss_scale, good_steps, where there are moments.
        config: None where nothing beside the checkpoint says it.
        left_out: (name, why) of what is in the file and is no weight.
        notes: what else is to be known of how it was read, and of the config.
        carried: fields of the config that only other libraries read; see `conversion.configs.Described`.
    """

    source: Source
    spelling: Spelling
    architecture: str | None
    parts: tuple[str, ...]
    weights: Tensors
    moments: Tensors
    scalars: dict
    config: BertConfig | None
    left_out: tuple[tuple[str, str], ...]
    notes: tuple[str, ...] = ()
    carried: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def tokenizer(self) -> list[Path]:
        """The tokenizer's files, as far as they lie beside it."""
        return [self.source.home / name for name in TOKENIZER if (self.source.home / name).is_file()]


@dataclasses.dataclass(frozen=True)
class Fault:
    """What is wrong with one tensor; `kind` is 'missing', 'unexpected' or 'wrong'."""

    kind: str
    name: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.name}{self.detail}"


class NotWhole(UserError):
    """The tensors are not those of a BERT; the text tells the first faults of each kind.

    Attributes:
        faults: all of them, a line each.
    """

    def __init__(self, message: str, told: list[str], faults: list[str]):
        super().__init__(message, details=told)
        self.faults = faults


def read(
    path: Path,
    family: str | None = None,
    config: Path | None = None,
    architecture: str | None = None,
    allow_missing: Collection[str] = (),
    drop: Collection[str] = (),
    any_heads: bool = False,
    prefix: str = "",
    rename: Mapping[str, str] | None = None,
) -> Checkpoint:
    """Read a checkpoint of any format; values stay in the file until they are asked for.

    Args:
        family: of names, a key of `conversion.families.FAMILIES`; None: recognised.
        config: a config file or a folder with one; None: the one beside the checkpoint, if any.
        architecture: None: by the config and the tensors.
        allow_missing: parts of the architecture that may be missing. drop: parts to leave out, or 'optimizer'.
        any_heads: whatever heads it has will do, if they are whole, and the optimizer's state is left alone.
        prefix: only the tensors whose names begin with it are read, without it: the one model of several in the file.
        rename: from names of tensors or modules, after the prefix, to other ones: see `conversion.names.renamed`.

    Raises:
        UserError: it cannot be read, or prefix or rename fits no name. NotWhole: its tensors are not those of a BERT.
    """
    source = open_source(path)
    source = source.below(prefix) if prefix else source
    source = source.renamed(rename or {})
    return read_source(source, family, config, architecture, allow_missing, drop, any_heads)


def read_source(
    source: Source,
    family: str | None = None,
    config: Path | None = None,
    architecture: str | None = None,
    allow_missing: Collection[str] = (),
    drop: Collection[str] = (),
    any_heads: bool = False,
) -> Checkpoint:
    """`read` of a source that is open."""
    path = config or configs.find(source.home)
    described = configs.read(path) if path else None
    mapping = _Mapping(source, _spelling(source, family, architecture, described), described)
    if any_heads:
        mapping.moments.clear()
        allow_missing = PARTS
    return mapping.checkpoint(architecture, frozenset(allow_missing), frozenset(drop), any_heads)


class _Mapping:
    """From the file's names to canonical ones, collecting faults."""

    def __init__(self, source: Source, spelling: Spelling, described: configs.Described | None):
        self.source, self.spelling, self.described = source, spelling, described
        self.config = described.config if described else None
        self.layers = spelling.layers(source.tensors)
        self.own = spelling.names(self.layers)  # the file's name by the canonical one
        self.canonical = {own: name for name, own in self.own.items()}
        self.tied = spelling.tied()
        self.notes = [*source.notes, *_prefix_told(spelling), *(described.notes if described else ())]
        self.faults: list[Fault] = []
        self.untied: Fault | None = None  # why the MLM head is none of a BERT
        self.left_out: list[tuple[str, str]] = []
        self.weights: Tensors = {}
        self.moments: Tensors = {}
        self.scalars = dict(SCALARS)
        for name, tensor in source.tensors.items():
            self._place(name, tensor)
        self._widen_vocabulary()
        for name, tensor in source.moments.items():
            moment, _, parameter = name.partition(".")
            if parameter in self.canonical and moment in ("m", "v"):
                self._add_moment(moment, self.canonical[parameter], tensor, name)
            else:
                self.faults.append(Fault("unexpected", name))

    def _add_moment(self, moment: str, canonical: str, tensor: Tensor, name: str) -> None:
        key = f"{moment}.{canonical}"
        if key in self.moments:
            self.faults.append(Fault("unexpected", name, ": another tensor is the same moment of this weight"))
        self.moments[key] = tensor

    def _place(self, name: str, tensor: Tensor) -> None:
        """Put one tensor of the file where it belongs."""
        family = FAMILIES[self.spelling.family]
        bare = name.removeprefix(self.spelling.wrapper)
        if name in self.canonical:
            self._add_weight(name, tensor)
            return
        for patterns in family.moments:
            for moment, pattern in zip(("m", "v"), patterns):
                before, after = pattern.split("{name}")
                inner = name[len(before) : len(name) - len(after)]
                if name.startswith(before) and name.endswith(after) and inner in self.canonical:
                    layout = self.spelling.layout(self.canonical[inner])
                    self._add_moment(moment, self.canonical[inner], layout.undone(tensor) if layout else tensor, name)
                    return
        if name in SCALARS and tensor.size == 1:
            self._add_scalar(name, tensor.read().reshape(-1)[0].item())
        elif name in self.tied and self.own.get(self.tied[name]) in self.source.tensors:
            self._tied(name, tensor, self.own[self.tied[name]])
        elif bare.endswith("position_ids") and any(re.fullmatch(pattern, bare) for pattern in family.ignored):
            if not np.array_equal(tensor.read().reshape(-1), np.arange(tensor.size)):
                self.faults.append(Fault("wrong", name, ": its values are not 0, 1, 2, ..."))
            self.left_out.append((name, "only the numbers 0, 1, 2, ..."))
        elif any(re.fullmatch(pattern, bare) for pattern in family.ignored):
            self.left_out.append((name, "not a weight"))
        elif self.spelling.rows and any(re.fullmatch(pattern, bare) for pattern in family.unused):
            self.left_out.append((name, "the heads of this model use a layer of their own instead"))
        else:
            self.faults.append(Fault("unexpected", name))

    def _add_scalar(self, name: str, value: float) -> None:
        """A counter, which must be a whole number of steps, or the loss scale."""
        if name == "loss_scale":
            sound = math.isfinite(value) and value > 0
        else:
            sound = float(value).is_integer() and 0 <= value < 2**31
            value = int(value) if sound else value
        if not sound:
            self.faults.append(Fault("wrong", name, f": found {value}"))
        self.scalars[name] = value

    def _tied(self, name: str, tensor: Tensor, original: str) -> None:
        other = self.source.tensors[original]
        if same_bytes(tensor, other):
            self.left_out.append((name, f"equal to {original}, which it is tied to"))
        elif tensor.dtype != other.dtype:
            kinds = f"{tensor.dtype.name}, but {original}, which it is tied to, is {other.dtype.name}"
            self.faults.append(Fault("wrong", name, f": found {kinds}"))
        else:
            said = self.described is not None and self.described.untied
            why = (
                "and the config says that tie_word_embeddings is false" if said else "although this model ties the two"
            )
            self.untied = Fault("wrong", name, f": differs from {original}, {why}")

    def _add_weight(self, name: str, tensor: Tensor) -> None:
        layout = self.spelling.layout(self.canonical[name])
        ours = layout.undone(tensor) if layout else tensor
        if layout and layout.lost and ours is not tensor:
            self.left_out.append((name, layout.lost))
        self.weights[self.canonical[name]] = ours

    def _widen_vocabulary(self) -> None:
        """The config's vocabulary as large as the family's code makes it."""
        table, multiple = self.weights.get(WORD_EMBEDDINGS), FAMILIES[self.spelling.family].rows_multiple
        if self.config is None or table is None or not table.shape:
            return
        said, rows = self.config.vocab_size, table.shape[0]
        if rows != said and rows == -(-said // multiple) * multiple:
            self.config = self.config.replace(vocab_size=rows)
            whose = f"the code of {self.spelling.family}"
            self.notes.append(f"vocab_size is {rows}: {whose} pads {said} to a multiple of {multiple}")

    def checkpoint(
        self, demanded: str | None, allowed: frozenset[str], dropped: frozenset[str], any_heads: bool
    ) -> Checkpoint:
        """What was collected, if it is whole; `demanded` is the architecture that the user names."""
        named = self.described.architecture if self.described else None
        part_of = {name: MODULES[module].part for name, (module, _) in parameters(self.layers).items()}
        self._drop(dropped, part_of, demanded)
        if "mlm" not in dropped:
            named = self._without_an_untied_head(named, part_of, any_heads)
        present = {part_of[name] for name in self.weights} | set(BACKBONE)
        architecture = demanded or _architecture(named, present, allowed)
        asked = _needed(demanded or named or architecture) or frozenset()
        needed = set(BACKBONE) | (asked - allowed - dropped)
        for name, part in part_of.items():
            if part in needed | present and name not in self.weights:
                self.faults.append(Fault("missing", self.own.get(name, name)))
            elif demanded and name in self.weights and part not in asked | {*BACKBONE, "pooler"}:
                self.faults.append(Fault("unexpected", self.own[name], f" ({demanded} has no {part}; see --drop)"))
        self._check_dtypes()
        self._check_shapes(present, architecture)
        self._check_moments()
        if architecture is None and not self.faults and not any_heads:
            heads = ", ".join(sorted(present - set(BACKBONE))) or "none"
            raise UserError(
                f"{self.source.path}: no Hugging Face class has this combination of heads: {heads}; leave one out with "
                "--drop."
            )
        if self.faults:
            raise self._not_whole(demanded or named or architecture)
        ordered = {name: self.weights[name] for name in part_of if name in self.weights}
        moments = {f"{k}.{name}": self.moments[f"{k}.{name}"] for k in "mv" for name in ordered if self.moments}
        return Checkpoint(
            self.source,
            self.spelling,
            architecture,
            tuple(part for part in dict.fromkeys(part_of.values()) if part in present),
            ordered,
            moments,
            self._scalars() if moments else {},
            self.config,
            tuple(self.left_out),
            tuple(self.notes),
            self.described.carried if self.described else {},
        )

    def _without_an_untied_head(self, named: str | None, part_of: dict[str, str], any_heads: bool) -> str | None:
        """Leave out an MLM head that has a matrix of its own, where any heads will do; elsewhere it is a fault.

        Returns:
            The architecture that the config names, if that is still to be found.
        """
        own = [name for name in self.weights if part_of[name] == "mlm"]
        if self.untied is None and self.described and self.described.untied and own:
            decoder = next(name for name, of in self.tied.items() if of == WORD_EMBEDDINGS)
            if decoder not in self.source.tensors:
                self.untied = Fault("missing", decoder, ": the config says that tie_word_embeddings is false")
        if self.untied is None:
            return named
        if not any_heads:
            self.faults.append(dataclasses.replace(self.untied, detail=f"{self.untied.detail} (see --drop mlm)"))
            return named
        for name in own:
            del self.weights[name]
        self.left_out.append(("mlm", "it has a matrix of its own, not the word embeddings"))
        return None

    def _drop(self, parts: frozenset[str], part_of: dict[str, str], demanded: str | None) -> None:
        """Leave out what the user asks to, if it is there and nothing that stays needs it."""
        present = {part_of[name] for name in self.weights} | ({"optimizer"} if self.moments else set())
        for part in sorted(parts - present):
            raise UserError(f"{self.source.path} has no {part} to --drop; leave the option out.")
        needing = sorted((present & NEED_POOLER) - parts) if "pooler" in parts else []
        if needing and demanded is None:
            raise UserError(
                f"--drop pooler would leave no input for {' and '.join(needing)}; drop that too, or choose the class "
                "of the result with --architecture."
            )
        for part in sorted(parts - {"optimizer"}):
            names = [name for name in self.weights if part_of[name] == part]
            moments = [key for name in names for key in (f"m.{name}", f"v.{name}") if key in self.moments]
            for name in names:
                del self.weights[name]
            for key in moments:
                del self.moments[key]
            self.left_out.append((part, f"{len(names)} weights and {len(moments)} moments, dropped as asked"))
        if "optimizer" in parts:
            self.moments.clear()
            self.left_out.append(("the optimizer's state", "dropped as asked"))

    def _scalars(self) -> dict:
        if self.source.scalars:
            return dict(self.source.scalars)
        step = self.scalars.pop("global_step")
        updates = self.scalars.pop("updates")
        return {"step": step, "updates": step if updates is None else updates, **self.scalars}

    def _check_dtypes(self) -> None:
        for name, tensor in self.weights.items():
            if tensor.dtype.name not in FLOATS:
                found = f": found {tensor.dtype.name}, expected {', '.join(FLOATS)}"
                self.faults.append(Fault("wrong", self.own[name], found))

    def _check_shapes(self, present: set[str], architecture: str | None) -> None:
        if self.layers == 0:
            self.faults.append(Fault("missing", "the encoder's layers"))
            return
        config = self.config or _config_by_shapes(self.weights, self.layers)
        if config is None:
            return
        classifier = self.weights.get("classifier.weight")
        # A label costs memory: a row of another width, of none even, is no label.
        fits = classifier is not None and classifier.shape[1:] == (config.hidden_size,)
        if fits and config.id2label is None:
            config = config.replace(id2label=default_labels(classifier.shape[0]))
            self.config = config if self.config else None
        if config.num_hidden_layers != self.layers:
            found = f": found {self.layers} layers, the config says {config.num_hidden_layers}"
            self.faults.append(Fault("wrong", "num_hidden_layers", found))
            return
        for name, shape in shapes(config, present, architecture).items():
            for key, tensors in ((name, self.weights), (f"m.{name}", self.moments), (f"v.{name}", self.moments)):
                if key in tensors and tensors[key].shape != shape:
                    found = f": found {tensors[key].shape}, expected {shape}"
                    self.faults.append(Fault("wrong", self.own[name] if key == name else key, found))

    def _check_moments(self) -> None:
        if not self.moments:
            lone = [name for name in SCALARS if self.scalars[name] != SCALARS[name]]
            self.left_out += [(name, "the moments that it would belong to are missing") for name in lone]
            return
        wanted = [f"{k}.{name}" for k in "mv" for name in self.weights]
        remedy = " (moment; see --drop optimizer)"
        self.faults += [Fault("missing", name, remedy) for name in wanted if name not in self.moments]
        extra = self.moments.keys() - set(wanted)
        self.faults += [Fault("unexpected", name, " (moment of a weight that is missing)") for name in sorted(extra)]
        if self.scalars["global_step"] is None and not self.source.scalars:
            self.faults.append(Fault("missing", "global_step", " (the step at which the moments were saved)"))

    def _not_whole(self, architecture: str | None) -> NotWhole:
        """All faults, the missing and the unexpected with the nearest name of the other kind."""
        kinds: dict[str, list[str]] = {"missing": [], "unexpected": [], "wrong": []}
        unexpected = [fault.name for fault in self.faults if fault.kind == "unexpected"]
        missing = [fault.name for fault in self.faults if fault.kind == "missing"]
        for number, fault in enumerate(self.faults):
            others = missing or list(self.canonical) if fault.kind == "unexpected" else unexpected
            # Looking for the nearest of thousands by thousands would take minutes.
            looked_for = fault.kind != "wrong" and number < 100
            near = difflib.get_close_matches(fault.name, others[:2000], n=1, cutoff=0.5) if looked_for else []
            kinds[fault.kind].append(f"{fault}{f' (nearest: {near[0]})' if near else ''}")
        told = [
            f"  {kind:<10} {', '.join(found[:_FAULTS_TOLD])}"
            f"{f' and {len(found) - _FAULTS_TOLD} more' if len(found) > _FAULTS_TOLD else ''}"
            for kind, found in kinds.items()
            if found
        ]
        count, hint = len(self.faults), self._may_be_the_classifier(unexpected)
        message = (
            f"{self.source.path} is not a complete {architecture or 'BERT'} with the names of {self.spelling.family}: "
            f"found {count} fault{'s' * (count > 1)}, which python -m conversion inspect lists; correct the file or "
            f"the config, or see --allow-missing, --architecture, --rename and --from{hint}."
        )
        return NotWhole(message, told, [f"{kind:<10} {fault}" for kind, found in kinds.items() for fault in found])

    def _may_be_the_classifier(self, unexpected: list[str]) -> str:
        """How to read an unexpected layer of a classifier's shape, in half a sentence; '' where there is none."""
        table, own = self.weights.get(WORD_EMBEDDINGS), self.own.get("classifier.weight", "")
        stem, _, leaf = own.rpartition(".")
        if table is None or len(table.shape) != 2 or not stem or "classifier.weight" in self.weights:
            return ""
        for module in (name.removesuffix(f".{leaf}") for name in unexpected if name.endswith(f".{leaf}")):
            shape = self.source.tensors[f"{module}.{leaf}"].shape if f"{module}.{leaf}" in self.source.tensors else ()
            if shape[1:] == table.shape[1:] and f"{module}.bias" in unexpected and "=" not in module:
                return f"; if {module[:100]} is the classifier, use --rename {module[:100]}={stem}"
        return ""


def _architecture(named: str | None, present: set[str], allowed: frozenset[str]) -> str | None:
    """The config's architecture if the parts are its own, else the class that has these parts.

    A file may hold more than its config says: Google's BERTs on the hub are called BertForMaskedLM, and have all heads.
    """
    heads = present - set(BACKBONE)
    needed = _needed(named)
    if needed is not None and needed - allowed <= heads <= needed | {"pooler"}:
        return named
    return architecture_of(heads)


def _needed(architecture: str | None) -> frozenset[str] | None:
    """The parts that a class needs; None: the class is none of Hugging Face's."""
    return ARCHITECTURES[architecture].parts if architecture in ARCHITECTURES else None


def _spelling(
    source: Source, family: str | None, architecture: str | None, described: configs.Described | None
) -> Spelling:
    """How the names of a file are to be read; those of a graph are always Hugging Face's."""
    if source.container == FORMATS["onnx"].name:
        if family not in (None, "hugging-face"):
            raise UserError(f"{source.path}: an ONNX graph has Hugging Face's names, not those of {family}.")
        return Spelling("hugging-face", ("bert.", ""))
    said = architecture or (described.architecture if described else None)
    return recognised(source.path, source.tensors, family, said)


def _prefix_told(spelling: Spelling) -> list[str]:
    """What is said of a prefix that no writer of these names adds."""
    if spelling.wrapper:
        return [f"removed the prefix {spelling.wrapper[:100]!r} that all names share"]
    if spelling.prefix not in FAMILIES[spelling.family].prefixes and spelling.prefix[0]:
        return [f"removed the prefix {spelling.prefix[0][:100]!r} that the names of the encoder share"]
    return []


def _config_by_shapes(weights: Tensors, layers: int) -> BertConfig | None:
    """What the shapes tell, so that they can be checked against each other; the number of heads is made up."""
    table = [weights.get(f"bert.embeddings.{kind}_embeddings.weight") for kind in ("word", "position", "token_type")]
    inner = weights.get("bert.encoder.layer.0.intermediate.dense.weight")
    if not all(tensor is not None and len(tensor.shape) == 2 for tensor in (*table, inner)):
        return None
    return BertConfig(
        vocab_size=table[0].shape[0],
        hidden_size=table[0].shape[1],
        num_hidden_layers=layers,
        num_attention_heads=1,
        intermediate_size=inner.shape[0],
        max_position_embeddings=table[1].shape[0],
        type_vocab_size=table[2].shape[0],
    )
