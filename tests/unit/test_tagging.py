"""Tagging: words and their pieces, windows, targets, scores and answers."""

import dataclasses
import random

import numpy as np
import pytest

from ms_bert.data.conll import Sentence
from ms_bert.errors import UserError
from ms_bert.finetuning_options import DataOptions
from ms_bert.tasks.pictures import drawn
from ms_bert.tasks.tagging import LABEL_WEIGHTS, Tagging
from ms_bert.tasks.word_windows import divided, found_words, sequences, windows
from tests.unit import drawings

NER = Tagging(("B-LOC", "B-PER", "I-LOC", "I-PER", "O"), Tagging.span_measures, 16, "", "bio")
POS = Tagging(("DET", "NOUN", "VERB"), Tagging.word_measures, 16, "", "none", "NOUN")


def sentence(text: str) -> Sentence:
    """Of word/tag pairs."""
    words, tags = zip(*(pair.rsplit("/", 1) for pair in text.split()))
    return Sentence(words, tags, "a.conll, line 1")


def data(**changes) -> DataOptions:
    return dataclasses.replace(DataOptions(task="tagging"), **changes)


# Words


def test_a_text_is_divided_as_bert_does_and_its_words_are_found_again(vocabulary):
    text = "Caf\u00e9 cafe\u0301, na\u200bive \u200b 𝒳\U0001f468\u200d\U0001f469b\n北京 don't  "
    (found,) = found_words([text], vocabulary)
    expected = [
        "Caf\u00e9",
        "cafe\u0301",
        ",",
        "na\u200bive",
        "𝒳\U0001f468\u200d\U0001f469b",
        "北",
        "京",
        "don",
        "'",
        "t",
    ]
    assert found.words == expected
    assert [text[start:end] for start, end in found.offsets] == expected
    assert all(found.pieces) and found_words([""], vocabulary)[0].words == []
    ids = vocabulary.tokenizer.encode(text, add_special_tokens=False).ids
    assert [piece for word in found.pieces for piece in word] == ids


def test_words_that_are_given_keep_their_number_whatever_is_left_of_them(vocabulary):
    words = ("U.N.", "\ufe0f", "New York", "", "class")
    given, text = divided([Sentence(words), Sentence((), text="class")], vocabulary)
    assert [len(pieces) > 0 for pieces in given.pieces] == [True, False, True, False, True]
    assert given.pieces[4] == text.pieces[0] and [given.text[a:b] for a, b in given.offsets] == list(words)


# Windows


def test_windows_hold_whole_words_overlap_and_leave_none_out():
    rng = random.Random(0)
    for _ in range(500):
        room = rng.randint(2, 12)
        sizes = [rng.randint(0, room if rng.random() < 0.2 else 2) for _ in range(rng.randint(0, 40))]
        found = windows(sizes, room)
        assert found[0][0] == 0 and found[-1][1] == len(sizes)
        assert all(sum(sizes[first:last]) <= room for first, last in found)
        assert all(a < c <= b <= d for (a, b), (c, d) in zip(found, found[1:]))
    assert windows([1] * 10, 10) == [(0, 10)]
    assert windows([1] * 23, 10) == [(0, 10), (5, 15), (10, 20), (13, 23)]


def test_each_word_is_tagged_once_where_it_has_most_context(vocabulary):
    words = tuple("the class of a module is an object in the name".split()) * 4
    made = sequences(divided([Sentence(words), Sentence(("class",))], vocabulary), vocabulary, 16)
    assert made.owners.tolist() == [0] * 6 + [1]
    assert len(made.tokens) == len(words) + 1 == len(set(made.tokens.tolist()))
    owners = np.searchsorted(made.starts, made.tokens, side="right") - 1
    assert (np.diff(owners) >= 0).all() and set(owners.tolist()) == set(range(len(made)))
    within = made.tokens - made.starts[owners]
    context = np.minimum(within - 1, made.lengths[owners] - 2 - within)
    inner = (owners > 0) & (owners < 5)  # windows beyond which the sentence goes on at both ends
    assert context[inner].min() >= 2
    pieces = [piece for word in made.sentences[0].pieces for piece in word[:1]]
    assert made.ids[made.tokens[:-1]].tolist() == pieces and not made.cut.any()


