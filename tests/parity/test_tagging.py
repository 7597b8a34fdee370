"""Tagging from a file to an answer: both frameworks, and transformers on the same folder."""

import json
import pickle
import random
import shutil

import pytest
import torch
import transformers
from safetensors.numpy import load_file

from ms_bert.commands import finetuning, prediction
from ms_bert.framework import MindSpore
from ms_bert.predict import load
from pt_reference.framework import PyTorch

pytestmark = pytest.mark.slow

CONFIG = dict(
    vocab_size=600,
    hidden_size=32,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=48,
    max_position_embeddings=64,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
)
FILLING = "the of in is an object with name that".split()
LABELS = ("B-LOC", "B-PER", "I-LOC", "I-PER", "O")
NAMES = {"PER": ("class", "classes"), "LOC": ("module", "package")}  # the first word of a name, and the second


def conll(count: int, long: int, seed: int) -> str:
    """Sentences of six words with names of one or two words, and some of many; at the end of each a word that BERT's
    clean-up leaves nothing of."""
    rng = random.Random(seed)
    lines = []
    for length in [6] * count + [30] * long:
        tagged: list[str] = []
        while len(tagged) < length:
            kind = rng.choice((None, *NAMES))
            tagged.append(f"{rng.choice(FILLING)}\tO" if kind is None else f"{NAMES[kind][0]}\tB-{kind}")
            if kind is not None and rng.random() < 0.5:
                tagged.append(f"{NAMES[kind][1]}\tI-{kind}")
        lines += [*tagged[:length], "\ufe0f\tO", ""]
    return "\n".join(lines)


@pytest.fixture(scope="module")
def command(vocabulary, cache, tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("tagging")
    torch.manual_seed(1)
    transformers.BertModel(transformers.BertConfig(**CONFIG)).save_pretrained(folder / "model")
    (folder / "model" / "tokenizer.json").write_text(vocabulary.to_json())
    for name, count, long in (("train", 96, 0), ("dev", 14, 2)):
        (folder / f"{name}.conll").write_text(conll(count, long, seed=count))
    files = ("--model", folder / "model", "--train", folder / "train.conll", "--dev", folder / "dev.conll")
    numbers = ("--longest", 24, "--batch-size", 16, "--epochs", 2, "--learning-rate", 1e-2, "--log-every", 5)
    return [*map(str, ("--task", "tagging", *files, *numbers, "--cache", cache))]


@pytest.fixture(scope="module")
def tuned(command, tmp_path_factory) -> dict:
    """The folder of a run of each framework."""
    folder = tmp_path_factory.mktemp("tuned")
    for framework in (MindSpore(), PyTorch()):
        arguments = [*command, "--output", str(folder / framework.name)]
        assert finetuning.main(framework, "finetune", "", arguments) == 0
    return {name: folder / name for name in ("MindSpore", "PyTorch")}


def kept(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]


def test_both_frameworks_learn_it_alike(tuned):
    logs = [[json.loads(line) for line in (path / "metrics.jsonl").open()] for path in tuned.values()]
    assert logs[0][-1]["held_out_f1"] > 0.9 > logs[0][0]["held_out_f1"]
    for mine, theirs in zip(*logs, strict=True):
        assert mine.keys() == theirs.keys()
        for name in mine.keys() & {"loss", "held_out_loss"}:
            assert mine[name] == pytest.approx(theirs[name], rel=2e-3, abs=1e-6)


def test_results_tell_the_scores_of_each_type_and_what_was_out_of_the_ordinary(tuned):
    results = json.loads((tuned["MindSpore"] / "results.json").read_text())
    assert list(results["metrics"]) == ["f1", "precision", "recall", "f1_strict", "accuracy"]
    assert list(results["types"]) == ["LOC", "PER"] and results["scheme"] == "bio"
    assert results["words_without_tokens"] == 16 and results["sentences_in_windows"] == 2
    for line in kept(tuned["MindSpore"]):
        assert len(line["gold"]) == len(line["tags"]) == len(line["words"]) and line["tags"][-1] == "O"


def test_a_model_is_scored_without_training(command, tuned, tmp_path):
    dev, run = command[command.index("--dev") + 1], tuned["PyTorch"]
    given = ["--evaluate", str(run), "--test", dev, "--task", "tagging", "--output", str(tmp_path / "scores")]
    assert finetuning.main(PyTorch(), "finetune", "", given) == 0
    found = json.loads((tmp_path / "scores/results.json").read_text())["test"][dev]
    own = json.loads((run / "results.json").read_text())
    assert found["metrics"] == own["metrics"] and found["types"] == own["types"]
    told = [json.loads(line) for line in (tmp_path / "scores/predictions-dev.jsonl").read_text().splitlines()]
    assert [line["tags"] for line in told] == [line["tags"] for line in kept(run)]


def test_transformers_loads_the_folder_and_tags_alike(tuned):
    folder = tuned["MindSpore"]
    model = transformers.AutoModelForTokenClassification.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    assert model.config.id2label == dict(enumerate(LABELS))
    short = [line for line in kept(folder) if len(line["words"]) < 16]
    assert len(short) > 8
    for line in short:
        given = tokenizer(line["words"], is_split_into_words=True, return_tensors="pt")
        shares = model(**given).logits[0].softmax(-1)
        places = {word: token for token, word in reversed(list(enumerate(given.word_ids()))) if word is not None}
        for word, (tag, score) in enumerate(zip(line["tags"], line["scores"])):
            if word in places:
                best = int(shares[places[word]].argmax())
                assert model.config.id2label[best] == tag
                assert shares[places[word], best].item() == pytest.approx(score, abs=1e-5)


def test_an_answer_does_not_depend_on_the_texts_beside_it(tuned):
    model = load(tuned["MindSpore"])
    given = [line["words"] for line in kept(tuned["MindSpore"])]
    together = model(given)
    assert [answer["tags"] for answer in together] == [line["tags"] for line in kept(tuned["MindSpore"])]
    assert [model([words])[0] for words in given[-4:]] == together[-4:]  # to the last bit, two of them in windows
    assert model(given[::-1]) == together[::-1] and model([]) == []
    assert pickle.loads(pickle.dumps(model))(given) == together  # in another process, too
    text = " ".join(given[1][:-1])  # but for the last word, of which no piece is left
    (answer,) = model([text])
    assert answer["words"] == given[1][:-1] and answer["scores"] == together[1]["scores"][:-1]
    assert "truncated" not in together[0]


def test_the_command_tags_texts_lines_and_files(tuned, command, tmp_path, capsys):
    def predict(*arguments) -> str:
        assert prediction.main(PyTorch(), "predict", "", [str(tuned["PyTorch"]), *map(str, arguments)]) == 0
        return capsys.readouterr().out

    assert predict("the class is in module package\nof") == "the [class](PER) is in [module package](LOC) of\n"
    (tmp_path / "a.txt").write_text("the class is\nthe of\n")
    lines = predict("--input", tmp_path / "a.txt", "--format", "csv").splitlines()
    assert lines[0] == "number,type,text,start,end,score" and lines[1].startswith("1,PER,class,4,9,0.")
    assert len(lines) == 2
    dev = command[command.index("--dev") + 1]
    answers = [json.loads(line) for line in predict("--input", dev, "--format", "jsonl").splitlines()]
    assert [answer["tags"] for answer in answers] == [line["tags"] for line in kept(tuned["PyTorch"])]
    (tmp_path / "a.txt").write_text("the O\nclass B-PER\n")
    told = predict("--input", tmp_path / "a.txt", "--columns", "text=1", "--format", "jsonl")
    assert json.loads(told)["words"] == ["the", "class"]


def test_a_student_learns_tags_from_a_teacher_alone(command, tuned, tmp_path):
    """And goes on without it. What the teacher says of each token is what transformers computes of it."""
    teacher, folder = tmp_path / "teacher", tmp_path / "student"
    shutil.copytree(tuned["MindSpore"], teacher)
    line = [*command, "--teacher", str(teacher), "--teacher-share", "1", "--temperature", "2", "--output", str(folder)]
    assert finetuning.main(PyTorch(), "finetune", "", [*line, "--steps", "11"]) == 0
    said = load_file(folder / "teacher.safetensors")["teacher_logits/dev"]
    words = json.loads((folder / "predictions.jsonl").read_text().splitlines()[0])["words"]
    given = transformers.AutoTokenizer.from_pretrained(teacher)(words, is_split_into_words=True, return_tensors="pt")
    model = transformers.AutoModelForTokenClassification.from_pretrained(teacher).eval()
    logits = model(**given).logits[0].detach().numpy()
    assert said.shape[1] == 5 and said[: len(logits)] == pytest.approx(logits, abs=1e-4)
    shutil.rmtree(teacher)
    assert finetuning.main(PyTorch(), "finetune", "", ["--resume", str(folder), "--steps", "12"]) == 0
    assert json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])["held_out_f1"] > 0.9
    assert "distillation" not in json.loads((folder / "task.json").read_text())


