"""How checkpoints of other origin name BERT's parameters: tables, one row a rule; both directions come from the table.

A family says for each module of `conversion.parameters.MODULES` what it is called there, and for each kind of module
what its parameters are called. A module without a row is one that the family cannot hold.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable

from conversion.parameters import KINDS, MODULES, PARTS, parameters

_PLAIN = {kind: {leaf: leaf for leaf in leaves} for kind, leaves in KINDS.items()}
_GAMMA_BETA = {"weight": "gamma", "bias": "beta"}
_OUTPUT = {"weight": "output_weights", "bias": "output_bias"}


@dataclasses.dataclass(frozen=True)
class Family:
    """The names of one family of checkpoints.

    Attributes:
        source: where these names come from.
        modules: the family's name of each module; `{bert}` stands for the prefix of what is below the heads and
            `{cls}` for that of the heads, `{i}` for the layer.
        leaves: for each kind of module, the family's name of `weight` and `bias`; an empty one adds nothing.
        prefixes: the pairs of ({bert}, {cls}) that are met; the first is written.
        separator: between a module and its parameter.
        bare: modules whose name is their one parameter's as well.
        transposed: kinds whose weight is stored as (in, out).
        moments: names of Adam's moments as patterns around {name}; the first pair is written.
        ignored: patterns of what is no weight and may lie beside: it is left out, and said so.
        bare_encoder: a BertModel is written without any prefix, as transformers does.
        computes: what its code computes whatever a config says; () where it follows the config.
    """

    source: str
    modules: dict[str, str]
    leaves: dict[str, dict[str, str]]
    prefixes: tuple[tuple[str, str], ...]
    separator: str = "."
    bare: frozenset[str] = frozenset()
    transposed: frozenset[str] = frozenset()
    moments: tuple[tuple[str, str], ...] = ()
    ignored: tuple[str, ...] = ()
    bare_encoder: bool = False
    computes: tuple[str, ...] = ()


def _with_placeholders(module: str) -> str:
    """Hugging Face's name of a module with its prefix as a placeholder."""
    return "{bert}" + module.removeprefix("bert.") if module.startswith("bert.") else "{cls}" + module


HUGGING_FACE_MODULES = {module: _with_placeholders(module) for module in MODULES}

_MINDNLP_0_1_MODULES = {
    **HUGGING_FACE_MODULES,
    "bert.embeddings.LayerNorm": "{bert}embeddings.layer_norm",
    "bert.encoder.layer.{i}.attention.self.query": "{bert}encoder.layer.{i}.attention.self_attn.query",
    "bert.encoder.layer.{i}.attention.self.key": "{bert}encoder.layer.{i}.attention.self_attn.key",
    "bert.encoder.layer.{i}.attention.self.value": "{bert}encoder.layer.{i}.attention.self_attn.value",
    "bert.encoder.layer.{i}.attention.output.LayerNorm": "{bert}encoder.layer.{i}.attention.output.layer_norm",
    "bert.encoder.layer.{i}.output.LayerNorm": "{bert}encoder.layer.{i}.output.layer_norm",
    "cls.predictions.transform.LayerNorm": "{cls}cls.predictions.transform.layer_norm",
}

