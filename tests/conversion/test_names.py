"""The tables: one-to-one, complete, and the names that the other sides really use."""

import itertools

import pytest

from conversion.families import FAMILIES
from conversion.names import Spelling, models, renamed, spellings, written
from conversion.parameters import ARCHITECTURES, BACKBONE, MODULES, PARTS, architecture_of, parameters, shapes
from ms_bert.config import PRESETS
from ms_bert.errors import UserError

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
    ours = shapes(config, {*BACKBONE, *ARCHITECTURES[architecture].parts} | pooler)
    assert list(ours.items()) == list(names.items())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_architecture_is_known_by_its_parts(architecture):
    found = architecture_of(ARCHITECTURES[architecture].parts)
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
# NVIDIA/DeepLearningExamples@729963dd, PyTorch/LanguageModeling/BERT/modeling.py: state_dict of BertForPreTraining, and
# the heads of its other classes. Its other names are Hugging Face's.
GOLDEN["nvidia"] = """
        bert.embeddings.word_embeddings.weight bert.embeddings.position_embeddings.weight
        bert.embeddings.token_type_embeddings.weight
        bert.embeddings.LayerNorm.weight bert.embeddings.LayerNorm.bias
        bert.encoder.layer.0.attention.self.query.weight bert.encoder.layer.0.attention.self.query.bias
        bert.encoder.layer.0.attention.self.key.weight bert.encoder.layer.0.attention.self.key.bias
        bert.encoder.layer.0.attention.self.value.weight bert.encoder.layer.0.attention.self.value.bias
        bert.encoder.layer.0.attention.output.dense.weight bert.encoder.layer.0.attention.output.dense.bias
        bert.encoder.layer.0.attention.output.LayerNorm.weight bert.encoder.layer.0.attention.output.LayerNorm.bias
        bert.encoder.layer.0.intermediate.dense_act.weight bert.encoder.layer.0.intermediate.dense_act.bias
        bert.encoder.layer.0.output.dense.weight bert.encoder.layer.0.output.dense.bias
        bert.encoder.layer.0.output.LayerNorm.weight bert.encoder.layer.0.output.LayerNorm.bias
        bert.pooler.dense_act.weight bert.pooler.dense_act.bias
        cls.predictions.bias cls.predictions.transform.dense_act.weight cls.predictions.transform.dense_act.bias
        cls.predictions.transform.LayerNorm.weight cls.predictions.transform.LayerNorm.bias
        cls.seq_relationship.weight cls.seq_relationship.bias
        classifier.weight classifier.bias qa_outputs.weight qa_outputs.bias"""
# dbiir/UER-py@5743050 and Tencent/TencentPretrain@ed79843: state_dict of build_model with word, pos and seg embeddings
# and the target mlm.
GOLDEN["uer"] = """
        embedding.word.embedding.weight embedding.pos.embedding.weight embedding.seg.embedding.weight
        embedding.layer_norm.gamma embedding.layer_norm.beta
        encoder.transformer.0.self_attn.linear_layers.0.weight encoder.transformer.0.self_attn.linear_layers.0.bias
        encoder.transformer.0.self_attn.linear_layers.1.weight encoder.transformer.0.self_attn.linear_layers.1.bias
        encoder.transformer.0.self_attn.linear_layers.2.weight encoder.transformer.0.self_attn.linear_layers.2.bias
        encoder.transformer.0.self_attn.final_linear.weight encoder.transformer.0.self_attn.final_linear.bias
        encoder.transformer.0.layer_norm_1.gamma encoder.transformer.0.layer_norm_1.beta
        encoder.transformer.0.feed_forward.linear_1.weight encoder.transformer.0.feed_forward.linear_1.bias
        encoder.transformer.0.feed_forward.linear_2.weight encoder.transformer.0.feed_forward.linear_2.bias
        encoder.transformer.0.layer_norm_2.gamma encoder.transformer.0.layer_norm_2.beta
        target.mlm.linear_2.bias target.mlm.linear_1.weight target.mlm.linear_1.bias
        target.mlm.layer_norm.gamma target.mlm.layer_norm.beta"""
