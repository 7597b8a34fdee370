"""BertConfig: the shape of a BERT, with the fields and the meaning of Hugging Face's config.json."""

from __future__ import annotations

import dataclasses
import difflib
import json
import os
import re
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

from ms_bert import fields as checked
from ms_bert.errors import UserError, listed, shown
from ms_bert.fields import Range

HiddenAct = Literal["gelu", "gelu_new", "relu"]  # erf GELU (the paper's), its tanh form (Google's code), ReLU

# Transformers' other names of the same functions. Its tanh forms differ in how they round, and gelu_fast in the
# twelfth digit of a constant: less than float32 holds.
_SAME_ACTS = {
    "gelu_python": "gelu",
    "gelu_fast": "gelu_new",
    "gelu_accurate": "gelu_new",
    "gelu_pytorch_tanh": "gelu_new",
    "gelu_python_tanh": "gelu_new",
}

# Operations count the values of a tensor in 32 bits; the largest matrix of a published BERT has a fifth of these.
_MOST_VALUES = 2**31 - 1
_MATRICES = (
    ("vocab_size", "hidden_size"),
    ("max_position_embeddings", "hidden_size"),
    ("type_vocab_size", "hidden_size"),
    ("hidden_size", "hidden_size"),
    ("intermediate_size", "hidden_size"),
)
_Size = Annotated[int, Range(1, _MOST_VALUES)]
_Dropout = Range(0, 0.999)  # what is kept is divided by the rest
_LEAST = 1e-38  # what is less is 0 in float32

# A label without a name gets one, so that their number must be bounded; classifiers of more are not BERT's own.
_MOST_LABELS = 100_000

# Without them and without a model_type nothing says that a file is a BERT's config. Whatever ever wrote one wrote them.
_SIZES = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")

# Fields under which numbers or shapes would be others than those computed here, and the values that change nothing;
# null and an empty object change nothing anywhere. Some stand in files of other models that call themselves a BERT.
_ONLY: dict[str, tuple] = {
    "position_embedding_type": ("absolute",),
    "add_cross_attention": (False,),
    "tie_word_embeddings": (True,),
    "is_encoder_decoder": (False,),
    "pruned_heads": (),
    "quantization_config": (),
    "per_layer_config": (),
    "directionality": ("bidi",),
    "pool_act": ("tanh",),  # PaddleNLP
    "alibi_starting_size": (),  # MosaicBERT, DNABERT-2
    "feed_forward_type": ("original",),  # Jina
    "use_relative_position": (False,),  # NEZHA
    "max_relative_position": (),
    "num_hidden_groups": (),  # ALBERT
    "rotary_value": (),  # RoFormer
    "rotary_emb_fraction": (0,),  # Nomic
    "rope_theta": (),
    "rope_scaling": (),
    "rope_parameters": (),
    "prenorm": (False,),
    "use_rms_norm": (False,),
    "attention_window": (),  # Longformer
}
# Widths that are a BERT's hidden_size, and another model's are not: ELECTRA, ALBERT, TinyBERT's code.
_AS_HIDDEN_SIZE = ("embedding_size", "emb_size")

# How transformers calls the classes of a model. RoBERTa has BERT's sizes, and its files of 2019 no model_type.
_OF_TRANSFORMERS = re.compile(r"\['(TF|Flax)?(?P<model>[A-Za-z]+?)(For|LMHead|Model)")

