"""The config beside a checkpoint: Hugging Face's config.json or Google's bert_config.json, field by field."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ms_bert.config import BertConfig, is_untied, read_fields, remarks, unknown_fields
from ms_bert.errors import UserError, listed, shown

HUGGING_FACE, GOOGLE = "config.json", "bert_config.json"

# What Google's config says; the names are Hugging Face's too.
_GOOGLE_FIELDS = (
    *("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act"),
    *("hidden_dropout_prob", "attention_probs_dropout_prob", "max_position_embeddings", "type_vocab_size"),
    "initializer_range",
)
# What Google's code has fixed: it has no field for it, so that another value cannot be told.
_GOOGLE_FIXED = {"layer_norm_eps": 1e-12, "pad_token_id": 0, "is_decoder": False}
# Google's "gelu" was the erf form when the published weights were trained, and is the tanh form since 2019 (commit
# bee6030). Transformers reads it as erf, and so does everybody who took the weights from there; so it does here.
_GOOGLE_ACTS = ("gelu", "relu")
# Of what fine-tuning adds: it changes no number of the checkpoint, and Google's config has no place for it.
_GOOGLE_LEFT_OUT = ("classifier_dropout", "problem_type", "id2label", "label2id")


@dataclasses.dataclass(frozen=True)
class Described:
    """What a config file says.

    Attributes:
        architecture: the first of `architectures`, or None. notes: sentences, on what is not kept and what was not
        understood. untied: whether the MLM head has a matrix of its own, not the word embeddings. carried: fields that
        other libraries read and that change what they compute, by name, as the file has them.
    """

    config: BertConfig
    architecture: str | None
    notes: tuple[str, ...]
    untied: bool = False
    carried: Mapping[str, Any] = dataclasses.field(default_factory=dict)


# What sentence-transformers' CrossEncoder makes of the logits, by its new and its old name.
_CARRIED = ("sentence_transformers", "sbert_ce_default_activation_function")
# Fields that every config.json written here has again.
_WRITTEN_AGAIN = {"architectures", "model_type", "position_embedding_type", "num_labels", "dtype", "torch_dtype"}


def read(path: Path) -> Described:
    """What a file says, config.json or bert_config.json, or the one in a folder: Google's fields are Hugging Face's."""
    if path.is_dir() and path.name not in (HUGGING_FACE, GOOGLE):
        found = find(path)
        if found is None:
            raise UserError(f"{path} has neither {HUGGING_FACE} nor {GOOGLE}; name a config with --config.")
        path = found
    fields = read_fields(path)
    config = BertConfig.from_dict(fields, source=str(path), untied=True)
    named = fields.get("architectures")
    first = named[0] if isinstance(named, list) and named and isinstance(named[0], str) else None
    carried = {name: fields[name] for name in _CARRIED if name in fields and _is_json(fields[name])}
    kept = {field.name for field in dataclasses.fields(BertConfig)} | _WRITTEN_AGAIN | set(unknown_fields(fields))
    left_out = [name for name in fields if name not in kept and name not in carried]
    notes = [f"left out of the config, without effect on the results: {listed(left_out)}"] if left_out else []
    return Described(config, first, (*notes, *remarks(fields)), is_untied(fields), carried)


def _is_json(value: Any) -> bool:
    """Whether it can be written again: Python reads NaN, which JSON has not."""
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        return False
    return True


def find(folder: Path) -> Path | None:
    """The config file of a folder, readable or not: one that cannot be read is not as good as none."""
    return next((folder / name for name in (HUGGING_FACE, GOOGLE) if os.path.lexists(folder / name)), None)


def hugging_face(config: BertConfig, architecture: str, dtypes: set[str], carried: Mapping[str, Any]) -> bytes:
    """The text of a config.json for weights of these dtypes; where they are several, none is named.

    Args:
        carried: see `Described`.
    """
    fields = {"architectures": [architecture], **config.to_dict(), **carried}
    if len(dtypes) == 1 and dtypes != {"float32"}:
        fields["dtype"] = min(dtypes)
    return (json.dumps(fields, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def google(config: BertConfig) -> tuple[bytes, list[str]]:
    """The text of a bert_config.json, and the fields that it has no place for and that change no number.

    Raises:
        UserError: a field that changes numbers cannot be said there.
    """
    fields = config.to_dict()
    for name, value in _GOOGLE_FIXED.items():
        if getattr(config, name) != value:
            raise UserError(
                f"{name} is {shown(getattr(config, name))}, but Google's BERT always has {shown(value)}; a TensorFlow "
                "checkpoint of this model would compute something else, so convert it to another format."
            )
    if config.hidden_act not in _GOOGLE_ACTS:
        raise UserError(
            f"hidden_act is {config.hidden_act}, but {GOOGLE} can only say {' or '.join(_GOOGLE_ACTS)}; convert to "
            "another format, or set hidden_act with --config if the difference does not matter to you."
        )
    left_out = [name for name in _GOOGLE_LEFT_OUT if name in fields]
    return (json.dumps({name: fields[name] for name in _GOOGLE_FIELDS}, indent=2) + "\n").encode(), left_out
