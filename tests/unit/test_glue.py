"""Each of GLUE's tasks is read from its own files and from the hub's, with labels by name."""

import json

import pyarrow as pa
import pytest
from pyarrow import parquet

from ms_bert.errors import UserError
from ms_bert.tasks import glue, metrics

BOM = "\ufeff"
PARSES = "( a )\t( b )\t(ROOT a)\t(ROOT b)"
TREES = "sentence1_binary_parse\tsentence2_binary_parse\tsentence1_parse\tsentence2_parse"
MNLI = f"index\tpromptID\tpairID\tgenre\t{TREES}\tsentence1\tsentence2\t"
# Of each task the text of a file as GLUE publishes it, what it holds, and what is left out of it.
FILES = {
    "cola": (
        "bc01\t1\t\tThe \"car' honked its way down.\ngj04\t0\t*\tHim sailed.\n",
        [(("The \"car' honked its way down.",), "acceptable"), (("Him sailed.",), "unacceptable")],
        {},
    ),
    "sst2": (
        'sentence\tlabel\n" open and funny \t1\nnot so ... \t0\n',
        [(('" open and funny ',), "positive"), (("not so ... ",), "negative")],
        {},
    ),
    "mrpc": (
        f'{BOM}Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\r\n1\t70\t71\t"We won, he said.\tHe said they won.\r\n'
        "0\t72\t73\tIt fell.\tIt rose.\r\n",
        [(('"We won, he said.', "He said they won."), "equivalent"), (("It fell.", "It rose."), "not_equivalent")],
        {},
    ),
    "stsb": (
        "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore\n"
        '0\tmain-captions\tMSRvid\t2012test\t0001\tnone\tnone\tA "plane.\tA plane.\t4.250\n1\t\t\t\t\t\t\tA\tB\t0\n',
        [(('A "plane.', "A plane."), 4.25), (("A", "B"), 0.0)],
        {},
    ),
    "qqp": (
        'id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n1\t2\t3\tWhat is "this?\tWhat is that?\t0\n'
        "4\t5\t6\tHow do I\nstart?\tHow to start?\t1\n7\t8\t9\t\tWhy?\t1\n",
        [(('What is "this?', "What is that?"), "not_duplicate"), (("", "Why?"), "duplicate")],
        {"too few fields": 2},
    ),
    "mnli": (
        f'{MNLI}label1\tlabel2\tlabel3\tlabel4\tlabel5\tgold_label\n0\t6\t6n\tslate\t{PARSES}\tThe "new.\tIt is new.'
        f"\tneutral\tentailment\tneutral\tneutral\tneutral\tneutral\n1\t7\t7c\tslate\t{PARSES}\tA\tB"
        f"\tneutral\tcontradiction\tentailment\tneutral\tcontradiction\t-\n2\t8\t8e\tslate\t{PARSES}\tC\tD"
        "\tentailment\tentailment\tentailment\tneutral\tentailment\tcontradiction\n",
        [(('The "new.', "It is new."), "neutral"), (("C", "D"), "contradiction")],
        {"no gold label": 1},
    ),
    "qnli": (
        'index\tquestion\tsentence\tlabel\n0\tWhen did "it?\tIt ended.\tentailment\n1\tWho?\tIt.\tnot_entailment\n',
        [(('When did "it?', "It ended."), "entailment"), (("Who?", "It."), "not_entailment")],
        {},
    ),
    "rte": (
        'index\tsentence1\tsentence2\tlabel\n0\tNo "arms found.\tArms found.\tnot_entailment\n1\tA\tB\tentailment\n',
        [(('No "arms found.', "Arms found."), "not_entailment"), (("A", "B"), "entailment")],
        {},
    ),
    "wnli": (
        "index\tsentence1\tsentence2\tlabel\n0\tI stuck a pin in it.\tThe pin was in it.\t1\n1\tA\tB\t0\n",
        [(("I stuck a pin in it.", "The pin was in it."), "entailment"), (("A", "B"), "not_entailment")],
        {},
    ),
}
# Of each task a row of the hub's dataset, and what it holds.
HUB = {
    "cola": ({"sentence": "Go.", "label": 1, "idx": 0}, (("Go.",), "acceptable")),
    "sst2": ({"idx": 0, "sentence": "bad ", "label": 0}, (("bad ",), "negative")),
    "mrpc": ({"sentence1": "A", "sentence2": "B", "label": 1, "idx": 0}, (("A", "B"), "equivalent")),
    "stsb": ({"sentence1": "A", "sentence2": "B", "label": 3.75, "idx": 0}, (("A", "B"), 3.75)),
    "qqp": ({"question1": "A", "question2": "B", "label": 0, "idx": 0}, (("A", "B"), "not_duplicate")),
    "mnli": ({"premise": "A", "hypothesis": "B", "label": 2, "idx": 0}, (("A", "B"), "contradiction")),
    "qnli": ({"question": "A", "sentence": "B", "label": 0, "idx": 0}, (("A", "B"), "entailment")),
    "rte": ({"sentence1": "A", "sentence2": "B", "label": 1, "idx": 0}, (("A", "B"), "not_entailment")),
    "wnli": ({"sentence1": "A", "sentence2": "B", "label": 1, "idx": 0}, (("A", "B"), "entailment")),
}
# Of each task a test file without labels, as GLUE publishes it.
TESTS = {
    "cola": ("index\tsentence\n0\tBill whistled.\n", ("Bill whistled.",)),
    "sst2": ("index\tsentence\n0\tuneasy . \n", ("uneasy . ",)),
    "mrpc": (f"{BOM}index\t#1 ID\t#2 ID\t#1 String\t#2 String\n0\t1\t2\tA\tB\n", ("A", "B")),
    "qqp": ("id\tquestion1\tquestion2\n0\tA\tB\n", ("A", "B")),
    "mnli": (f"{MNLI.rstrip()}\n0\t1\t1\ttravel\t{PARSES}\tA\tB\n", ("A", "B")),
    "qnli": ("index\tquestion\tsentence\n0\tA\tB\n", ("A", "B")),
    "rte": ("index\tsentence1\tsentence2\n0\tA\tB\n", ("A", "B")),
}