_MODEL_ZOO_LAYER = "{bert}bert_encoder.layers.{i}"
_MODEL_ZOO_MODULES = {
    "bert.embeddings.word_embeddings": "{bert}bert_embedding_lookup",
    "bert.embeddings.position_embeddings": "{bert}bert_embedding_postprocessor.full_position_embedding",
    "bert.embeddings.token_type_embeddings": "{bert}bert_embedding_postprocessor.token_type_embedding",
    "bert.embeddings.LayerNorm": "{bert}bert_embedding_postprocessor.layernorm",
    "bert.encoder.layer.{i}.attention.self.query": f"{_MODEL_ZOO_LAYER}.attention.attention.query_layer",
    "bert.encoder.layer.{i}.attention.self.key": f"{_MODEL_ZOO_LAYER}.attention.attention.key_layer",
    "bert.encoder.layer.{i}.attention.self.value": f"{_MODEL_ZOO_LAYER}.attention.attention.value_layer",
    "bert.encoder.layer.{i}.attention.output.dense": f"{_MODEL_ZOO_LAYER}.attention.output.dense",
    "bert.encoder.layer.{i}.attention.output.LayerNorm": f"{_MODEL_ZOO_LAYER}.attention.output.layernorm",
    "bert.encoder.layer.{i}.intermediate.dense": f"{_MODEL_ZOO_LAYER}.intermediate",
    "bert.encoder.layer.{i}.output.dense": f"{_MODEL_ZOO_LAYER}.output.dense",
    "bert.encoder.layer.{i}.output.LayerNorm": f"{_MODEL_ZOO_LAYER}.output.layernorm",
    "bert.pooler.dense": "{bert}dense",
    "cls.predictions": "{cls}cls1",
    "cls.predictions.transform.dense": "{cls}cls1.dense",
    "cls.predictions.transform.LayerNorm": "{cls}cls1.layernorm",
    "cls.seq_relationship": "{cls}cls2.dense",
    "classifier": "{cls}dense_1",
    "qa_outputs": "{cls}dense1",
}
_MODEL_ZOO_OLD_MODULES = {
    **_MODEL_ZOO_MODULES,
    # Parameters of the postprocessor itself, not of cells within it.
    "bert.embeddings.position_embeddings": "{bert}bert_embedding_postprocessor.full_position_embeddings",
    "bert.embeddings.token_type_embeddings": "{bert}bert_embedding_postprocessor.embedding_table",
}

_TENSORFLOW_LAYER = "{bert}encoder/layer_{i}"
_TENSORFLOW_MODULES = {
    "bert.embeddings.word_embeddings": "{bert}embeddings/word_embeddings",
    "bert.embeddings.position_embeddings": "{bert}embeddings/position_embeddings",
    "bert.embeddings.token_type_embeddings": "{bert}embeddings/token_type_embeddings",
    "bert.embeddings.LayerNorm": "{bert}embeddings/LayerNorm",
    "bert.encoder.layer.{i}.attention.self.query": f"{_TENSORFLOW_LAYER}/attention/self/query",
    "bert.encoder.layer.{i}.attention.self.key": f"{_TENSORFLOW_LAYER}/attention/self/key",
    "bert.encoder.layer.{i}.attention.self.value": f"{_TENSORFLOW_LAYER}/attention/self/value",
    "bert.encoder.layer.{i}.attention.output.dense": f"{_TENSORFLOW_LAYER}/attention/output/dense",
    "bert.encoder.layer.{i}.attention.output.LayerNorm": f"{_TENSORFLOW_LAYER}/attention/output/LayerNorm",
    "bert.encoder.layer.{i}.intermediate.dense": f"{_TENSORFLOW_LAYER}/intermediate/dense",
    "bert.encoder.layer.{i}.output.dense": f"{_TENSORFLOW_LAYER}/output/dense",
    "bert.encoder.layer.{i}.output.LayerNorm": f"{_TENSORFLOW_LAYER}/output/LayerNorm",
    "bert.pooler.dense": "{bert}pooler/dense",
    "cls.predictions": "{cls}cls/predictions",
    "cls.predictions.transform.dense": "{cls}cls/predictions/transform/dense",
    "cls.predictions.transform.LayerNorm": "{cls}cls/predictions/transform/LayerNorm",
    "cls.seq_relationship": "{cls}cls/seq_relationship",
    "classifier": "{cls}",
    "qa_outputs": "{cls}cls/squad",
}