def test_of_a_word_that_is_longer_than_a_window_the_first_pieces_are_read(vocabulary):
    made = sequences(divided([Sentence(("class", "." * 40, "of"))], vocabulary), vocabulary, 8)
    assert made.cut.any() and (made.tokens >= 0).all() and made.lengths.max() == 8


# The task


def test_only_first_pieces_have_labels(vocabulary):
    given = [sentence("internationalisation/B-PER \ufe0f/I-PER of/O"), sentence("class/B-LOC")]
    made = NER.sequences(given, vocabulary)
    assert made.tokens[1] == -1
    seen = made.tokens[made.tokens >= 0]
    assert made.of_tokens["labels"][seen].tolist() == [1, 4, 0]
    assert made.of_tokens[LABEL_WEIGHTS].sum() == 3 and (made.of_tokens[LABEL_WEIGHTS][seen] == 1).all()
    assert not NER.sequences(given, vocabulary, labelled=False).of_tokens


@pytest.mark.parametrize(
    "lines, changes, expected",
    [
        (["a/O b/B-X c/I-X"], {}, Tagging(("B-X", "I-X", "O"), Tagging.span_measures, 128, "", "bio")),
        (["a/B-X b/B-Y"], {"longest": 64}, Tagging(("B-X", "B-Y", "O"), Tagging.span_measures, 64, "", "bio")),
        (["a/DET b/NOUN c/NOUN"], {}, Tagging(("DET", "NOUN"), Tagging.word_measures, 128, "", "none", "NOUN")),
        (["a/O b/PER"], {"scheme": "io"}, Tagging(("O", "PER"), Tagging.span_measures, 128, "", "io")),
        (["a/O b/I-X"], {"scheme": "iob1"}, Tagging(("I-X", "O"), Tagging.span_measures, 128, "", "iob1")),
    ],
)
def test_a_task_is_made_of_the_tags_of_its_data(lines, changes, expected):
    task = Tagging.of(data(**changes), [sentence(line) for line in lines])
    assert task == expected == Tagging.from_remembered(task.remembered())


def test_a_model_from_elsewhere_is_known_by_its_labels():
    task = Tagging.of_labels(["O", "B-PER", "I-PER", "[PAD]"], 512)
    assert task.labels == ("O", "B-PER", "I-PER", "[PAD]") and task.scheme == "bio" and task.blank == "O"
    assert Tagging.of_labels(["LABEL_0", "LABEL_1"], 512).scheme == "none"
    for labels in (
        ["[PAD]", "B", "I", "O", "X", "[CLS]", "[SEP]"],
        ["O", "B-Disease", "I-Disease", "X", "[CLS]", "[SEP]"],
    ):
        assert Tagging.of_labels(labels, 512).scheme == "bio"
    assert Tagging.of_labels(["O", "PER", "LOC"], 512).scheme == "io"  # as transformers reads them
    assert Tagging.of_labels(["A", "Caa", "I", "Na", "VA"], 512).scheme == "none"  # parts of speech, CKIP's
    assert Tagging.of_labels(["AD", "M", "NN", "VV", "O"], 512).scheme == "none"  # and those of the Chinese Treebank
    assert Tagging.of_labels(["B-PER", "I-PER"], 512).blank == "B-PER"  # it cannot say that a word is outside


@pytest.mark.parametrize(
    "lines, changes, words",
    [
        (["a/O b/O"], {}, "has the tags O; tagging needs at least 2"),
        (["a/O b/B-X", "a/PER"], {}, "a.conll, line 1 and others have the tags PER, which are not of the scheme bio"),
        (
            ["a/O b/B_PER", "a/I_PER"],
            {},
            "the tags B_PER, I_PER, which look like B-NAME and I-NAME in another spelling",
        ),
        (["a/o b/b-per", "a/i-per c/O"], {"scheme": "bio"}, "which are not of the scheme bio"),
        (["a/PER-B b/PER-I", "c/O d/LOC-B"], {}, "the tags 'LOC-B', 'PER-B', 'PER-I', which look like B-NAME"),
        (["a/b-per b/i-per", "c/O"], {}, "in another spelling; write them so, or count them as they are with --scheme"),
        (["a/O b/PER"], {"scheme": "bioes"}, "not of the scheme bioes"),
    ],
)
def test_tags_that_make_no_task_are_told(lines, changes, words):
    with pytest.raises(UserError, match=words):
        Tagging.of(data(**changes), [sentence(line) for line in lines])