def read(path, name, **options):
    made, skipped = glue.examples(glue.DATASETS[name], str(path), **options)
    return [(example.texts, example.label) for example in made], dict(skipped)


def told(path, name, **options) -> str:
    with pytest.raises(UserError) as caught:
        glue.examples(glue.DATASETS[name], str(path), **options)
    return str(caught.value)


def test_there_are_the_nine_tasks_with_metrics_that_there_are():
    assert set(glue.DATASETS) == set(FILES) == set(HUB)
    for dataset in glue.DATASETS.values():
        assert dataset.main in dataset.metrics
        kind = "regression" if dataset.regression else "classification"
        assert all(kind in metrics.METRICS[name].kinds for name in dataset.metrics)
        assert dataset.regression == (dataset.name == "stsb")


@pytest.mark.parametrize("name", FILES)
def test_the_files_that_glue_publishes_are_read(tmp_path, name):
    content, examples, skipped = FILES[name]
    path = tmp_path / ("msr_train.txt" if name == "mrpc" else "train.tsv")
    path.write_text(content, encoding="utf-8", newline="")
    assert read(path, name) == (examples, skipped)


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "csv"])
@pytest.mark.parametrize("name", HUB)
def test_the_form_of_the_hub_is_read(tmp_path, name, kind):
    row, expected = HUB[name]
    path = tmp_path / f"train.{kind}"
    if kind == "parquet":
        parquet.write_table(pa.Table.from_pylist([row]), path)
    elif kind == "jsonl":
        path.write_text(json.dumps(row))
    else:
        path.write_text(",".join(row) + "\n" + ",".join(map(str, row.values())) + "\n")
    assert read(path, name) == ([expected], {})


@pytest.mark.parametrize("name", TESTS)
def test_test_files_are_examples_without_labels(tmp_path, name):
    content, texts = TESTS[name]
    (tmp_path / "test.tsv").write_text(content, encoding="utf-8")
    assert read(tmp_path / "test.tsv", name, labels=False) == ([(texts, None)], {})
    assert "; name a file with labels" in told(tmp_path / "test.tsv", name)


def test_labels_are_left_unread_where_they_are_not_wanted(tmp_path):
    (tmp_path / "dev.tsv").write_text(FILES["mnli"][0])
    examples, skipped = read(tmp_path / "dev.tsv", "mnli", labels=False)
    assert [label for _, label in examples] == [None, None, None] and not skipped


def test_quotes_of_csv_are_honoured_in_glue_too(tmp_path):
    (tmp_path / "train.csv").write_text('sentence,label\n"warm, funny",positive\n')
    assert read(tmp_path / "train.csv", "sst2") == ([(("warm, funny",), "positive")], {})


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("sst2", "sentence\tlabel\na\t2\n", "line 2 has the label '2'; the labels of sst2 are negative, positive, '0'"),
        ("sst2", "sentence\tlabel\na\t\n", "line 2 has no label; give it one"),
        ("sst2", "sentence\tlabel\na\t-1\n", "line 2 has no label (-1)"),
        ("mnli", MNLI + "gold_label\n" + "\t" * 8 + "A\tB\t0\n", "line 2 has the label '0'; the labels of mnli are"),
        ("mnli", MNLI + "gold_label\n" + "\t" * 8 + "A\tB\t-\n", "no row of"),
        ("stsb", "sentence1\tsentence2\tscore\nA\tB\t7.5\n", "line 2 has the score '7.5'; expected a number from 0"),
        ("stsb", "sentence1\tsentence2\tscore\nA\tB\thigh\n", "line 2 has as its label 'high'; expected a number"),
        ("rte", "sentence\tlabel\nA\t0\n", "but those of rte are sentence1, sentence2, label"),
        ("mrpc", "sentence\tlabel\nA\t0\n", "'#1 String', '#2 String', Quality, or sentence1, sentence2, label"),
        ("cola", "gj04\t1\tNo mark.\n", "line 1 has 3 fields, but there are 4 columns (source, label, mark, sentence)"),
        ("rte", "index\tsentence1\tsentence2\tlabel\n0\tA\tentailment\n", "line 2 has 3 fields"),
    ],
)
def test_what_does_not_fit_the_task_is_told_with_its_place(tmp_path, name, content, words):
    (tmp_path / "train.tsv").write_text(content)
    assert words in told(tmp_path / "train.tsv", name)


def test_bad_rows_are_left_out_and_counted_if_this_is_asked_for(tmp_path):
    (tmp_path / "train.tsv").write_text("sentence\tlabel\na\t1\nb\t7\nc\nd\t\n")
    assert read(tmp_path / "train.tsv", "sst2", skip_bad=True) == (
        [(("a",), "positive")],
        {"another label": 1, "too few fields": 1, "no label": 1},
    )
