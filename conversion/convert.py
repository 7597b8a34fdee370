"""From one checkpoint to another: written beside, read back, compared byte by byte, and then renamed."""

from __future__ import annotations

from pathlib import Path

from conversion import companions, placing, writing
from conversion.checkpoint import Checkpoint
from conversion.destination import Destination
from conversion.families import FAMILIES
from conversion.targets import TARGETS, target_of
from conversion.tensors import cast
from conversion.writing import Result, Settings
from ms_bert.errors import UserError

_OPTIONS = ("shard_size", "optimize", "batch_size", "seq_length")  # settings that not every kind of target knows


def convert(source: Checkpoint, path: Path, kind: str | None = None, settings: Settings | None = None) -> Result:
    """Write a checkpoint in another format.

    Args:
        kind: a key of TARGETS; None: by the ending of the path.

    Raises:
        UserError: the format cannot hold the checkpoint, or the target is there already.
        OSError: it cannot be written; then nothing is there that was not there before.
    """
    settings = settings or Settings()
    kind, path = target_of(path, kind)
    target = TARGETS[kind]
    for name in _OPTIONS:
        if getattr(settings, name) != getattr(Settings, name) and name not in target.options:
            raise UserError(f"--{name.replace('_', '-')} has no effect on a {kind} target; leave it out.")
    notes = [*companions.tokenizer_notes(source), *companions.trainer_notes(source), *source.notes]
    notes += [f"left out {name}: {why}" for name, why in source.left_out]
    for family in dict.fromkeys((source.spelling.family, target.family)):
        if FAMILIES[family].computes:
            fixed = " and ".join(FAMILIES[family].computes)
            notes.append(f"the code of {family} computes with {fixed}, whatever the config says")
    weights = {name: cast(name, tensor, settings.dtype) for name, tensor in source.weights.items()}
    result = Result(source, path, kind, weights, dict(source.moments), notes)
    if any(weights[name].dtype != tensor.dtype for name, tensor in source.weights.items()):
        result.leave_out_moments("beside weights whose dtype is changed")
    destination = Destination(source, path, None if target.is_folder else target.format_of(path), settings.overwrite)
    with placing.workplace(path) as place:
        destination.check_free()
        writing.write(result, place.new, settings)
        result.notes.extend(destination.put(place))
    return result