def test_a_tag_that_was_not_trained_is_told_with_its_place_and_word(vocabulary):
    with pytest.raises(UserError, match="a.conll, line 1, the word 'b': the label 'B-ORG' is none of 'B-LOC'"):
        NER.sequences([sentence("a/O b/B-ORG")], vocabulary)
    with pytest.raises(
        UserError, match="--class-weights balanced is for classification and answer selection, not for tagging"
    ):
        NER.weights_of(NER.sequences([sentence("a/O")], vocabulary))


def logits_of(task: Tagging, made, tags: list[str]) -> np.ndarray:
    """Of a model that is sure of these tags."""
    logits = np.random.default_rng(3).normal(size=(len(made.ids), len(task.labels))).astype(np.float32)
    for token, tag in zip(made.tokens.tolist(), tags):
        if token >= 0:
            logits[token] = 0.0
            logits[token, task.labels.index(tag)] = np.log(9.0)
    return logits


def test_entities_are_scored_and_words_without_pieces_count(vocabulary):
    given = [
        sentence("class/B-PER of/I-PER module/O \ufe0f/B-LOC"),  # the last one is never found
        sentence("name/B-LOC in/B-LOC class/I-LOC is/O"),
        sentence("class/O"),
    ]
    made = NER.sequences(given, vocabulary)
    guessed = "B-PER I-PER O O B-LOC I-PER I-LOC O O".split()
    logits = logits_of(NER, made, guessed)
    scores = NER.scores(made, logits)
    # Found leniently: PER 0-1, LOC, PER, LOC; there are PER, LOC, LOC, LOC: two are right.
    assert scores == pytest.approx(
        {"precision": 2 / 4, "recall": 2 / 4, "f1": 0.5, "f1_strict": 2 * 2 / (4 + 2), "accuracy": 7 / 9}
    )
    details = NER.details(made, logits)
    assert details["types"]["LOC"] == pytest.approx(
        {"precision": 0.5, "recall": 1 / 3, "f1": 0.4, "support": 3, "found": 2}
    )
    assert (details["scheme"], details["words"], details["words_without_tokens"]) == ("bio", 9, 1)
    intervals = NER.intervals(made, logits)
    assert list(intervals) == list(NER.measures)
    assert all(low <= scores[name] <= high for name, (low, high) in intervals.items())


def test_parts_of_speech_are_scored_by_words(vocabulary):
    given = [sentence("the/DET class/NOUN is/VERB"), sentence("\ufe0f/NOUN name/NOUN")] * 20
    made = POS.sequences(given, vocabulary)
    logits = logits_of(POS, made, "DET NOUN NOUN NOUN NOUN".split() * 20)
    assert POS.scores(made, logits) == pytest.approx({"accuracy": 0.8, "f1_macro": (1 + 6 / 7 + 0) / 3})
    assert POS.details(made, logits)["labels"]["VERB"]["support"] == 20
    low, high = POS.intervals(made, logits)["accuracy"]
    # Sentences are drawn, not words: 2 of 3 words of one kind are right and 2 of 2 of the other.
    assert 2 / 3 < low < 0.8 < high < 0.9 and POS.intervals(made, logits)["f1_macro"][0] < 0.62


def test_the_loss_of_a_batch_without_words_is_0(vocabulary):
    assert NER.metrics({"loss": 0.0, "correct": 0.0, "count": 0.0}) == {"loss": 0.0, "accuracy": 0.0}
    made = NER.sequences([Sentence((), (), "")], vocabulary)
    assert NER.scores(made, np.zeros((2, 5), np.float32))["f1"] == 0.0