# Fields that change no number here, whatever they say: what transformers from 2.0 to 5 and the tools around it write.
_WITHOUT_EFFECT = frozenset(
    """
    architectures transformers_version transformers_weights torch_dtype dtype auto_map custom_pipelines
    name_or_path _name_or_path _commit_hash name language vocab_size_or_config_json_file tokenizer_class prefix
    bos_token_id eos_token_id eos_token_ids sep_token_id cls_token_id mask_token_id unk_token_id
    decoder_start_token_id output_attentions output_hidden_states output_past output_scores return_dict
    return_dict_in_generate use_cache torchscript use_bfloat16 tf_legacy_loss xla_device gradient_checkpointing
    chunk_size_feed_forward tie_encoder_decoder cross_attention_hidden_size attn_implementation
    _attn_implementation _attn_implementation_autoset _attn_implementation_internal experts_implementation
    _experts_implementation _experts_implementation_internal num_labels _num_labels finetuning_task
    task_specific_params classifier_dropout_prob pooler_type pooler_fc_size pooler_num_attention_heads
    pooler_num_fc_layers pooler_size_per_head sbert_ce_default_activation_function sentence_transformers
    max_length min_length do_sample early_stopping num_beams num_beam_groups diversity_penalty temperature top_k
    top_p typical_p epsilon_cutoff eta_cutoff repetition_penalty encoder_repetition_penalty length_penalty
    no_repeat_ngram_size encoder_no_repeat_ngram_size bad_words_ids num_return_sequences forced_bos_token_id
    forced_eos_token_id remove_invalid_values exponential_decay_length_penalty suppress_tokens
    begin_suppress_tokens num_assistant_tokens num_assistant_tokens_schedule assistant_confidence_threshold
    assistant_lookbehind target_lookbehind
    """.split()
)

# Far more than any config has; a file of another kind is not looked through for long.
_MOST_BYTES, _MOST_FIELDS = 64 * 2**20, 1000

_CONFIG = "config.json"