# dbiir/UER-py@49537c0, of 2022.
GOLDEN["uer-old"] = """
        embedding.word_embedding.weight embedding.position_embedding.weight embedding.segment_embedding.weight
        embedding.layer_norm.gamma embedding.layer_norm.beta
        encoder.transformer.0.self_attn.linear_layers.0.weight encoder.transformer.0.self_attn.linear_layers.0.bias
        encoder.transformer.0.self_attn.linear_layers.1.weight encoder.transformer.0.self_attn.linear_layers.1.bias
        encoder.transformer.0.self_attn.linear_layers.2.weight encoder.transformer.0.self_attn.linear_layers.2.bias
        encoder.transformer.0.self_attn.final_linear.weight encoder.transformer.0.self_attn.final_linear.bias
        encoder.transformer.0.layer_norm_1.gamma encoder.transformer.0.layer_norm_1.beta
        encoder.transformer.0.feed_forward.linear_1.weight encoder.transformer.0.feed_forward.linear_1.bias
        encoder.transformer.0.feed_forward.linear_2.weight encoder.transformer.0.feed_forward.linear_2.bias
        encoder.transformer.0.layer_norm_2.gamma encoder.transformer.0.layer_norm_2.beta
        target.mlm_linear_2.bias target.mlm_linear_1.weight target.mlm_linear_1.bias
        target.layer_norm.gamma target.layer_norm.beta"""
# tensorflow/models, official/nlp/modeling: variables of a BertPretrainerV2 of tf-models-official 2.20, its heads aside.
GOLDEN["tensorflow-2"] = """
        word_embeddings/embeddings position_embedding/embeddings type_embeddings/embeddings
        embeddings/layer_norm/gamma embeddings/layer_norm/beta
        transformer/layer_0/self_attention/query/kernel transformer/layer_0/self_attention/query/bias
        transformer/layer_0/self_attention/key/kernel transformer/layer_0/self_attention/key/bias
        transformer/layer_0/self_attention/value/kernel transformer/layer_0/self_attention/value/bias
        transformer/layer_0/self_attention/attention_output/kernel
        transformer/layer_0/self_attention/attention_output/bias
        transformer/layer_0/self_attention_layer_norm/gamma transformer/layer_0/self_attention_layer_norm/beta
        transformer/layer_0/intermediate/kernel transformer/layer_0/intermediate/bias
        transformer/layer_0/output/kernel transformer/layer_0/output/bias
        transformer/layer_0/output_layer_norm/gamma transformer/layer_0/output_layer_norm/beta
        pooler_transform/kernel pooler_transform/bias
        cls/predictions/output_bias/bias cls/predictions/transform/dense/kernel cls/predictions/transform/dense/bias
        cls/predictions/transform/LayerNorm/gamma cls/predictions/transform/LayerNorm/beta"""