def test_an_answer_has_words_tags_and_spans_of_the_text(vocabulary):
    text = "Th\u00e9\u0301 \U0001f600 module,  of \n class"
    made = NER.sequences([NER.example(text)], vocabulary, labelled=False)
    (answer,) = NER.answers(made, logits_of(NER, made, "B-PER I-PER O O I-LOC I-LOC".split()))
    assert answer["words"] == ["Th\u00e9\u0301", "\U0001f600", "module", ",", "of", "class"]
    assert answer["tags"] == ["B-PER", "I-PER", "O", "O", "I-LOC", "I-LOC"]
    assert answer["scores"] == pytest.approx([9 / 13] * 6)
    spans = [(span["type"], span["text"], text[span["start"] : span["end"]]) for span in answer["spans"]]
    first, last = "Th\u00e9\u0301 \U0001f600", "of \n class"
    assert spans == [("PER", first, first), ("LOC", last, last)]
    assert answer["spans"][0]["score"] == pytest.approx(9 / 13)
    example = NER.example(text)
    assert NER.plain(example, answer) == f"[{first}](PER) module, [of class](LOC)"
    assert NER.inputs(example) == {"text": text}
    assert NER.table([example], [answer])[1] == [1, "PER", first, 0, 6, pytest.approx(9 / 13)]


def test_an_answer_about_given_words_and_parts_of_speech(vocabulary):
    example = POS.example(["the", "class", "\ufe0f"])
    made = POS.sequences([example, POS.example("")], vocabulary, labelled=False)
    answer, empty = POS.answers(made, logits_of(POS, made, ["DET", "VERB", "VERB"]))
    assert answer["tags"] == ["DET", "VERB", "NOUN"] and answer["scores"][2] == 1.0 and "spans" not in answer
    assert POS.plain(example, answer) == "the/DET class/VERB \ufe0f/NOUN"
    assert [row[:5] for row in POS.table([example], [answer])[:2]] == [
        ["number", "word", "tag", "start", "end"],
        [1, "the", "DET", 0, 3],
    ]
    assert empty["words"] == empty["tags"] == []
    with pytest.raises(UserError, match="is neither a text nor a list of words"):
        POS.example([1, 2])


def test_entities_are_drawn_by_type_and_length_and_as_what_they_are_taken(vocabulary):
    given = [sentence("class/B-PER of/I-PER module/O name/B-LOC"), sentence("in/B-LOC class/I-LOC is/O")]
    made = NER.sequences(given, vocabulary)
    logits = logits_of(NER, made, "B-PER I-PER O O B-LOC I-PER B-PER".split())
    by_type, by_length, words = NER.drawings(made, logits)
    # There are PER 0-1, LOC, LOC 0-1; found are PER 0-1, LOC, PER, PER.
    assert drawings.bars(by_type) == {"LOC (2)": [0.0], "PER (1)": [pytest.approx(1 / 2)]}
    assert drawings.bars(by_length) == {"1 (1)": [0.0, 0.0], "2 (2)": [0.5, 1.0]}
    found = {pair: number for pair, number in drawings.confusion(words).items() if number != "0"}
    assert found == {
        ("PER", "PER"): "2",
        ("LOC", "LOC"): "1",
        ("LOC", "PER"): "1",
        ("LOC", "O"): "1",
        ("O", "O"): "1",
        ("O", "PER"): "1",
    }
    assert drawn([by_type, by_length, words]).startswith(b"\x89PNG")


def test_a_type_that_is_only_found_is_drawn_and_where_there_is_none_nothing_fails(vocabulary):
    made = NER.sequences([sentence("class/O of/O module/O")], vocabulary)
    by_type, by_length, words = NER.drawings(made, logits_of(NER, made, "O B-PER O".split()))
    assert drawings.bars(by_type) == {"PER (0)": [0.0]} and drawings.bars(by_length) == {"1 (0)": [0.0]}
    assert drawings.confusion(words)["O", "PER"] == "1"
    nothing = NER.drawings(made, logits_of(NER, made, "O O O".split()))
    assert [drawings.bars(drawing) for drawing in nothing] == [{}, {}]  # one kind of word is no confusion
    assert drawn(nothing).startswith(b"\x89PNG")


def test_parts_of_speech_are_drawn_by_tag(vocabulary):
    made = POS.sequences([sentence("the/DET class/NOUN is/VERB name/NOUN")], vocabulary)
    by_tag, words = POS.drawings(made, logits_of(POS, made, "DET NOUN NOUN NOUN".split()))
    assert drawings.bars(by_tag) == {"NOUN (2)": [pytest.approx(0.8)], "DET (1)": [1.0], "VERB (1)": [0.0]}
    assert drawings.confusion(words)["VERB", "NOUN"] == "1" and drawings.axes_of(by_tag).get_title() == "F1 by tag"
