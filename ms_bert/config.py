"""BertConfig: the shape of a BERT, with the fields and the meaning of Hugging Face's config.json."""

from __future__ import annotations

import dataclasses
import difflib
import json
import os
import typing
from pathlib import Path

from ms_bert.errors import UserError

HIDDEN_ACTS = ("gelu", "gelu_new", "relu")  # erf GELU (the paper's), its tanh form (Google's code), ReLU

# Fields of config.json that other tools write and that change no number here, each with the values under
# which that is true (None: any value). Whatever is not listed and not a field of BertConfig is an error.
_FOREIGN_FIELDS: dict[str, tuple | None] = {
    "model_type": ("bert",),
    "position_embedding_type": ("absolute", None),
    "is_decoder": (False,),
    "is_encoder_decoder": (False,),
    "add_cross_attention": (False,),
    "tie_word_embeddings": (True,),
    "chunk_size_feed_forward": (0,),
    "pruned_heads": ({}, None),
    "pooler_type": ("first_token_transform",),
    "directionality": ("bidi",),
    "output_attentions": None,
    "output_hidden_states": None,
    "return_dict": None,
    "architectures": None,
    "transformers_version": None,
    "torch_dtype": None,
    "dtype": None,
    "torchscript": None,
    "use_cache": None,
    "use_bfloat16": None,
    "gradient_checkpointing": None,
    "attn_implementation": None,
    "finetuning_task": None,
    "bos_token_id": None,
    "eos_token_id": None,
    "sep_token_id": None,
    "cls_token_id": None,
    "tokenizer_class": None,
    "pooler_fc_size": None,
    "pooler_num_attention_heads": None,
    "pooler_num_fc_layers": None,
    "pooler_size_per_head": None,
    "_name_or_path": None,
    "_attn_implementation_autoset": None,
}


@dataclasses.dataclass(frozen=True)
class BertConfig:
    """The shape of a BERT; every field bears Hugging Face's name and default.

    Raises:
        UserError: a value is of the wrong type, out of range, or not supported.
    """

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    pad_token_id: int = 0
    classifier_dropout: float | None = None
    problem_type: str | None = None
    id2label: dict[str, str] | None = None
    label2id: dict[str, int] | None = None

    def __post_init__(self):
        for field, hint in typing.get_type_hints(type(self)).items():
            _check_type(field, getattr(self, field), hint)
        for field in (
            "vocab_size",
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "intermediate_size",
            "max_position_embeddings",
            "type_vocab_size",
        ):
            if getattr(self, field) < 1:
                raise UserError(f"config: {field} is {getattr(self, field)}; it must be at least 1.")
        for field in ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout"):
            if getattr(self, field) is not None and not 0.0 <= getattr(self, field) < 1.0:
                raise UserError(f"config: {field} is {getattr(self, field)}; it must be at least 0 and under 1.")
        if self.hidden_size % self.num_attention_heads:
            raise UserError(
                f"config: hidden_size {self.hidden_size} is not a multiple of num_attention_heads "
                f"{self.num_attention_heads}; choose head counts that divide it."
            )
        if self.hidden_act not in HIDDEN_ACTS:
            raise UserError(f"config: hidden_act is {self.hidden_act!r}; supported are {', '.join(HIDDEN_ACTS)}.")
        if not self.layer_norm_eps > 0 or not self.initializer_range > 0:
            raise UserError(
                "config: layer_norm_eps and initializer_range must be positive, found "
                f"{self.layer_norm_eps} and {self.initializer_range}."
            )
        if not 0 <= self.pad_token_id < self.vocab_size:
            raise UserError(f"config: pad_token_id {self.pad_token_id} is not in a vocabulary of {self.vocab_size}.")

    @property
    def head_size(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def num_labels(self) -> int:
        """Number of labels of a downstream head: that of `id2label`, or 2 as in Hugging Face."""
        return len(self.id2label) if self.id2label else 2

    def replace(self, **changes) -> BertConfig:
        """This config with some fields changed."""
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict:
        """The fields as config.json has them; unset ones are left out."""
        fields = {k: v for k, v in dataclasses.asdict(self).items() if v is not None}
        return {"model_type": "bert", "position_embedding_type": "absolute", **fields}

    @classmethod
    def from_dict(cls, fields: dict, source: str = "config") -> BertConfig:
        """A config from the fields of a config.json.

        Raises:
            UserError: an unknown field, or a value under which the numbers would differ from what is computed here.
        """
        if not isinstance(fields, dict):
            raise UserError(f"{source}: found a {type(fields).__name__}; expected an object with BERT's config fields.")
        known = {f.name for f in dataclasses.fields(cls)}
        own = {}
        for name, value in fields.items():
            if name in known:
                own[name] = value
            elif name == "num_labels":
                if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                    raise UserError(f"{source}: num_labels is {json.dumps(value)}; it must be a number of at least 1.")
                own.setdefault("id2label", {str(i): f"LABEL_{i}" for i in range(int(value))})
            elif name not in _FOREIGN_FIELDS:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"; did you mean {near[0]}?" if near else "; remove it, or use a config.json of a BERT."
                raise UserError(f"{source}: unknown field {name!r}{hint}")
            elif _FOREIGN_FIELDS[name] is not None and value not in _FOREIGN_FIELDS[name]:
                allowed = " or ".join(json.dumps(v) for v in _FOREIGN_FIELDS[name])
                raise UserError(f"{source}: {name} is {json.dumps(value)}; only {allowed} is supported.")
        try:
            return cls(**own)
        except UserError as error:
            raise UserError(f"{source}: {error}") from None

    @classmethod
    def from_json(cls, path: str | os.PathLike) -> BertConfig:
        """Read a config.json, or the config.json of a folder."""
        path = Path(path)
        if path.is_dir():
            path = path / "config.json"
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UserError(f"there is no {path}; name a config.json or a folder that holds one.") from None
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(f"{path} cannot be read as JSON ({error}); name a config.json.") from None
        return cls.from_dict(fields, source=str(path))

    def to_json(self) -> str:
        """The text of a config.json."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n"


def _check_type(field: str, value, hint) -> None:
    """Raise unless the value is of the field's type; an int passes for a float, a bool never for a number."""
    kinds = typing.get_args(hint) or (hint,)
    kinds = tuple(typing.get_origin(kind) or kind for kind in kinds)
    if typing.get_origin(hint) is dict:
        kinds = (dict,)
    fits = isinstance(value, kinds) or (float in kinds and isinstance(value, int))
    if not fits or (isinstance(value, bool) and bool not in kinds):
        wanted = " or ".join("null" if kind is type(None) else kind.__name__ for kind in kinds)
        raise UserError(f"config: {field} is {json.dumps(value, default=str)}; expected {wanted}.")


# Google's sizes: "Well-Read Students Learn Better" (Turc et al., 2019) for tiny to medium, BERT (Devlin et al.,
# 2019) for base and large. A head is always 64 wide.
PRESETS: dict[str, BertConfig] = {
    name: BertConfig(
        num_hidden_layers=layers, hidden_size=hidden, num_attention_heads=hidden // 64, intermediate_size=4 * hidden
    )
    for name, layers, hidden in (
        ("tiny", 2, 128),
        ("mini", 4, 256),
        ("small", 4, 512),
        ("medium", 8, 512),
        ("base", 12, 768),
        ("large", 24, 1024),
    )
}
