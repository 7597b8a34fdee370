"""The names of one file: found among those that it has, by the tables of `conversion.families`, and written.

A file may bear its names below any prefix of its own, as wrapping a model in another adds it; that is found where the
word embeddings are.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from conversion.families import FAMILIES
from conversion.layouts import Layout
from conversion.parameters import MODULES, architecture_of, parameters
from conversion.tensors import Tensors
from ms_bert.errors import UserError

WORD_EMBEDDINGS = "bert.embeddings.word_embeddings.weight"
_QUERY = "bert.encoder.layer.{i}.attention.self.query"  # by which layers are counted
_DEEPEST = 16  # modules around a model: each place to split them is looked at


@dataclasses.dataclass(frozen=True)
class Spelling:
    """The names of one file.

    Attributes:
        prefix: what stands for {bert} and {cls}. wrapper: what stands before all of it.
        rows: modules that its heads call otherwise. architecture: the class that has them, where that says something.
    """

    family: str
    prefix: tuple[str, str]
    wrapper: str = ""
    rows: Mapping[str, str] = dataclasses.field(default_factory=dict)
    architecture: str | None = None

    def names(self, layers: int, parts: Iterable[str] | None = None) -> dict[str, str]:
        """The file's name of every canonical parameter of these parts, or of all, that the family can hold."""
        family = FAMILIES[self.family]
        modules = {**family.modules, **self.rows}
        named = {}
        for canonical, (module, leaf) in parameters(layers, parts).items():
            if module in modules:
                stem = self._filled(modules[module], canonical.split(".")[3] if "{i}" in module else "")
                own = "" if module in family.bare else family.leaves[MODULES[module].kind][leaf]
                separator = family.separator if own and stem else ""
                named[canonical] = f"{stem}{separator}{own}"
        return named

    def tied(self) -> dict[str, str]:
        """The file's names of what it stores a second time, and the canonical name of each."""
        return {self._filled(name): canonical for name, canonical in FAMILIES[self.family].tied.items()}

    def layers(self, names: Iterable[str]) -> int:
        """How many layers these names of the file speak of."""
        before = self._filled(FAMILIES[self.family].modules[_QUERY].partition("{i}")[0])
        return 1 + max((_number(name[len(before) :]) for name in names if name.startswith(before)), default=-1)

    def layout(self, canonical: str) -> Layout | None:
        """How a canonical parameter is stored; None: as here."""
        layouts = FAMILIES[self.family].layouts
        stem, _, leaf = re.sub(r"\.layer\.\d+\.", ".layer.{i}.", canonical).rpartition(".")
        return layouts.get(f"{stem}.{leaf}", layouts.get(f"{MODULES[stem].kind}.{leaf}"))

    def _filled(self, name: str, index: str = "") -> str:
        bert, cls = self.prefix
        return self.wrapper + name.format(bert=bert, cls=cls, i=index)


def _number(text: str) -> int:
    """The layer that a name goes on with, -1 for none."""
    digits = re.match(r"\d{1,4}(?!\d)", text)
    return int(digits[0]) if digits else -1


def written(family: str, architecture: str | None) -> Spelling:
    """The spelling in which a family's own writer stores an architecture."""
    prefixes, heads = FAMILIES[family].prefixes, FAMILIES[family].heads
    bare = architecture == "BertModel" and FAMILIES[family].bare_encoder
    own = next((head for head in heads if head[0] == architecture), heads[0] if heads else (None, {}))
    return Spelling(family, ("", "") if bare else prefixes[0], rows=own[1], architecture=own[0])


def recognised(path: Path, tensors: Tensors, family: str | None, architecture: str | None) -> Spelling:
    """How the names of these tensors, those of a file, are to be read.

    Args:
        family: None: any. architecture: what the user or the config says; None: nobody does.

    Raises:
        UserError: there is no word embedding among them, or several; or two classes have these names.
    """
    families = [family] if family else tuple(FAMILIES)
    several = models(tensors, families)
    if len(several) > 1:
        listed = ", ".join(repr(prefix[:100]) for prefix in several[:5])
        raise UserError(
            f"{path} holds {len(several)} models, whose names begin with {listed}; choose one by its prefix, for "
            f"example --prefix {several[-1][:100]}"
        )
    found = spellings(tensors, families, architecture)
    found = [spelling for spelling in found if _may_have(spelling, tensors)] or found
    if len(found) > 1:
        classes = " or ".join(spelling.architecture or "another class" for spelling in found)
        raise UserError(
            f"{path}: with the names of {found[0].family} this may be a {classes}, whose heads have the same names; "
            "say which with --architecture."
        )
    if found:
        return found[0]
    some = ", ".join(list(tensors)[:3])
    wanted = ", ".join(
        dict.fromkeys(
            Spelling(name, FAMILIES[name].prefixes[0]).names(0, ["embeddings"])[WORD_EMBEDDINGS] for name in families
        )
    )
    raise UserError(
        f"{path} holds {len(tensors)} tensors ({some}, ...), but no word embeddings with any known name ({wanted}); it "
        "is not a BERT, or its naming scheme is not known."
    )


def _may_have(spelling: Spelling, tensors: Tensors) -> bool:
    """Whether heads of two outputs have two, as far as they are there."""
    names = spelling.names(0)
    heads = [names[head] for head in ("cls.seq_relationship.bias", "qa_outputs.bias") if head in names]
    return all(tensors[name].shape == (2,) for name in heads if name in tensors)