# What MindSpore's optimizers and training cells keep beside the weights (mindspore/nn/optim, nn/wrap).
_MINDSPORE_MOMENTS = (("adam_m.{name}", "adam_v.{name}"), ("lamb_m.{name}", "lamb_v.{name}"))
_MINDSPORE_MOMENTS += (("moment1.{name}", "moment2.{name}"),)
_MINDSPORE_STATE = (
    *(r"learning_rate.*", r"beta[12]_power", r"momentum", r"scale_sense", r"current_iterator_step"),
    *(r"last_overflow_iterator_step", r"(epoch|step)_num", r"accu_(grads\..*|overflow|loss)", r"local_step"),
)
_BUFFERS = (r"(bert\.)?embeddings\.(position_ids|token_type_ids)",)  # constants that old transformers stored

_HUGGING_FACE_PREFIXES = (("bert.", ""), ("", ""))
_MODEL_ZOO_PREFIXES = (("bert.bert.", "bert."), ("bert.", ""), ("", ""))
_NN_LEAVES = {**_PLAIN, "norm": _GAMMA_BETA, "embedding": {"weight": "embedding_table"}}

FAMILIES: dict[str, Family] = {
    "hugging-face": Family(
        "transformers, ms_bert and pt_reference",
        HUGGING_FACE_MODULES,
        _PLAIN,
        _HUGGING_FACE_PREFIXES,
        moments=(("m.{name}", "v.{name}"), *_MINDSPORE_MOMENTS),
        ignored=(*_BUFFERS, *_MINDSPORE_STATE),
        bare_encoder=True,
    ),
    "hugging-face-old": Family(
        "pytorch-pretrained-bert and what was converted from TensorFlow with it: LayerNorm's gamma and beta",
        HUGGING_FACE_MODULES,
        {**_PLAIN, "norm": _GAMMA_BETA},
        _HUGGING_FACE_PREFIXES,
        ignored=_BUFFERS,
        bare_encoder=True,
    ),
    "mindspore": Family(
        "MindSpore's own cells in Hugging Face's structure: nn.Dense, nn.Embedding, nn.LayerNorm",
        HUGGING_FACE_MODULES,
        _NN_LEAVES,
        _HUGGING_FACE_PREFIXES,
        moments=_MINDSPORE_MOMENTS,
        ignored=_MINDSPORE_STATE,
        bare_encoder=True,
    ),
    "mindnlp": Family(
        "mindnlp 0.2 to 0.4 (mindnlp/injection.py gives MindSpore's cells torch's names): as Hugging Face's",
        HUGGING_FACE_MODULES,
        _PLAIN,
        _HUGGING_FACE_PREFIXES,
        moments=_MINDSPORE_MOMENTS,
        ignored=(*_BUFFERS, *_MINDSPORE_STATE),
        bare_encoder=True,
    ),
    "mindnlp-0.1": Family(
        "mindnlp 0.1 (mindnlp/models/bert/bert.py)",
        _MINDNLP_0_1_MODULES,
        _NN_LEAVES,
        _HUGGING_FACE_PREFIXES,
        moments=_MINDSPORE_MOMENTS,
        ignored=_MINDSPORE_STATE,
        bare_encoder=True,
        computes=("layer_norm_eps 1e-12 within the layers",),
    ),
    "mindspore-models": Family(
        "mindspore-ai/models, official/nlp/Bert/src/bert_model.py; the prefix is that of run_pretrain.py",
        _MODEL_ZOO_MODULES,
        {**_NN_LEAVES, "bias": {"bias": "output_bias"}},
        _MODEL_ZOO_PREFIXES,
        moments=(_MINDSPORE_MOMENTS[1], _MINDSPORE_MOMENTS[0], _MINDSPORE_MOMENTS[2]),
        ignored=_MINDSPORE_STATE,
        computes=("layer_norm_eps 1e-7", "the tanh form of GELU for gelu"),
    ),
    "mindspore-models-old": Family(
        "the same in MindSpore's model_zoo before version 1.2",
        _MODEL_ZOO_OLD_MODULES,
        {**_NN_LEAVES, "bias": {"bias": "output_bias"}},
        _MODEL_ZOO_PREFIXES,
        bare=frozenset({"bert.embeddings.position_embeddings", "bert.embeddings.token_type_embeddings"}),
        moments=(_MINDSPORE_MOMENTS[1], _MINDSPORE_MOMENTS[0], _MINDSPORE_MOMENTS[2]),
        ignored=_MINDSPORE_STATE,
        computes=("layer_norm_eps 1e-7", "the tanh form of GELU for gelu"),
    ),
    "tensorflow": Family(
        "google-research/bert, modeling.py, run_classifier.py and run_squad.py",
        _TENSORFLOW_MODULES,
        {
            "embedding": {"weight": ""},
            "norm": _GAMMA_BETA,
            "linear": {"weight": "kernel", "bias": "bias"},
            "projection": _OUTPUT,
            "bias": {"bias": "output_bias"},
        },
        (("bert/", ""),),
        separator="/",
        transposed=frozenset({"linear"}),
        moments=(("{name}/adam_m", "{name}/adam_v"),),
        ignored=(r"(?!cls/|bert/).*(learning_rate|signal_early_stopping).*",),
        # google-research/bert@bee6030; the published weights were trained with the erf form before it.
        computes=("layer_norm_eps 1e-12", "the tanh form of GELU for gelu since 2019"),
    ),
}

