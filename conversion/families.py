"""How checkpoints of other origin name BERT's parameters: tables, one row a rule; both directions come from the table.

A family says for each module of `conversion.parameters.MODULES` what it is called there, and for each kind of module
what its parameters are called. A module without a row is one that the family cannot hold.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from conversion.layouts import (
    BIAS_OF_HEADS,
    KERNEL_FROM_HEADS,
    KERNEL_TO_HEADS,
    ROW_FOR_PADDING,
    TRANSPOSED,
    Layout,
)
from conversion.parameters import KINDS, MODULES, TIED

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
        heads: rows that a file has besides `modules`, or instead of them, with the class that has them, where not every
            class calls a module the same; of a class with several the first is written.
        separator: between a module and its parameter.
        bare: modules whose name is their one parameter's as well.
        layouts: how parameters are stored, by KIND.LEAF or MODULE.LEAF, where not as here.
        tied: names of what is stored a second time, and the canonical name of what it repeats.
        stores_tied: these are written, too.
        moments: names of Adam's moments as patterns around {name}; the first pair is written.
        step: the dtype and shape of the counter of steps that is written beside them.
        ignored: patterns of what is no weight and may lie beside: it is left out, and said so.
        unused: patterns of weights that a class with `heads` of its own does not use: likewise.
        rows_multiple: the code makes the vocabulary larger than its config says, up to a multiple of this.
        bare_encoder: a BertModel is written without any prefix, as transformers does.
        computes: what its code computes whatever a config says; () where it follows the config.
    """

    source: str
    modules: dict[str, str]
    leaves: dict[str, dict[str, str]]
    prefixes: tuple[tuple[str, str], ...]
    heads: tuple[tuple[str, dict[str, str]], ...] = ()
    separator: str = "."
    bare: frozenset[str] = frozenset()
    layouts: Mapping[str, Layout] = dataclasses.field(default_factory=dict)
    tied: Mapping[str, str] = dataclasses.field(default_factory=lambda: {"{cls}" + n: of for n, of in TIED.items()})
    stores_tied: bool = False
    moments: tuple[tuple[str, str], ...] = ()
    step: tuple[str, tuple[int, ...]] = ("int32", (1,))
    ignored: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    rows_multiple: int = 1
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

_NVIDIA_MODULES = {
    **HUGGING_FACE_MODULES,
    "bert.encoder.layer.{i}.intermediate.dense": "{bert}encoder.layer.{i}.intermediate.dense_act",
    "bert.pooler.dense": "{bert}pooler.dense_act",
    "cls.predictions.transform.dense": "{cls}cls.predictions.transform.dense_act",
}

_UER_LAYER = "{bert}encoder.transformer.{i}"
_UER_MODULES = {
    "bert.embeddings.word_embeddings": "{bert}embedding.word.embedding",
    "bert.embeddings.position_embeddings": "{bert}embedding.pos.embedding",
    "bert.embeddings.token_type_embeddings": "{bert}embedding.seg.embedding",
    "bert.embeddings.LayerNorm": "{bert}embedding.layer_norm",
    "bert.encoder.layer.{i}.attention.self.query": f"{_UER_LAYER}.self_attn.linear_layers.0",
    "bert.encoder.layer.{i}.attention.self.key": f"{_UER_LAYER}.self_attn.linear_layers.1",
    "bert.encoder.layer.{i}.attention.self.value": f"{_UER_LAYER}.self_attn.linear_layers.2",
    "bert.encoder.layer.{i}.attention.output.dense": f"{_UER_LAYER}.self_attn.final_linear",
    "bert.encoder.layer.{i}.attention.output.LayerNorm": f"{_UER_LAYER}.layer_norm_1",
    "bert.encoder.layer.{i}.intermediate.dense": f"{_UER_LAYER}.feed_forward.linear_1",
    "bert.encoder.layer.{i}.output.dense": f"{_UER_LAYER}.feed_forward.linear_2",
    "bert.encoder.layer.{i}.output.LayerNorm": f"{_UER_LAYER}.layer_norm_2",
    "cls.predictions": "{cls}target.mlm.linear_2",
    "cls.predictions.transform.dense": "{cls}target.mlm.linear_1",
    "cls.predictions.transform.LayerNorm": "{cls}target.mlm.layer_norm",
}
_UER_OLD_MODULES = {
    **_UER_MODULES,
    "bert.embeddings.word_embeddings": "{bert}embedding.word_embedding",
    "bert.embeddings.position_embeddings": "{bert}embedding.position_embedding",
    "bert.embeddings.token_type_embeddings": "{bert}embedding.segment_embedding",
    "cls.predictions": "{cls}target.mlm_linear_2",
    "cls.predictions.transform.dense": "{cls}target.mlm_linear_1",
    "cls.predictions.transform.LayerNorm": "{cls}target.layer_norm",
}