def spellings(
    names: Collection[str], families: Iterable[str] = tuple(FAMILIES), architecture: str | None = None
) -> list[Spelling]:
    """The spellings that the word embeddings have among these names, the best first.

    The best knows most of the names; then it is one of the class `architecture`, then of a family's own prefixes. Of
    two that know the same names, and call them otherwise, both are given, unless `architecture` decides.
    """
    names = set(names)
    found = []
    for family in families:
        for spelling in _candidates(family, names):
            own = spelling.names(spelling.layers(names))
            known = {canonical: name for canonical, name in own.items() if name in names}
            rank = (
                -len(known),
                spelling.architecture != architecture,
                bool(spelling.rows) and architecture_of({_part(canonical) for canonical in known}) is None,
                spelling.prefix not in FAMILIES[family].prefixes,
            )
            found.append((rank, known, spelling))
    found.sort(key=lambda one: one[0])
    best: list[Spelling] = []
    seen: list[dict[str, str]] = []
    for rank, known, spelling in found:
        if rank[:3] == found[0][0][:3] and known not in seen and (not best or spelling.family == best[0].family):
            best.append(spelling)
            seen.append(known)
    return best


def _part(canonical: str) -> str:
    return MODULES[re.sub(r"\.layer\.\d+\.", ".layer.{i}.", canonical).rpartition(".")[0]].part


def _candidates(family: str, names: set[str]) -> list[Spelling]:
    """Every way to read the prefixes that the word embeddings of a family have among these names."""
    description = FAMILIES[family]
    found = []
    for whole in _prefixes(family, names):
        pieces = whole.split(description.separator)
        for number in range(min(len(pieces), _DEEPEST)):
            wrapper = "".join(f"{piece}{description.separator}" for piece in pieces[:number])
            bert = whole[len(wrapper) :]
            for cls in dict.fromkeys(cls for _, cls in sorted(description.prefixes, key=lambda pair: pair[0] != bert)):
                for architecture, rows in ((None, {}), *description.heads):
                    found.append(Spelling(family, (bert, cls), wrapper, rows, architecture))
    return found


def models(names: Collection[str], families: Iterable[str] = tuple(FAMILIES)) -> list[str]:
    """A prefix for each model that these names speak of, as far as it is none of a family's own."""
    found = set()
    for family in families:
        own = sorted((bert for bert, _ in FAMILIES[family].prefixes), key=len)
        for whole in _prefixes(family, names):
            inner = max((bert for bert in own if whole.endswith(bert) and bert != whole), default="", key=len)
            found.add(whole.removesuffix(inner))
    return sorted(found)


def _prefixes(family: str, names: Collection[str]) -> list[str]:
    """What stands before a family's word embeddings, those of moments and gradients aside."""
    description = FAMILIES[family]
    stem = Spelling(family, ("", "")).names(0, ["embeddings"])[WORD_EMBEDDINGS]
    found = []
    for name in names:
        whole = name.removesuffix(stem)
        if not name.endswith(stem) or (whole and not whole.endswith(description.separator)):
            continue
        if _weight_of(name, names) == name and not any(re.fullmatch(pattern, name) for pattern in _IGNORED):
            found.append(whole)
    return found


_IGNORED = {pattern for family in FAMILIES.values() for pattern in family.ignored}
_BEFORE_MOMENTS = {
    pattern.partition("{name}")[0] for family in FAMILIES.values() for pair in family.moments for pattern in pair
} - {""}


def _weight_of(name: str, names: Collection[str]) -> str:
    """The weight that a moment belongs to, by its name; any other name is its own."""
    for before in _BEFORE_MOMENTS:
        if name.startswith(before) and name[len(before) :] in names:
            return name[len(before) :]
    return name


def is_below(name: str, module: str) -> bool:
    """Whether a tensor is this one, or one within this module; a separator at the end of a module is as none."""
    module = module.rstrip("./")
    return name == module or name.startswith((f"{module}.", f"{module}/"))


def renamed(names: Collection[str], rules: Mapping[str, str]) -> dict[str, str]:
    """The new name of each of these names.

    Args:
        rules: from the name of a tensor, or of a module around tensors, to another one; '' takes the module away. The
            first that fits a name is taken, and the moments of a weight are renamed with it.

    Raises:
        UserError: a rule fits no name, or two names would become one.
    """
    names = dict.fromkeys(names)
    modules = {old.rstrip("./"): new.rstrip("./") for old, new in rules.items()}
    used, found = set(), {}
    for name in names:
        weight = _weight_of(name, names)
        rule = next((old for old in modules if is_below(weight, old)), None)
        used.add(rule)
        other = weight if rule is None else modules[rule] + weight[len(rule) :]
        found[name] = name.removesuffix(weight) + (other if rule is None or modules[rule] else other[1:])
    for old in modules:
        if old not in used:
            tops = ", ".join(repr(top[:100]) for top in list(dict.fromkeys(re.split("[./]", n)[0] for n in names))[:5])
            raise UserError(f"--rename {old[:100]!r}=...: no tensor has this name; the names begin with {tops}.")
    taken: dict[str, str] = {}
    for old, new in found.items():
        if new in taken:
            both = f"{taken[new][:100]!r} and {old[:100]!r}"
            raise UserError(f"--rename gives the name {new[:100]!r} to both {both}; give them different names.")
        taken[new] = old
    return found


def count_layers(names: Iterable[str]) -> int:
    """How many layers these canonical names speak of."""
    return 1 + max((int(name.split(".")[3]) for name in names if name.startswith("bert.encoder.layer.")), default=-1)
