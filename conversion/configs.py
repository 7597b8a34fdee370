"""The config beside a checkpoint: Hugging Face's config.json or Google's bert_config.json, field by field."""

from __future__ import annotations

import json
from pathlib import Path

from ms_bert.config import BertConfig
from ms_bert.errors import UserError

HUGGING_FACE, GOOGLE = "config.json", "bert_config.json"

# What Google's config says; the names are Hugging Face's too.
_GOOGLE_FIELDS = (
    *("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act"),
    *("hidden_dropout_prob", "attention_probs_dropout_prob", "max_position_embeddings", "type_vocab_size"),
    "initializer_range",
)
# What Google's code has fixed: it has no field for it, so that another value cannot be told.
_GOOGLE_FIXED = {"layer_norm_eps": 1e-12, "pad_token_id": 0}
# Google's "gelu" was the erf form in 2018 and is the tanh form since 2019. Transformers reads it as erf whenever the
# checkpoint is from, and so does everybody who took the published weights from there; so that is what it means here.
_GOOGLE_ACTS = ("gelu", "relu")
# Of what fine-tuning adds: it changes no number of the checkpoint, and Google's config has no place for it.
_GOOGLE_LEFT_OUT = ("classifier_dropout", "problem_type", "id2label", "label2id")


def read(path: Path) -> BertConfig:
    """The config in a file: Google's if it is named so, else Hugging Face's."""
    if path.is_dir():
        found = find(path)
        if found is None:
            raise UserError(f"{path} has neither {HUGGING_FACE} nor {GOOGLE}; name a config with --config.")
        return read(found)
    return BertConfig.from_json(path)


def find(folder: Path) -> Path | None:
    """The config file of a folder."""
    return next((folder / name for name in (HUGGING_FACE, GOOGLE) if (folder / name).is_file()), None)


def hugging_face(config: BertConfig, architecture: str, dtype: str) -> bytes:
    """The text of a config.json."""
    fields = {"architectures": [architecture], **config.to_dict()}
    if dtype != "float32":
        fields["dtype"] = dtype
    return (json.dumps(fields, indent=2, ensure_ascii=False) + "\n").encode()


def google(config: BertConfig) -> tuple[bytes, list[str]]:
    """The text of a bert_config.json, and the fields that it has no place for and that change no number.

    Raises:
        UserError: a field that changes numbers cannot be said there.
    """
    fields = config.to_dict()
    for name, value in _GOOGLE_FIXED.items():
        if fields[name] != value:
            raise UserError(
                f"{name} is {fields[name]}, and Google's BERT has {value} without a field for it; a TensorFlow "
                "checkpoint of this model would compute other numbers, so convert it to another format."
            )
    if config.hidden_act not in _GOOGLE_ACTS:
        raise UserError(
            f"hidden_act is {config.hidden_act}, and {GOOGLE} can say {' or '.join(_GOOGLE_ACTS)} only; convert to "
            "another format, or set hidden_act by --config if the difference is nothing to you."
        )
    left_out = [name for name in _GOOGLE_LEFT_OUT if name in fields]
    return (json.dumps({name: fields[name] for name in _GOOGLE_FIELDS}, indent=2) + "\n").encode(), left_out


def architecture(path: Path) -> str | None:
    """The first entry of `architectures` in a config file, if it has any."""
    try:
        return (json.loads(path.read_text(encoding="utf-8")).get("architectures") or [None])[0]
    except (OSError, ValueError, AttributeError, TypeError, KeyError):
        return None
