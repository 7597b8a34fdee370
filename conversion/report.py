"""What `inspect` and `diff` tell: the content of a checkpoint, and how two of them differ."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from conversion import checkpoint, configs
from conversion.checkpoint import Checkpoint
from conversion.sources import Source
from conversion.tensors import Tensor, Tensors, same_bytes
from ms_bert.errors import UserError


def inspect(source: Source, family: str | None = None, config: Path | None = None) -> dict:
    """What a file holds, by its own names, and what that is: JSON values.

    A file whose tensors are not those of a BERT is told all the same, with what is wrong under `not_a_bert`.
    """
    told = {
        "path": str(source.path),
        "container": source.container,
        "tensors": [
            {"name": name, "shape": list(tensor.shape), "dtype": tensor.dtype.name}
            for name, tensor in (source.tensors | source.moments).items()
        ],
        "bytes": sum(tensor.nbytes for tensor in (source.tensors | source.moments).values()),
    }
    try:
        found = checkpoint.read_source(source, family, config)
    except UserError as error:
        described = configs.find(source.home)
        why = "\n".join([str(error).partition("\n")[0], *getattr(error, "faults", [])])
        return told | {"not_a_bert": why, "config": str(described) if described else None}
    return told | {
        "names": found.spelling.family,
        "architecture": found.architecture,
        "parts": list(found.parts),
        "parameters": sum(tensor.size for tensor in found.weights.values()),
        "dtypes": sorted({tensor.dtype.name for tensor in found.weights.values()}),
        "optimizer": found.scalars or None,
        "notes": list(found.notes),
        "no_weights": [{"name": name, "why": why} for name, why in found.left_out],
        "config": found.config.to_dict() if found.config else None,
    }


def diff(a: Checkpoint, b: Checkpoint) -> dict:
    """How two checkpoints differ, tensor by tensor and field by field: JSON values.

    Equal means equal bytes. Where shapes agree and bytes do not, the differences are taken in float64: `largest` of
    the absolute ones, `relative` their norm over that of a (null beyond float64); NaN and infinities count as
    `not_finite` where they differ.
    """
    first, second = a.weights | a.moments, b.weights | b.moments
    differing = [
        {"name": name, **_difference(first[name], second[name])}
        for name in first
        if name in second and not same_bytes(first[name], second[name])
    ]
    fields = {name: (side.to_dict() if side else {}) for name, side in (("a", a.config), ("b", b.config))}
    scalars = {"a": a.scalars, "b": b.scalars}
    return {
        "a": str(a.source.path),
        "b": str(b.source.path),
        "equal": sum(name in second for name in first) - len(differing),
        "differing": differing,
        "only_in_a": [name for name in first if name not in second],
        "only_in_b": [name for name in second if name not in first],
        "config": _unequal(fields) if a.config and b.config else [],
        "scalars": _unequal(scalars) if a.scalars and b.scalars else [],
    }


def same(told: dict) -> bool:
    """Whether a diff found nothing."""
    return not any(told[key] for key in ("differing", "only_in_a", "only_in_b", "config", "scalars"))


def _unequal(sides: dict[str, dict]) -> list[dict]:
    a, b = sides["a"], sides["b"]
    return [{"name": key, "a": a.get(key), "b": b.get(key)} for key in {**a, **b} if a.get(key) != b.get(key)]


def _difference(a: Tensor, b: Tensor) -> dict:
    kinds = {"a": f"{a.dtype.name} {list(a.shape)}", "b": f"{b.dtype.name} {list(b.shape)}"}
    if a.shape != b.shape:
        return kinds
    x, y = a.read().reshape(-1).astype(np.float64), b.read().reshape(-1).astype(np.float64)
    finite = np.isfinite(x) & np.isfinite(y)
    with np.errstate(invalid="ignore", over="ignore"):
        delta = np.abs(x[finite] - y[finite])
        other = int((~finite & ~((x == y) | (np.isnan(x) & np.isnan(y)))).sum())
        norm, largest = float(np.linalg.norm(x[finite])), float(delta.max(initial=0.0))
        relative = float(np.linalg.norm(delta)) / norm if norm else math.nan
    return kinds | {
        "values": int((delta > 0).sum()),
        "largest": largest if math.isfinite(largest) else None,
        "relative": relative if math.isfinite(relative) else None,
        "not_finite": other,
    }


def inspection_text(told: dict) -> str:
    """An inspection for people."""
    width = max((len(tensor["name"]) for tensor in told["tensors"]), default=0)
    lines = [f"{told['path']}: {told['container']}, {len(told['tensors'])} tensors, {told['bytes']:,} bytes"]
    if "not_a_bert" in told:
        lines.append(f"not a BERT: {told['not_a_bert']}")
    else:
        lines.append(
            f"{told['architecture']} ({', '.join(told['parts'])}), {told['parameters']:,} parameters in "
            f"{', '.join(told['dtypes'])}, names of {told['names']}"
        )
        if told["optimizer"]:
            lines.append("optimizer: " + ", ".join(f"{name} {value}" for name, value in told["optimizer"].items()))
        if told["config"]:
            lines.append("config: " + ", ".join(f"{name} {value}" for name, value in told["config"].items()))
        else:
            lines.append("config: none found")
        lines += told["notes"]
        lines += [f"not a weight: {entry['name']} ({entry['why']})" for entry in told["no_weights"]]
    lines += [f"  {t['name']:<{width}}  {t['dtype']:<8} {tuple(t['shape'])}" for t in told["tensors"]]
    return "\n".join(lines)


def diff_text(told: dict) -> str:
    """A diff for people: one line where all is equal."""
    if same(told):
        return f"{told['a']} and {told['b']} are equal: {told['equal']} tensors, byte for byte"
    lines = [f"{told['a']} and {told['b']} differ; {told['equal']} tensors are equal"]
    for entry in told["differing"]:
        if "values" not in entry:
            lines.append(f"  {entry['name']}: {entry['a']} against {entry['b']}")
            continue
        relative = f", relative {entry['relative']:.2e}" if entry["relative"] is not None else ""
        kinds = f" ({entry['a']} against {entry['b']})" if entry["a"] != entry["b"] else ""
        odd = f", {entry['not_finite']} not finite" if entry["not_finite"] else ""
        if not entry["values"] and not odd:
            lines.append(f"  {entry['name']}: only bits differ, as in -0.0 against 0.0 or NaN against NaN{kinds}")
            continue
        largest = f"{entry['largest']:.2e}" if entry["largest"] is not None else "more than float64 can hold"
        differ = "value differs" if entry["values"] == 1 else "values differ"
        lines.append(f"  {entry['name']}: {entry['values']} {differ} by up to {largest}{relative}{odd}{kinds}")
    lines += [f"  only in {side}: {name}" for side in "ab" for name in told[f"only_in_{side}"]]
    for kind in ("config", "scalars"):
        lines += [f"  {kind} {entry['name']}: {entry['a']} against {entry['b']}" for entry in told[kind]]
    return "\n".join(lines)


def totals(tensors: Tensors) -> str:
    """`46 tensors, 1,552,898 parameters, float32`."""
    dtypes = ", ".join(sorted({tensor.dtype.name for tensor in tensors.values()}))
    return f"{len(tensors)} tensors, {sum(tensor.size for tensor in tensors.values()):,} parameters, {dtypes}"