# What wrapping a whole model adds in front: torch's DataParallel, MindSpore's training cells.
WRAPPERS = ("", "module.", "network.")


@dataclasses.dataclass(frozen=True)
class Spelling:
    """A family with one of its prefixes and wrappers: the names of one file."""

    family: str
    prefix: tuple[str, str]
    wrapper: str = ""

    def names(self, layers: int, parts: Iterable[str] = PARTS) -> dict[str, str]:
        """The file's name of every canonical parameter of these parts that the family can hold."""
        family = FAMILIES[self.family]
        named = {}
        for canonical, (module, leaf) in parameters(layers, parts).items():
            if module in family.modules:
                index = canonical.split(".")[3] if "{i}" in module else ""
                bert, cls = self.prefix
                stem = self.wrapper + family.modules[module].format(bert=bert, cls=cls, i=index)
                own = "" if module in family.bare else family.leaves[MODULES[module].kind][leaf]
                separator = family.separator if own and stem else ""
                named[canonical] = f"{stem}{separator}{own}"
        return named

    def transposed(self, canonical: str) -> bool:
        """Whether a canonical parameter is stored the other way round."""
        if not FAMILIES[self.family].transposed or not canonical.endswith(".weight"):
            return False
        module = re.sub(r"\.layer\.\d+\.", ".layer.{i}.", canonical.removesuffix(".weight"))
        return MODULES[module].kind in FAMILIES[self.family].transposed


def written(family: str, architecture: str) -> Spelling:
    """The spelling in which a family's own writer stores an architecture."""
    prefixes = FAMILIES[family].prefixes
    bare = architecture == "BertModel" and FAMILIES[family].bare_encoder
    return Spelling(family, ("", "") if bare else prefixes[0])


def spellings(names: Iterable[str], families: Iterable[str] = tuple(FAMILIES)) -> list[Spelling]:
    """The spellings in which the word embeddings are among these names, the one that knows most of them first."""
    names = set(names)
    layers = count_layers(names)
    found = []
    for family in families:
        for prefix in FAMILIES[family].prefixes:
            for wrapper in WRAPPERS:
                spelling = Spelling(family, prefix, wrapper)
                known = set(spelling.names(layers).values())
                if spelling.names(0, ["embeddings"])["bert.embeddings.word_embeddings.weight"] in names:
                    found.append((len(known & names), spelling))
    return [spelling for _, spelling in sorted(found, key=lambda one: -one[0])]


def count_layers(names: Iterable[str]) -> int:
    """How many layers these names speak of: all families number them after `layer.`, `layers.` or `layer_`."""
    numbers = [int(n) for name in names for n in re.findall(r"(?:^|[./])layers?[._](\d{1,4})[./]", name)]
    return max(numbers, default=-1) + 1
