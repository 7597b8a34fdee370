"""The tables: one-to-one, complete, and the names that the other sides really use."""

import itertools

import pytest

from conversion.names import FAMILIES, Spelling, spellings
from conversion.parameters import ARCHITECTURES, BACKBONE, MODULES, PARTS, architecture_of, parameters, shapes
from ms_bert.config import PRESETS

WRAPPERS = ("", "module._orig_mod.model.", "0.auto_model.")
SPELLINGS = [
    Spelling(family, prefix, wrapper if description.separator == "." else wrapper.replace(".", "/"), rows, architecture)
    for family, description in FAMILIES.items()
    for prefix in description.prefixes
    for wrapper in WRAPPERS
    for architecture, rows in ((None, {}), *description.heads)
]


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_table_is_one_to_one_and_covers_every_parameter(family, preset):
    layers = PRESETS[preset].num_hidden_layers
    every = parameters(layers)
    assert len(every) == 5 + 16 * layers + 13
    covered = set()
    for prefix, (_, rows) in itertools.product(FAMILIES[family].prefixes, FAMILIES[family].heads or ((None, {}),)):
        names = Spelling(family, prefix, rows=rows).names(layers)
        assert [name for name in every if name in names] == list(names)
        assert len(set(names.values())) == len(names)
        assert Spelling(family, prefix, rows=rows).layers(names.values()) == layers
        covered |= names.keys()
    assert covered == every.keys()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_table_has_a_row_for_every_module_and_no_other(family):
    rows = set(FAMILIES[family].modules).union(*(rows for _, rows in FAMILIES[family].heads))
    assert rows == MODULES.keys()
    for kind, leaves in FAMILIES[family].leaves.items():
        assert len(set(leaves.values())) == len(leaves), kind


@pytest.mark.parametrize("spelling", SPELLINGS, ids=str)
def test_every_spelling_is_recognised_from_its_names(spelling):
    for parts in ((*BACKBONE, "pooler", "mlm", "nsp"), (*BACKBONE, "pooler"), (*BACKBONE, "classifier")):
        names = spelling.names(2, parts)
        found = spellings(names.values(), architecture=spelling.architecture)
        assert found[0].names(2, parts) == names, found
        assert [found[0].layout(name) for name in names] == [spelling.layout(name) for name in names]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_canonical_names_shapes_and_order_are_those_of_transformers(architecture):
    transformers = pytest.importorskip("transformers")
    config = PRESETS["tiny"].replace(vocab_size=300, id2label={str(i): str(i) for i in range(5)})
    if architecture == "BertForQuestionAnswering":
        config = config.replace(id2label=None)
    elif architecture == "BertForMultipleChoice":
        config = config.replace(id2label={"0": "0"})
    theirs = getattr(transformers, architecture)(transformers.BertConfig(**config.to_dict()))
    names = {name: tuple(value.shape) for name, value in theirs.named_parameters()}
    if architecture == "BertModel":
        names = {f"bert.{name}": shape for name, shape in names.items()}
    pooler = {"pooler"} if any("pooler" in name for name in names) else set()
    ours = shapes(config, {*BACKBONE, *ARCHITECTURES[architecture]} | pooler)
    assert list(ours.items()) == list(names.items())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_architecture_is_known_by_its_parts(architecture):
    found = architecture_of(ARCHITECTURES[architecture])
    assert found == ("BertForSequenceClassification" if architecture == "BertForMultipleChoice" else architecture)
    every = [set(some) for n in range(6) for some in itertools.combinations(PARTS[2:], n)]
    known = [parts for parts in every if architecture_of(parts)]
    assert {"mlm", "classifier"} not in known and {"qa", "nsp"} not in known and set() in known