def _sentence_pairs(pooler: str, classifier: str) -> tuple[str, dict[str, str]]:
    """The heads of pre-training where it has a pooler of its own."""
    return "BertForPreTraining", {"bert.pooler.dense": "{cls}" + pooler, "cls.seq_relationship": "{cls}" + classifier}


_UER_TASKS = (
    (
        "BertForSequenceClassification",
        {"bert.pooler.dense": "{cls}output_layer_1", "classifier": "{cls}output_layer_2"},
    ),
    ("BertForTokenClassification", {"classifier": "{cls}output_layer"}),
    ("BertForQuestionAnswering", {"qa_outputs": "{cls}output_layer"}),
)

_TENSORFLOW_2_LAYER = "{bert}transformer/layer_{i}"
_TENSORFLOW_2_MODULES = {
    "bert.embeddings.word_embeddings": "{bert}word_embeddings",
    "bert.embeddings.position_embeddings": "{bert}position_embedding",
    "bert.embeddings.token_type_embeddings": "{bert}type_embeddings",
    "bert.embeddings.LayerNorm": "{bert}embeddings/layer_norm",
    "bert.encoder.layer.{i}.attention.self.query": f"{_TENSORFLOW_2_LAYER}/self_attention/query",
    "bert.encoder.layer.{i}.attention.self.key": f"{_TENSORFLOW_2_LAYER}/self_attention/key",
    "bert.encoder.layer.{i}.attention.self.value": f"{_TENSORFLOW_2_LAYER}/self_attention/value",
    "bert.encoder.layer.{i}.attention.output.dense": f"{_TENSORFLOW_2_LAYER}/self_attention/attention_output",
    "bert.encoder.layer.{i}.attention.output.LayerNorm": f"{_TENSORFLOW_2_LAYER}/self_attention_layer_norm",
    "bert.encoder.layer.{i}.intermediate.dense": f"{_TENSORFLOW_2_LAYER}/intermediate",
    "bert.encoder.layer.{i}.output.dense": f"{_TENSORFLOW_2_LAYER}/output",
    "bert.encoder.layer.{i}.output.LayerNorm": f"{_TENSORFLOW_2_LAYER}/output_layer_norm",
    "bert.pooler.dense": "{bert}pooler_transform",
    "cls.predictions": "{cls}cls/predictions/output_bias",
    "cls.predictions.transform.dense": "{cls}cls/predictions/transform/dense",
    "cls.predictions.transform.LayerNorm": "{cls}cls/predictions/transform/LayerNorm",
}
_TENSORFLOW_2_HEADS = (
    _sentence_pairs("next_sentence/pooler_dense", "next_sentence/logits"),
    ("BertForPreTraining", {"cls.seq_relationship": "{cls}predictions/transform/logits"}),
    ("BertForSequenceClassification", {"classifier": "{cls}sentence_prediction/logits"}),
    (
        "BertForSequenceClassification",
        {"bert.pooler.dense": "{cls}sentence_prediction/pooler_dense", "classifier": "{cls}sentence_prediction/logits"},
    ),
    ("BertForTokenClassification", {"classifier": "{cls}predictions/transform/logits"}),
    ("BertForQuestionAnswering", {"qa_outputs": "{cls}predictions/transform/logits"}),
)
_SELF = "bert.encoder.layer.{i}.attention.self"
_TENSORFLOW_2_LAYOUTS = {
    "linear.weight": TRANSPOSED,
    "projection.weight": TRANSPOSED,
    **{f"{_SELF}.{name}.weight": KERNEL_TO_HEADS for name in ("query", "key", "value")},
    **{f"{_SELF}.{name}.bias": BIAS_OF_HEADS for name in ("query", "key", "value")},
    "bert.encoder.layer.{i}.attention.output.dense.weight": KERNEL_FROM_HEADS,
}

# What MindSpore's optimizers and training cells keep beside the weights (mindspore/nn/optim, nn/wrap).
_MINDSPORE_MOMENTS = (
    ("adam_m.{name}", "adam_v.{name}"),
    ("lamb_m.{name}", "lamb_v.{name}"),
    ("moment1.{name}", "moment2.{name}"),
)
_MINDSPORE_STATE = (
    *(r"learning_rate.*", r"beta[12]_power", r"momentum", r"scale_sense", r"current_iterator_step"),
    *(r"last_overflow_iterator_step", r"(epoch|step)_num", r"accu_(grads\..*|overflow|loss)", r"local_step"),
)
_BUFFERS = (r"(bert\.)?embeddings\.(position_ids|token_type_ids)",)  # constants that old transformers stored