def test_teachers_that_cannot_speak_of_each_token_are_refused(command, tuned, tmp_path, capsys):
    teacher = tmp_path / "teacher"
    shutil.copytree(tuned["PyTorch"], teacher)
    line = [*command, "--teacher", str(teacher), "--output", str(tmp_path / "run")]

    def refused(*more: str) -> str:
        assert finetuning.main(PyTorch(), "finetune", "", [*line, *more]) == 2
        (told,) = capsys.readouterr().err.splitlines()
        return told

    assert "the vectors of whole texts, but tagging learns of single tokens; leave it" in refused(
        "--teacher-states", "1"
    )
    words = json.loads((teacher / "tokenizer.json").read_text())
    numbers = words["model"]["vocab"]
    numbers["the"], numbers["of"] = numbers["of"], numbers["the"]
    (teacher / "tokenizer.json").write_text(json.dumps(words))
    assert f"{teacher} has another vocabulary than the model" in refused()
    short = tmp_path / "short"
    transformers.BertForTokenClassification(
        transformers.BertConfig(**{**CONFIG, "max_position_embeddings": 12}, id2label=dict(enumerate(LABELS)))
    ).save_pretrained(short)
    capsys.readouterr()
    shutil.copy(tuned["PyTorch"] / "tokenizer.json", short / "tokenizer.json")
    line[line.index("--teacher") + 1] = str(short)
    assert f"the texts have up to 14 tokens, but {short} takes only 12; choose a smaller --longest" in refused()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "content, words",
    [
        ("class\tB-PER\nof\n", "dev.conll, line 2 has 1 column, but the first row has 2"),
        ("of\tO\nclass\tB-ORG\n", "dev.conll, line 1, the word 'class': the label 'B-ORG' is none of"),
        ("", "dev.conll holds no sentences"),
        ("caf\xe9\tO\n".encode("latin-1"), "dev.conll, line 1 is not UTF-8 text"),
    ],
)
def test_what_cannot_be_evaluated_is_one_sentence_before_a_folder_is_made(content, words, command, tmp_path, capsys):
    dev = tmp_path / "dev.conll"
    dev.write_bytes(content.encode() if isinstance(content, str) else content)
    arguments = [*command, "--dev", str(dev), "--output", str(tmp_path / "run")]
    assert finetuning.main(PyTorch(), "finetune", "", arguments) == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert told.startswith("finetune: ") and words in told
    assert not (tmp_path / "run").exists()