# The same at tensorflow/models@00d99cbb, of early 2020: networks/transformer_encoder.py, layers/transformer.py.
GOLDEN["tensorflow-2-old"] = GOLDEN["tensorflow-2"].replace("self_attention/attention_output", "self_attention_output")
# What these call the heads: uer/targets/sp_target.py and finetune/run_classifier.py, run_ner.py, run_cmrc.py; before
# dbiir/UER-py@23a60d6 uer/targets/bert_target.py.
GOLDEN_HEADS = {
    ("uer", "BertForPreTraining"): ["target.sp.linear_1 target.sp.linear_2"],
    ("uer", "BertForSequenceClassification"): ["output_layer_1 output_layer_2"],
    ("uer", "BertForTokenClassification"): ["output_layer"],
    ("uer", "BertForQuestionAnswering"): ["output_layer"],
    ("uer-old", "BertForPreTraining"): [
        "target.sp_linear_1 target.sp_linear_2",
        "target.nsp_linear_1 target.nsp_linear_2",
    ],
}
# What is stored a second time.
GOLDEN_TIED = {
    "nvidia": "cls.predictions.decoder.weight",
    "uer": "target.mlm.linear_2.weight",
    "uer-old": "target.mlm_linear_2.weight",
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


@pytest.mark.parametrize("family, architecture", GOLDEN_HEADS)
def test_the_heads_are_called_as_on_the_other_side(family, architecture):
    rows = [list(rows.values()) for name, rows in FAMILIES[family].heads if name == architecture]
    assert rows == [["{cls}" + name for name in names.split()] for names in GOLDEN_HEADS[family, architecture]]


@pytest.mark.parametrize("family", GOLDEN_TIED)
def test_what_is_stored_twice_is_written_twice(family):
    tied = written(family, "BertForPreTraining").tied()
    assert tied == {GOLDEN_TIED[family]: "bert.embeddings.word_embeddings.weight"} and FAMILIES[family].stores_tied


def names_of(prefix: str) -> list[str]:
    return list(Spelling("hugging-face", ("bert.", ""), prefix).names(2, [*BACKBONE, "classifier"]).values())


@pytest.mark.parametrize(
    "names, found",
    [
        (names_of(""), [""]),
        (names_of("module.model."), ["module.model."]),
        ([*names_of("query."), *names_of("doc.")], ["doc.", "query."]),
        ([*names_of(""), *names_of("teacher.")], ["bert.", "teacher."]),
        ([*names_of(""), *(f"adam_m.{name}" for name in names_of(""))], [""]),
        ([*names_of(""), *(f"accu_grads.{name}" for name in names_of(""))], [""]),
        (["a.my_embeddings.word_embeddings.weight"], []),
    ],
)
def test_the_models_of_a_file_are_told_by_their_prefixes(names, found):
    assert models(names) == [prefix or "bert." for prefix in found]


@pytest.mark.parametrize(
    "classifier, prefix, wrapper",
    [
        ("model.classifier.weight", ("encoder.", ""), "model."),
        ("classifier.weight", ("model.encoder.", ""), ""),
        ("model.encoder.classifier.weight", ("", ""), "model.encoder."),
    ],
)
def test_a_head_may_stand_at_any_height_above_its_encoder(classifier, prefix, wrapper):
    """As with `self.encoder = BertModel(...); self.classifier = nn.Linear(...)` in a module of one's own."""
    encoder = Spelling("hugging-face", ("", ""), "model.encoder.").names(2, BACKBONE).values()
    found = spellings([*encoder, classifier])[0]
    assert (found.prefix, found.wrapper) == (prefix, wrapper)
    assert found.names(2)["classifier.weight"] == classifier


def test_a_name_of_thousands_of_modules_is_read_soon():
    deep = "a." * 50_000
    assert spellings([f"{deep}embeddings.word_embeddings.weight"])[0].names(0)["classifier.bias"].endswith(".bias")


def test_names_are_renamed_by_module_and_moments_with_them():
    names = ["m.fc.weight", "m.fc.bias", "m.fc2.weight", "adam_m.m.fc.weight", "head", "a/b/kernel"]
    rules = {"m.fc": "m.classifier", "head.": "top", "a": ""}
    expected = ["m.classifier.weight", "m.classifier.bias", "m.fc2.weight", "adam_m.m.classifier.weight", "top"]
    assert list(renamed(names, rules).values()) == [*expected, "b/kernel"]
    for rules, words in (
        ({"fc": "classifier"}, "no tensor has this name; the names begin with 'm', 'adam_m', 'head', 'a'"),
        ({"m.fc": "m.fc2"}, "gives the name 'm.fc2.weight' to both"),
    ):
        with pytest.raises(UserError, match=words):
            renamed(names, rules)


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