_UER_COMPUTES = ("a LayerNorm that divides by the standard deviation of n - 1 values plus 1e-6",)

_HUGGING_FACE_PREFIXES = (("bert.", ""), ("", ""))
_MODEL_ZOO_PREFIXES = (("bert.bert.", "bert."), ("bert.", ""), ("", ""))
_NN_LEAVES = {**_PLAIN, "norm": _GAMMA_BETA, "embedding": {"weight": "embedding_table"}}

_TENSORFLOW_2 = Family(
    "tensorflow/models, official/nlp/modeling: networks/bert_encoder.py, models/bert_*.py and layers/; the names "
    "of the variables in an object-based checkpoint",
    _TENSORFLOW_2_MODULES,
    {
        "embedding": {"weight": "embeddings"},
        "norm": _GAMMA_BETA,
        "linear": {"weight": "kernel", "bias": "bias"},
        "projection": {"weight": "kernel", "bias": "bias"},
        "bias": {"bias": "bias"},
    },
    (("", ""), ("", "bert/")),
    heads=_TENSORFLOW_2_HEADS,
    separator="/",
    layouts=_TENSORFLOW_2_LAYOUTS,
    moments=(("{name}/m", "{name}/v"),),
    ignored=(r"save_counter", r"beta[12]_power", r"(optimizer|keras_api|Adam\w*|LAMB|SGD)/.*"),
    unused=(r"(.*/)?pooler_transform/(kernel|bias)",),
    computes=("layer_norm_eps 1e-12", "the tanh form of GELU for gelu"),
)

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
        "mindnlp since 0.2, as Hugging Face's: to 0.4 by mindnlp/injection.py; since "
        "0.5 transformers itself runs (src/mindnlp/patch) and saves with safetensors",
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
        layouts={"linear.weight": TRANSPOSED},
        moments=(("{name}/adam_m", "{name}/adam_v"),),
        step=("int64", ()),
        ignored=(r"(?!cls/|bert/).*(learning_rate|signal_early_stopping).*",),
        # google-research/bert@bee6030; the published weights were trained with the erf form before it.
        computes=("layer_norm_eps 1e-12", "the tanh form of GELU for gelu since 2019"),
    ),
    "tensorflow-2": _TENSORFLOW_2,
    "tensorflow-2-old": dataclasses.replace(
        _TENSORFLOW_2,
        source="the same before autumn 2020 (networks/transformer_encoder.py, layers/transformer.py)",
        modules={
            **_TENSORFLOW_2_MODULES,
            "bert.encoder.layer.{i}.attention.output.dense": f"{_TENSORFLOW_2_LAYER}/self_attention_output",
        },
    ),
    "nvidia": Family(
        "NVIDIA/DeepLearningExamples, PyTorch/LanguageModeling/BERT/modeling.py",
        _NVIDIA_MODULES,
        _PLAIN,
        _HUGGING_FACE_PREFIXES,
        tied={"{cls}cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight"},
        stores_tied=True,
        rows_multiple=8,
        bare_encoder=True,
        # NVIDIA/DeepLearningExamples@a9e2c1d5; before it the erf form, with 1.41421 for the square root of 2.
        computes=("layer_norm_eps 1e-12", "the tanh form of GELU for gelu since 2022"),
    ),
    "uer": Family(
        "UER-py since July 2023 and TencentPretrain since October 2022 (embeddings/, encoders/transformer_encoder.py, "
        "targets/, finetune/)",
        _UER_MODULES,
        {**_PLAIN, "norm": _GAMMA_BETA},
        (("", ""),),
        heads=(_sentence_pairs("target.sp.linear_1", "target.sp.linear_2"), *_UER_TASKS),
        layouts={"bert.embeddings.token_type_embeddings.weight": ROW_FOR_PADDING},
        tied={"{cls}target.mlm.linear_2.weight": "bert.embeddings.word_embeddings.weight"},
        stores_tied=True,
        computes=_UER_COMPUTES,
    ),
    "uer-old": Family(
        "UER-py before July 2023 and the first TencentPretrain; the heads of sentence pairs are called sp_linear since "
        "February 2022, nsp_linear before",
        _UER_OLD_MODULES,
        {**_PLAIN, "norm": _GAMMA_BETA},
        (("", ""),),
        heads=(
            _sentence_pairs("target.sp_linear_1", "target.sp_linear_2"),
            _sentence_pairs("target.nsp_linear_1", "target.nsp_linear_2"),
            *_UER_TASKS,
        ),
        layouts={"bert.embeddings.token_type_embeddings.weight": ROW_FOR_PADDING},
        tied={"{cls}target.mlm_linear_2.weight": "bert.embeddings.word_embeddings.weight"},
        stores_tied=True,
        computes=_UER_COMPUTES,
    ),
}