# What the other sides call the parameters of a BERT of one layer, in our order: written down from their sources, not
# made by the tables.
GOLDEN = {
    # google-research/bert: the variables of bert_model.ckpt, and of run_classifier.py and run_squad.py
    "tensorflow": """
        bert/embeddings/word_embeddings bert/embeddings/position_embeddings bert/embeddings/token_type_embeddings
        bert/embeddings/LayerNorm/gamma bert/embeddings/LayerNorm/beta
        bert/encoder/layer_0/attention/self/query/kernel bert/encoder/layer_0/attention/self/query/bias
        bert/encoder/layer_0/attention/self/key/kernel bert/encoder/layer_0/attention/self/key/bias
        bert/encoder/layer_0/attention/self/value/kernel bert/encoder/layer_0/attention/self/value/bias
        bert/encoder/layer_0/attention/output/dense/kernel bert/encoder/layer_0/attention/output/dense/bias
        bert/encoder/layer_0/attention/output/LayerNorm/gamma bert/encoder/layer_0/attention/output/LayerNorm/beta
        bert/encoder/layer_0/intermediate/dense/kernel bert/encoder/layer_0/intermediate/dense/bias
        bert/encoder/layer_0/output/dense/kernel bert/encoder/layer_0/output/dense/bias
        bert/encoder/layer_0/output/LayerNorm/gamma bert/encoder/layer_0/output/LayerNorm/beta
        bert/pooler/dense/kernel bert/pooler/dense/bias
        cls/predictions/output_bias cls/predictions/transform/dense/kernel cls/predictions/transform/dense/bias
        cls/predictions/transform/LayerNorm/gamma cls/predictions/transform/LayerNorm/beta
        cls/seq_relationship/output_weights cls/seq_relationship/output_bias
        output_weights output_bias cls/squad/output_weights cls/squad/output_bias""",
    # mindspore-ai/models, official/nlp/Bert: a checkpoint of run_pretrain.py, and of run_classifier.py and run_squad.py
    "mindspore-models": """
        bert.bert.bert_embedding_lookup.embedding_table
        bert.bert.bert_embedding_postprocessor.full_position_embedding.embedding_table
        bert.bert.bert_embedding_postprocessor.token_type_embedding.embedding_table
        bert.bert.bert_embedding_postprocessor.layernorm.gamma bert.bert.bert_embedding_postprocessor.layernorm.beta
        bert.bert.bert_encoder.layers.0.attention.attention.query_layer.weight
        bert.bert.bert_encoder.layers.0.attention.attention.query_layer.bias
        bert.bert.bert_encoder.layers.0.attention.attention.key_layer.weight
        bert.bert.bert_encoder.layers.0.attention.attention.key_layer.bias
        bert.bert.bert_encoder.layers.0.attention.attention.value_layer.weight
        bert.bert.bert_encoder.layers.0.attention.attention.value_layer.bias
        bert.bert.bert_encoder.layers.0.attention.output.dense.weight
        bert.bert.bert_encoder.layers.0.attention.output.dense.bias
        bert.bert.bert_encoder.layers.0.attention.output.layernorm.gamma
        bert.bert.bert_encoder.layers.0.attention.output.layernorm.beta
        bert.bert.bert_encoder.layers.0.intermediate.weight bert.bert.bert_encoder.layers.0.intermediate.bias
        bert.bert.bert_encoder.layers.0.output.dense.weight bert.bert.bert_encoder.layers.0.output.dense.bias
        bert.bert.bert_encoder.layers.0.output.layernorm.gamma bert.bert.bert_encoder.layers.0.output.layernorm.beta
        bert.bert.dense.weight bert.bert.dense.bias
        bert.cls1.output_bias bert.cls1.dense.weight bert.cls1.dense.bias
        bert.cls1.layernorm.gamma bert.cls1.layernorm.beta bert.cls2.dense.weight bert.cls2.dense.bias
        bert.dense_1.weight bert.dense_1.bias bert.dense1.weight bert.dense1.bias""",
    # mindnlp 0.1.1, mindnlp/models/bert/bert.py
    "mindnlp-0.1": """
        bert.embeddings.word_embeddings.embedding_table bert.embeddings.position_embeddings.embedding_table
        bert.embeddings.token_type_embeddings.embedding_table
        bert.embeddings.layer_norm.gamma bert.embeddings.layer_norm.beta
        bert.encoder.layer.0.attention.self_attn.query.weight bert.encoder.layer.0.attention.self_attn.query.bias
        bert.encoder.layer.0.attention.self_attn.key.weight bert.encoder.layer.0.attention.self_attn.key.bias
        bert.encoder.layer.0.attention.self_attn.value.weight bert.encoder.layer.0.attention.self_attn.value.bias
        bert.encoder.layer.0.attention.output.dense.weight bert.encoder.layer.0.attention.output.dense.bias
        bert.encoder.layer.0.attention.output.layer_norm.gamma bert.encoder.layer.0.attention.output.layer_norm.beta
        bert.encoder.layer.0.intermediate.dense.weight bert.encoder.layer.0.intermediate.dense.bias
        bert.encoder.layer.0.output.dense.weight bert.encoder.layer.0.output.dense.bias
        bert.encoder.layer.0.output.layer_norm.gamma bert.encoder.layer.0.output.layer_norm.beta
        bert.pooler.dense.weight bert.pooler.dense.bias
        cls.predictions.bias cls.predictions.transform.dense.weight cls.predictions.transform.dense.bias
        cls.predictions.transform.layer_norm.gamma cls.predictions.transform.layer_norm.beta
        cls.seq_relationship.weight cls.seq_relationship.bias
        classifier.weight classifier.bias qa_outputs.weight qa_outputs.bias""",
}
# mindspore-ai/mindspore, model_zoo before 1.2: the same but for two names.
GOLDEN["mindspore-models-old"] = (
    GOLDEN["mindspore-models"]
    .replace("full_position_embedding.embedding_table", "full_position_embeddings")
    .replace("token_type_embedding.embedding_table", "embedding_table")
)


@pytest.mark.parametrize("family", GOLDEN)
def test_the_names_are_those_of_the_other_side(family):
    assert list(Spelling(family, FAMILIES[family].prefixes[0]).names(1).values()) == GOLDEN[family].split()


def test_mindspores_cells_call_their_parameters_so():
    nn = pytest.importorskip("mindspore").nn
    for cell, kind in ((nn.Dense(2, 3), "linear"), (nn.LayerNorm((3,)), "norm"), (nn.Embedding(4, 3), "embedding")):
        assert {p.name for p in cell.get_parameters()} == set(FAMILIES["mindspore"].leaves[kind].values())


def test_the_names_of_mindspores_optimizer_states_are_its_own():
    mindspore = pytest.importorskip("mindspore")
    made = (mindspore.nn.AdamWeightDecay, mindspore.nn.Lamb, mindspore.nn.Adam)
    for kind, (first, second) in zip(made, FAMILIES["mindspore"].moments):
        optimizer = kind([mindspore.Parameter(mindspore.Tensor([1.0]), name="bert.w")], learning_rate=0.1)
        names = {p.name for p in optimizer.get_parameters()}
        assert {first.format(name="bert.w"), second.format(name="bert.w"), "global_step"} <= names
