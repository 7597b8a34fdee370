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

PARTS = tuple(dict.fromkeys(module.part for module in MODULES.values()))
BACKBONE = ("embeddings", "encoder")  # what every BERT has

# What a row of an output is.
TOKEN, SLOT, SEQUENCE, CHOICE = "token", "masked slot", "sequence", "choice"


@dataclasses.dataclass(frozen=True)
class Output:
    """What a model gives.

    Attributes:
        name: transformers' name of it. part: that computes it, a row of scores from a row of the hidden states or, of
        a SEQUENCE or a CHOICE, of the pooler's output.
        row: TOKEN; SLOT, a token that a model is asked for, where a graph gives them all; SEQUENCE; CHOICE, a sequence
        that is one of several, of which each gets one score.
        column: of the part's rows, which is all that it is; None: it is the rows.
    """

    name: str
    part: str
    row: str
    column: int | None = None

    @property
    def pooled(self) -> bool:
        """Whether a row is one of the pooler's output."""
        return self.row in (SEQUENCE, CHOICE)

    @property
    def tensor(self) -> str:
        """What the rows of the part are called among the tensors that are compared, whatever class they are of."""
        if self.part == "classifier":
            return "sequence_logits" if self.pooled else "token_logits"
        return {"encoder": "last_hidden_state", "pooler": "pooled_output"}.get(self.part, f"{self.part}_logits")


@dataclasses.dataclass(frozen=True)
class Architecture:
    """A class of Hugging Face, by what it gives; `named` of ms_bert.heads and of pt_reference.heads has its cell."""

    outputs: tuple[Output, ...]

    @property
    def heads(self) -> tuple[Output, ...]:
        """What it gives besides what every BERT may give."""
        return tuple(output for output in self.outputs if output.part not in (*BACKBONE, "pooler"))

    @property
    def pooled(self) -> bool:
        """Whether a head of it stands on the pooler."""
        return any(output.pooled for output in self.heads)

    @property
    def parts(self) -> frozenset[str]:
        """What it needs besides the backbone. A pooler may be there without need."""
        return frozenset(output.part for output in self.outputs) - {*BACKBONE} | ({"pooler"} if self.pooled else set())

    @property
    def prefix(self) -> str:
        """What the canonical names have before those of its own parameters."""
        return "" if self.heads else "bert."

    @property
    def columns(self) -> bool:
        """Whether its outputs are the columns of one part."""
        return any(output.column is not None for output in self.outputs)

    @property
    def slots(self) -> bool:
        """Whether its rows of tokens are those that it is asked for."""
        return any(output.row == SLOT for output in self.outputs)

    @property
    def choices(self) -> bool:
        """Whether its rows are choices, each with one score and no label."""
        return any(output.row == CHOICE for output in self.outputs)

    def arguments(self, pooler: bool, choices: int) -> dict[str, bool | int]:
        """What its cell is made with besides the config and the numerics.

        Args:
            pooler: whether there is one, where it may do without. choices: how many rows are those of one question.
        """
        return ({} if self.pooled else {"pooler": pooler}) | ({"choices": choices} if self.choices else {})


# Hugging Face's classes. To add one, add its row, a cell to ms_bert.heads and a module to pt_reference.heads, both with
# the argument `pooler` if the class may do without one; if its parameters have names of their own, add MODULES rows.
# All else follows where each part is one projection; of another, formats/onnx_graph/bert.py must be told the nodes.
ARCHITECTURES: dict[str, Architecture] = {
    "BertModel": Architecture(
        (Output("last_hidden_state", "encoder", TOKEN), Output("pooler_output", "pooler", SEQUENCE))
    ),
    "BertForPreTraining": Architecture(
        (Output("prediction_logits", "mlm", SLOT), Output("seq_relationship_logits", "nsp", SEQUENCE))
    ),
    "BertForMaskedLM": Architecture((Output("logits", "mlm", SLOT),)),
    "BertForNextSentencePrediction": Architecture((Output("logits", "nsp", SEQUENCE),)),
    "BertForSequenceClassification": Architecture((Output("logits", "classifier", SEQUENCE),)),
    # Has the parts of the one before, and is known by the config only.
    "BertForMultipleChoice": Architecture((Output("logits", "classifier", CHOICE),)),
    "BertForTokenClassification": Architecture((Output("logits", "classifier", TOKEN),)),
    "BertForQuestionAnswering": Architecture(
        (Output("start_logits", "qa", TOKEN, column=0), Output("end_logits", "qa", TOKEN, column=1))
    ),
}

# Heads that may stand on the pooler's output.
NEED_POOLER = {output.part for one in ARCHITECTURES.values() for output in one.heads if output.pooled}


def projection(part: str) -> str:
    """The module that gives the rows of a part."""
    return next(name for name, module in MODULES.items() if module.part == part)


def architecture_of(parts: Iterable[str], named: str | None = None) -> str | None:
    """The class that has these parts; None where there is none, as with two heads that no class has together.

    Args:
        named: the class that it is if that needs these parts, a pooler aside.
    """
    parts = frozenset(parts) - frozenset(BACKBONE)
    needed = {name: one.parts for name, one in ARCHITECTURES.items()}
    if named in needed and needed[named] in (parts, parts - {"pooler"}):
        return named
    for name in needed:
        if parts == needed[name]:
            return name
    for name in needed:
        if parts == needed[name] | {"pooler"} or parts | {"pooler"} == needed[name]:
            return name
    return None


def parameters(layers: int, parts: Iterable[str] | None = None) -> dict[str, tuple[str, str]]:
    """Every parameter of these parts, in Hugging Face's order: (its module with {i}, its leaf) by its name.

    Args:
        parts: None: all.
    """
    wanted = None if parts is None else frozenset(parts)
    named, inside = {}, [module for module in MODULES if "{i}" in module]
    for module, description in MODULES.items():
        if (wanted is not None and description.part not in wanted) or module in inside[1:]:
            continue
        # The encoder's modules come layer by layer.
        rows = [(row, i) for i in range(layers) for row in inside] if module == inside[0] else [(module, 0)]
        for row, i in rows:
            for leaf in KINDS[MODULES[row].kind]:
                named[f"{row.format(i=i)}.{leaf}"] = (row, leaf)
    return named


def shapes(config: BertConfig, parts: Iterable[str], architecture: str | None = None) -> dict[str, tuple[int, ...]]:
    """The shape of every parameter of these parts; for choices there is one label, whatever the config says."""
    sizes = {
        "V": config.vocab_size,
        "P": config.max_position_embeddings,
        "T": config.type_vocab_size,
        "H": config.hidden_size,
        "I": config.intermediate_size,
        "N": 1 if architecture in ARCHITECTURES and ARCHITECTURES[architecture].choices else config.num_labels,
        "two": 2,
    }
    named = parameters(config.num_hidden_layers, parts)
    return {name: MODULES[module].parameter_shape(leaf, sizes) for name, (module, leaf) in named.items()}