@dataclasses.dataclass(frozen=True)
class BertConfig:
    """The shape of a BERT; every field bears Hugging Face's name and default.

    Attributes:
        pad_token_id: None where there is no padding; no number depends on it.
        is_decoder: a token attends to those before it and itself only, as in a left-to-right language model.
        id2label: names of a downstream head's labels, by "0", "1", ... label2id: the same the other way round.

    Raises:
        UserError: values are of the wrong type, out of range, or not supported; all of them are told.
    """

    vocab_size: _Size = 30522
    hidden_size: _Size = 768
    num_hidden_layers: Annotated[int, Range(1, 1024)] = 12
    num_attention_heads: _Size = 12
    intermediate_size: _Size = 3072
    hidden_act: HiddenAct = "gelu"
    hidden_dropout_prob: Annotated[float, _Dropout] = 0.1
    attention_probs_dropout_prob: Annotated[float, _Dropout] = 0.1
    max_position_embeddings: _Size = 512
    type_vocab_size: _Size = 2
    initializer_range: Annotated[float, Range(_LEAST, 1000)] = 0.02
    layer_norm_eps: Annotated[float, Range(_LEAST, 1)] = 1e-12
    pad_token_id: Annotated[int | None, Range(0, _MOST_VALUES)] = 0
    classifier_dropout: Annotated[float | None, _Dropout] = None
    is_decoder: bool = False
    problem_type: str | None = None
    id2label: dict[str, str] | None = None
    label2id: dict[str, int] | None = None

    def __post_init__(self):
        if faults := _faults(vars(self)):
            raise _refusal("config", faults)

    @property
    def head_size(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def num_labels(self) -> int:
        """Number of labels of a downstream head: that of `id2label`, or 2 as in Hugging Face."""
        return len(self.id2label) if self.id2label else 2

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of a downstream head's labels, by their numbers."""
        return tuple((self.id2label or default_labels(self.num_labels)).values())

    def with_dropout(self, rate: float | None) -> BertConfig:
        """This config with the rate for hidden states and attention probabilities; None: with its own."""
        return self if rate is None else self.replace(hidden_dropout_prob=rate, attention_probs_dropout_prob=rate)

    def replace(self, **changes) -> BertConfig:
        """This config with some fields changed."""
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict:
        """The fields as config.json has them; those that are unset by default are left out where they are."""
        unset = {name: value for name, value in _DEFAULTS.items() if value is None or value is False}
        fields = {k: v for k, v in dataclasses.asdict(self).items() if k not in unset or v is not unset[k]}
        return {"model_type": "bert", "position_embedding_type": "absolute", **fields}

    @classmethod
    def from_dict(cls, fields: dict, source: str = "config", untied: bool = False) -> BertConfig:
        """A config from the fields of a config.json, whatever version of transformers wrote it.

        Fields that are not known are let through, for they say nothing about what is computed here; see `remarks`.

        Args:
            source: for messages. untied: let tie_word_embeddings be false: see `is_untied`.

        Raises:
            UserError: a field under which numbers or shapes would differ from those computed here, a value that its
            field cannot have, a field of ours that is misspelt, or no config of a BERT; all faults are told at once.
        """
        if not isinstance(fields, dict):
            raise UserError(f"{source}: found {shown(fields)}; expected an object with BERT's config fields.")
        if len(fields) > _MOST_FIELDS:
            raise UserError(f"{source}: found {len(fields)} fields, but a config has a few dozen; name a config.json.")
        model = fields.get("model_type") or "bert"
        if model != "bert":
            raise UserError(f"{source}: model_type is {shown(model)}, which is not a BERT; name the config of a BERT.")
        hints = checked.hints(cls)  # type: ignore[arg-type] # a class can be hashed, whatever its instances can
        own = {name: checked.from_json(fields[name], hints[name]) for name in hints if name in fields}
        if own.get("is_decoder", False) is None:
            del own["is_decoder"]
        act = own.get("hidden_act")
        if isinstance(act, str):
            own["hidden_act"] = _SAME_ACTS.get(act, act)
        labels = _labels(fields)
        own |= {"id2label": labels.id2label, "label2id": labels.label2id}
        faults = [
            *_not_a_berts(fields, untied),
            *_misspelt_or_missing(fields),
            *labels.faults,
            *_faults(_DEFAULTS | own),
        ]
        if faults:
            raise _refusal(source, faults)
        return cls(**own)

    @classmethod
    def from_json(cls, path: str | os.PathLike) -> BertConfig:
        """Read a config.json, or the config.json of a folder."""
        path = Path(path)
        return cls.from_dict(read_fields(path), source=str(path / _CONFIG if path.is_dir() else path))

    def to_json(self) -> str:
        """The text of a config.json."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


_DEFAULTS = {field.name: field.default for field in dataclasses.fields(BertConfig)}
_KNOWN = _DEFAULTS.keys() | _ONLY.keys() | _WITHOUT_EFFECT | {*_AS_HIDDEN_SIZE, "model_type"}


def read_fields(path: str | os.PathLike) -> dict:
    """What the JSON of a config.json says, or of that of a folder.

    Raises:
        UserError: it is not there, no regular file, no JSON, or says a field twice and differently.
    """
    path = Path(path)
    if path.is_dir() and path.name != _CONFIG:
        path = path / _CONFIG
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise UserError(f"{path} is not a regular file; name a config.json.")
        if found.st_size > _MOST_BYTES:
            raise UserError(f"{path} has {found.st_size:,} bytes, more than any config; name a config.json.")
        return json.loads(path.read_bytes(), object_pairs_hook=_once)
    except FileNotFoundError:
        what = f"{path} is a link to a file that does not exist" if path.is_symlink() else f"there is no {path}"
        raise UserError(f"{what}; name a config.json or a folder that holds one.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as JSON ({error}); name a config.json.") from None


def unknown_fields(fields: Mapping) -> list[str]:
    """The names of a config.json's fields of which nothing is known here."""
    return [name for name in fields if name not in _KNOWN]


def remarks(fields: dict) -> list[str]:
    """What is to be known of a config.json that was read, a sentence each: what was not understood, what counts.

    Args:
        fields: for which `BertConfig.from_dict` gives a config.
    """
    unknown = unknown_fields(fields)
    told = [f"the config has unknown fields, which were left out: {listed(unknown)}"] if unknown else []
    return told + _labels(fields).remarks


def _refusal(source: str, faults: list[str], most: int = 5) -> UserError:
    more = f"; and {len(faults) - most} more" if len(faults) > most else ""
    return UserError(f"{source}: {'; '.join(faults[:most])}{more}; correct it, or name the config of another BERT.")


def _faults(values: Mapping) -> list[str]:
    """What is wrong with the values of a config's fields, each by itself and then with each other."""
    wrong = {
        name: f"{name} is {shown(value)}, expected {expected}"
        for name, value, expected in checked.faults(BertConfig, values)
    }
    told = list(wrong.values())

    def sound(*names: str) -> bool:
        return not wrong.keys() & set(names)

    hidden, heads = values["hidden_size"], values["num_attention_heads"]
    if sound("hidden_size", "num_attention_heads") and hidden % heads:
        told.append(f"hidden_size {hidden} is not a multiple of num_attention_heads {heads}")
    for rows, columns in _MATRICES:
        if sound(rows, columns) and values[rows] * values[columns] > _MOST_VALUES:
            told.append(
                f"{rows} {values[rows]} times {columns} {values[columns]} is more than {_MOST_VALUES} values, too "
                "large for a matrix"
            )
    pad, vocabulary = values["pad_token_id"], values["vocab_size"]
    if sound("pad_token_id", "vocab_size") and pad is not None and pad >= vocabulary:
        told.append(f"pad_token_id {pad} is not in a vocabulary of {vocabulary}")
    names = values["id2label"]
    if sound("id2label") and names and not _are_numbered(names):
        told.append(f"id2label numbers its labels {listed(names)}, expected 0 to {len(names) - 1}")
    return told


def _not_a_berts(fields: dict, untied: bool) -> list[str]:
    """The fields under which another model than BERT is computed."""
    told = []
    for name, right in _ONLY.items():
        value = fields.get(name)
        if name == "tie_word_embeddings" and (untied or not is_untied(fields)):
            continue
        nothing = value is None or (isinstance(value, dict) and not any(value.values()))  # as pruned_heads {"0": []}
        if not nothing and value not in right:
            allowed = " or ".join(map(shown, right)) or "null"
            told.append(f"{name} is {shown(value)}, but only {allowed} is supported")
    for name in _AS_HIDDEN_SIZE:
        value, hidden = fields.get(name), fields.get("hidden_size", _DEFAULTS["hidden_size"])
        if value not in (None, hidden):
            told.append(f"{name} is {shown(value)} but hidden_size is {shown(hidden)}, and in a BERT they are equal")
    first = str(fields.get("architectures"))
    if not fields.get("model_type") and (other := _OF_TRANSFORMERS.match(first)) and other["model"] != "Bert":
        told.append(
            f"architectures is {shown(fields['architectures'])}, which is another model, and there is no "
            "model_type bert"
        )
    return told


def is_untied(fields: dict) -> bool:
    """Whether the MLM head, if the models that a config names may have one, does not use the word embeddings."""
    named = fields.get("architectures")
    models = named if isinstance(named, list) else []
    may_have = not models or any(re.search("MaskedLM|PreTraining|LMHead", str(model)) for model in models)
    return may_have and fields.get("tie_word_embeddings") not in (None, True)


def _misspelt_or_missing(fields: dict) -> list[str]:
    """Fields that are called nearly as one of ours that is not there, whose default would be taken in silence."""
    unknown = unknown_fields(fields)
    missing = [name for name in _DEFAULTS if name not in fields]
    near = {name: difflib.get_close_matches(name, unknown, n=1, cutoff=0.8) for name in missing}
    told = [f"{shown(found[0])} is not a field, did you mean {name}" for name, found in near.items() if found]
    lacking = [name for name in _SIZES if name in missing and not near[name]]
    if lacking and not fields.get("model_type"):
        told.append(f"model_type and {listed(lacking)} are missing, so this may not be the config of a BERT")
    return told


def default_labels(count: int) -> dict[str, str]:
    """What Hugging Face calls labels that have no names, as `id2label`."""
    return {str(number): f"LABEL_{number}" for number in range(count)}


def are_unnamed(labels: Sequence[str]) -> bool:
    """Whether labels are called as `default_labels` calls them."""
    return [*labels] == [*default_labels(len(labels)).values()]


def ordered_as(labels: Sequence[str], theirs: Sequence[str]) -> tuple[str, ...] | None:
    """The labels of data in the order of a model's, None if the model has others. Those of a model without names,
    LABEL_0, LABEL_1 and so on, are the data's 0, 1 and so on."""
    if sorted(theirs) == sorted(labels):
        return tuple(theirs)
    numbers = tuple(map(str, range(len(theirs))))
    return numbers if are_unnamed(theirs) and sorted(numbers) == sorted(labels) else None


def _are_numbered(id2label: dict) -> bool:
    return id2label.keys() == {str(i) for i in range(len(id2label))}


@dataclasses.dataclass(frozen=True)
class _Labels:
    """The labels that a config.json says, what is wrong with them, and what counts where it contradicts itself."""

    id2label: dict | None
    label2id: dict | None
    faults: list[str]
    remarks: list[str]


def _labels(fields: dict) -> _Labels:
    """As transformers 5 reads them: num_labels counts, then id2label; label2id and the old _num_labels say nothing.

    In transformers up to 5.0 the names of id2label counted, not num_labels.
    """
    hint = Annotated[int | None, Range(1, _MOST_LABELS)]
    number, id2label, label2id = checked.from_json(fields.get("num_labels"), hint), fields.get("id2label"), None
    faults, told = [], []
    if not checked.fits(number, hint):
        faults.append(f"num_labels is {shown(number)}, expected {checked.expected(hint)}")
        number = None
    if isinstance(id2label, dict):
        id2label = {str(k): str(v) if isinstance(v, (int, float)) else v for k, v in id2label.items()} or None
        if id2label and _are_numbered(id2label):  # written with sorted keys, "10" stands before "2"
            id2label = {str(i): id2label[str(i)] for i in range(len(id2label))}
    if number is not None and (id2label is None or (isinstance(id2label, dict) and len(id2label) != number)):
        if id2label:
            told.append(
                f"num_labels {number} is used, not the number of names in id2label ({len(id2label)}), as in "
                "transformers 5: the labels are LABEL_0, LABEL_1, ..."
            )
        id2label = default_labels(number)
    if fields.get("label2id") is not None and id2label is None:
        told.append("label2id was left out, because it has no effect without id2label, as in transformers")
    elif fields.get("label2id") is not None and isinstance(id2label, dict):
        if checked.fits(id2label, dict[str, str]) and _are_numbered(id2label):
            label2id = {name: int(i) for i, name in id2label.items()}
        if label2id is not None and not _say_the_same(fields["label2id"], label2id):
            told.append("label2id differs from id2label and was changed to match it")
    old, labels = fields.get("_num_labels"), len(id2label) if isinstance(id2label, dict) else 2
    if old not in (None, labels):
        told.append(f"_num_labels {shown(old)} was left out, because there are {labels} labels, as in transformers")
    return _Labels(id2label, label2id, faults, told)


def _say_the_same(given, label2id: dict) -> bool:
    """Whether a file's label2id is this one, its numbers as text too, as some have them."""
    return isinstance(given, dict) and {k: str(v) for k, v in given.items()} == {k: str(v) for k, v in label2id.items()}


def _once(pairs: list[tuple]) -> dict:
    """A JSON object, none of whose fields says two things."""
    fields: dict = {}
    for name, value in pairs:
        if name in fields and fields[name] != value:
            raise ValueError(f"{shown(name)} appears twice, as {shown(fields[name])} and as {shown(value)}")
        fields[name] = value
    return fields


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
