"""The parameters of a BERT: their canonical names, which are Hugging Face's, their shapes, and who has which.

The canonical names always bear the prefix `bert.` on what is below the heads. A module is a row of MODULES; its kind
says which parameters it has.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from ms_bert.config import BertConfig

# Kind of a module: its parameters.
KINDS = {
    "embedding": ("weight",),
    "norm": ("weight", "bias"),
    "linear": ("weight", "bias"),
    "projection": ("weight", "bias"),  # a linear layer of a head, which Google names in a way of its own
    "bias": ("bias",),
}


@dataclasses.dataclass(frozen=True)
class Module:
    """A module of the model: its part, its kind, and the shape of its weight ((out, in) for a linear layer)."""

    part: str
    kind: str
    shape: tuple[str, ...]

    def parameter_shape(self, leaf: str, sizes: dict[str, int]) -> tuple[int, ...]:
        names = self.shape if leaf == "weight" or self.kind == "bias" else self.shape[:1]
        return tuple(sizes[name] for name in names)


_LAYER = "bert.encoder.layer.{i}"
_TRANSFORM = "cls.predictions.transform"

# In Hugging Face's order. V vocabulary, P positions, T token types, H hidden, I intermediate, N labels.
MODULES: dict[str, Module] = {
    "bert.embeddings.word_embeddings": Module("embeddings", "embedding", ("V", "H")),
    "bert.embeddings.position_embeddings": Module("embeddings", "embedding", ("P", "H")),
    "bert.embeddings.token_type_embeddings": Module("embeddings", "embedding", ("T", "H")),
    "bert.embeddings.LayerNorm": Module("embeddings", "norm", ("H",)),
    f"{_LAYER}.attention.self.query": Module("encoder", "linear", ("H", "H")),
    f"{_LAYER}.attention.self.key": Module("encoder", "linear", ("H", "H")),
    f"{_LAYER}.attention.self.value": Module("encoder", "linear", ("H", "H")),
    f"{_LAYER}.attention.output.dense": Module("encoder", "linear", ("H", "H")),
    f"{_LAYER}.attention.output.LayerNorm": Module("encoder", "norm", ("H",)),
    f"{_LAYER}.intermediate.dense": Module("encoder", "linear", ("I", "H")),
    f"{_LAYER}.output.dense": Module("encoder", "linear", ("H", "I")),
    f"{_LAYER}.output.LayerNorm": Module("encoder", "norm", ("H",)),
    "bert.pooler.dense": Module("pooler", "linear", ("H", "H")),
    "cls.predictions": Module("mlm", "bias", ("V",)),
    f"{_TRANSFORM}.dense": Module("mlm", "linear", ("H", "H")),
    f"{_TRANSFORM}.LayerNorm": Module("mlm", "norm", ("H",)),
    "cls.seq_relationship": Module("nsp", "projection", ("two", "H")),
    "classifier": Module("classifier", "projection", ("N", "H")),
    "qa_outputs": Module("qa", "projection", ("two", "H")),
}

# Parameters that other tools write a second time, and the one that each is tied to.
TIED = {
    "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
}

PARTS = ("embeddings", "encoder", "pooler", "mlm", "nsp", "classifier", "qa")
BACKBONE = ("embeddings", "encoder")  # what every BERT has
NEED_POOLER = {"nsp", "classifier"}  # heads that may stand on the pooler's output

# Hugging Face's classes: the parts that each needs besides the backbone. A pooler may be there without need.
ARCHITECTURES: dict[str, frozenset[str]] = {
    "BertModel": frozenset({"pooler"}),
    "BertForPreTraining": frozenset({"pooler", "mlm", "nsp"}),
    "BertForMaskedLM": frozenset({"mlm"}),
    "BertForNextSentencePrediction": frozenset({"pooler", "nsp"}),
    "BertForSequenceClassification": frozenset({"pooler", "classifier"}),
    "BertForMultipleChoice": frozenset({"pooler", "classifier"}),  # known by the config only
    "BertForTokenClassification": frozenset({"classifier"}),
    "BertForQuestionAnswering": frozenset({"qa"}),
}

# What a graph of each class gives, by transformers' names; pooler_output only where there is a pooler.
OUTPUTS: dict[str, tuple[str, ...]] = {
    "BertModel": ("last_hidden_state", "pooler_output"),
    "BertForPreTraining": ("prediction_logits", "seq_relationship_logits"),
    "BertForMaskedLM": ("logits",),
    "BertForNextSentencePrediction": ("logits",),
    "BertForSequenceClassification": ("logits",),
    "BertForMultipleChoice": ("logits",),
    "BertForTokenClassification": ("logits",),
    "BertForQuestionAnswering": ("start_logits", "end_logits"),
}


def architecture_of(parts: Iterable[str]) -> str | None:
    """The class that has these parts; None where there is none, as with two heads that no class has together."""
    parts = frozenset(parts) - frozenset(BACKBONE)
    for name, needed in ARCHITECTURES.items():
        if parts == needed:
            return name
    for name, needed in ARCHITECTURES.items():
        if parts == needed | {"pooler"} or parts | {"pooler"} == needed:
            return name
    return None


def parameters(layers: int, parts: Iterable[str] = PARTS) -> dict[str, tuple[str, str]]:
    """Every parameter of these parts, in Hugging Face's order: (its module with {i}, its leaf) by its name."""
    wanted = frozenset(parts)
    named, inside = {}, [module for module in MODULES if "{i}" in module]
    for module, description in MODULES.items():
        if description.part not in wanted or module in inside[1:]:
            continue
        # The encoder's modules come layer by layer.
        rows = [(row, i) for i in range(layers) for row in inside] if module == inside[0] else [(module, 0)]
        for row, i in rows:
            for leaf in KINDS[MODULES[row].kind]:
                named[f"{row.format(i=i)}.{leaf}"] = (row, leaf)
    return named


def shapes(config: BertConfig, parts: Iterable[str], architecture: str | None = None) -> dict[str, tuple[int, ...]]:
    """The shape of every parameter of these parts; a multiple choice has one label, whatever the config says."""
    sizes = {
        "V": config.vocab_size,
        "P": config.max_position_embeddings,
        "T": config.type_vocab_size,
        "H": config.hidden_size,
        "I": config.intermediate_size,
        "N": 1 if architecture == "BertForMultipleChoice" else config.num_labels,
        "two": 2,
    }
    named = parameters(config.num_hidden_layers, parts)
    return {name: MODULES[module].parameter_shape(leaf, sizes) for name, (module, leaf) in named.items()}
