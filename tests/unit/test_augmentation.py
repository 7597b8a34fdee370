"""Training texts are changed as asked and nowhere else: whole words, within their text, as a function of the epoch."""

import dataclasses
import itertools
from collections import Counter

import numpy as np
import pytest
from safetensors.numpy import save

from ms_bert.commands.augmenting import Augmenter
from ms_bert.data import tokenizer
from ms_bert.data.augmentation import CANDIDATES, POSITIONS, WAYS, Augmentation, Guesses, Layout, entries, guesses
from ms_bert.data.packing import INPUTS, NUMBERS, WEIGHTS, TrainingBatches
from ms_bert.data.sequences import Sequences, encoded
from ms_bert.data.tokenizer import SPECIAL_TOKENS, Vocabulary
from ms_bert.errors import UserError
from ms_bert.finetuning_options import DataOptions, FinetuneOptions, FinetuningOptions, FinetuningRun, StartOptions
from ms_bert.run.folder import check_free
from ms_bert.run.progress import Progress

WORDS = ["the", "model", "reads", "a", "book", "of", "old", "tales", "and", "then", "sleeps", "."]
TOKENS = [*SPECIAL_TOKENS, *WORDS, "attack", "##er", "##s", *"我来到北京清华大学"]
TEXTS = [
    ("the attackers reads a book of old tales and then the model sleeps .",),
    ("a book of old tales", "the attackers then reads a book ."),
    ("我来到北京清华大学", "北京大学 attackers"),
    ("old",),
    ("unheard attackers",),
    ("", "a book"),
    ("",),
    ("the model [SEP] reads a book",),
]


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Vocabulary:
    path = tmp_path_factory.mktemp("vocab") / "vocab.txt"
    path.write_text("".join(f"{token}\n" for token in TOKENS))
    return tokenizer.load(path)


@pytest.fixture(scope="module")
def sequences(small) -> Sequences:
    """The texts, each forty times, so that what holds on average shows in a few epochs."""
    made = encoded(TEXTS * 40, small, 40)
    made.of_sequences["labels"] = np.arange(len(made), dtype=np.int32)
    return made


@pytest.fixture(scope="module")
def known(sequences, small) -> Guesses:
    """Of each word three guesses, which follow from the word and its place."""
    words = Layout(sequences, small).guessed
    begins = [small.tokenizer.token_to_id(word) for word in WORDS]
    ids = np.array([[begins[(word + k) % len(begins)] for k in range(3)] for word in words], np.int32)
    return Guesses(ids, np.tile(np.array([0.5, 0.25, 0.0], np.float32), (len(ids), 1)))


def words_of(sequences: Sequences, number: int, vocabulary: Vocabulary) -> list[list[str]]:
    """The words of each text, its pieces joined by +; special tokens end a text."""
    ids = sequences.ids[sequences.starts[number] : sequences.starts[number + 1]].tolist()
    texts: list[list[str]] = []
    for token in (vocabulary.tokenizer.id_to_token(i) for i in ids):
        if token in ("[CLS]", "[SEP]"):
            texts.append([])
        elif token.startswith("##") and texts[-1]:
            texts[-1][-1] += f"+{token}"
        else:
            texts[-1].append(token)
    assert ids[0] == vocabulary.cls and ids[-1] == vocabulary.sep
    return texts[:-1]


def pairs(augmentation: Augmentation, vocabulary: Vocabulary, epochs: int = 6):
    """(number, texts before, texts after) of every sequence in some epochs."""
    before = [words_of(augmentation.sequences, n, vocabulary) for n in range(len(augmentation.sequences))]
    for epoch in range(epochs):
        after = augmentation(epoch)
        assert len(after) == len(before) and (after.lengths <= augmentation.sequences.lengths).all()
        yield from ((n, old, words_of(after, n, vocabulary)) for n, old in enumerate(before))


def test_dropped_words_are_whole_and_a_text_keeps_one(sequences, small):
    change, lost = Augmentation(sequences, small, ["dropped"], 0.3, seed=1), 0
    for _, old, new in pairs(change, small):
        assert len(old) == len(new)
        for before, after in zip(old, new):
            rest = iter(before)
            assert all(word in rest for word in after), (before, after)  # in their order
            assert bool(after) == bool(before)
            lost += len(before) - len(after)
    assert lost > 100


def test_of_all_words_dropped_one_is_left(sequences, small):
    change = Augmentation(sequences, small, ["dropped"], 1.0, seed=1)
    sizes = Counter(
        (min(len(before), 2), len(before) - len(after))
        for _, old, new in pairs(change, small)
        for before, after in zip(old, new)
    )
    assert {lost for size, lost in sizes if size < 2} == {0}
    changed = [new for _, old, new in pairs(change, small) if new != old]
    assert changed and all(len(text) <= 1 for new in changed for text in new)


def test_swapped_words_are_neighbours_of_one_text(sequences, small):
    moved = 0
    for _, old, new in pairs(Augmentation(sequences, small, ["swapped"], 0.3, seed=1), small):
        for before, after in zip(old, new, strict=True):
            assert sorted(before) == sorted(after)
            place = 0
            while place < len(before):
                if before[place] == after[place]:
                    place += 1
                else:
                    assert after[place : place + 2] == before[place : place + 2][::-1], (before, after)
                    place, moved = place + 2, moved + 1
    assert moved > 100


def test_guesses_take_the_place_of_words_of_one_piece_by_their_probability(sequences, small, known):
    change, found = Augmentation(sequences, small, ["guesses"], 0.3, seed=1, guesses=known), Counter()
    tokens = change.layout.firsts[change.layout.guessed]
    for epoch in range(6):
        after = change(epoch)
        assert (after.starts == sequences.starts).all() and (after.types == sequences.types).all()
        where = np.flatnonzero(after.ids != sequences.ids)
        assert np.isin(where, tokens).all()
        for place in where.tolist():
            slot = int(np.searchsorted(tokens, place))
            found[known.ids[slot].tolist().index(after.ids[place])] += 1
    assert found[2] == 0 and found[0] / found[1] == pytest.approx(2, abs=0.5) and sum(found.values()) > 500
    kinds = {small.tokenizer.id_to_token(i) for i in set(sequences.ids[tokens].tolist())}
    assert kinds == {*WORDS, *"我来到北京清华大学"} - {"."}


def test_each_way_changes_its_share_of_half_of_the_texts(small, known):
    texts = [(" ".join(itertools.islice(itertools.cycle(WORDS), 30 + n % 5)),) for n in range(400)]
    long = encoded(texts, small, 40)
    slots = len(Layout(long, small).guessed)
    other = Guesses(np.full((slots, 1), small.tokenizer.token_to_id("attack"), np.int32), np.ones((slots, 1), "f4"))
    for way in WAYS:
        change = Augmentation(long, small, [way], 0.1, seed=3, guesses=other)
        shares = []
        for _, (old,), (new,) in pairs(change, small, epochs=2):
            if way == "dropped":
                shares.append((len(old) - len(new)) / len(old))
            else:
                shares.append(np.mean([before != after for before, after in zip(old, new)]))
        assert np.mean(np.array(shares) == 0) == pytest.approx(0.5, abs=0.05), way
        places = 15 if way == "swapped" else 30
        at_least_one = 0.9**places / places  # in a text of which chance has chosen no word
        assert 2 * np.mean(shares) == pytest.approx(0.1 + at_least_one, abs=0.01), way


def test_of_a_short_text_at_least_one_word_is_changed(small):
    short = encoded([(" ".join(WORDS[n : n + 2 + n % 3]),) for n in range(4)] * 100, small, 40)
    slots = len(Layout(short, small).guessed)
    other = Guesses(np.full((slots, 1), small.tokenizer.token_to_id("attack"), np.int32), np.ones((slots, 1), "f4"))
    for way in WAYS:
        change = Augmentation(short, small, [way], 0.01, seed=3, guesses=other)
        same = [old == new for _, (old,), (new,) in pairs(change, small, epochs=1)]
        assert np.mean(same) == pytest.approx(0.5, abs=0.08), way


def test_a_changed_text_is_changed_in_one_of_the_ways(small):
    long = encoded([(" ".join(WORDS[:8]),)] * 600, small, 40)
    slots = len(Layout(long, small).guessed)
    other = Guesses(np.full((slots, 1), small.tokenizer.token_to_id("attack"), np.int32), np.ones((slots, 1), "f4"))
    ways = Counter()
    for _, (old,), (new,) in pairs(Augmentation(long, small, WAYS, 0.6, seed=3, guesses=other), small, epochs=1):
        kinds = (len(new) < len(old), "attack" in new, [w for w in old if w in new] != [w for w in new if w in old])
        ways[kinds] += 1
    assert all(sum(kinds) <= 1 for kinds in ways)
    assert [ways[tuple(np.arange(3) == k)] for k in range(3)] == pytest.approx([100] * 3, abs=30)


def test_the_sequences_of_an_epoch_follow_from_it_and_the_seed(sequences, small, known):
    def ids(epoch, seed=1, ways=WAYS):
        return Augmentation(sequences, small, ways, 0.2, seed, known)(epoch).ids.tolist()

    change = Augmentation(sequences, small, WAYS, 0.2, 1, known)
    later = [change(epoch).ids.tolist() for epoch in (3, 0)]
    assert [ids(3), ids(0, ways=WAYS[::-1])] == later
    assert len({tuple(made) for made in (ids(0), ids(1), ids(2), ids(0, seed=2))}) == 4


def test_labels_and_types_stay(sequences, small, known):
    after = Augmentation(sequences, small, WAYS, 0.3, 1, known)(0)
    assert after.of_sequences is sequences.of_sequences and (after.owners == sequences.owners).all()
    for number in range(len(after)):
        span = slice(after.starts[number], after.starts[number + 1])
        was = slice(sequences.starts[number], sequences.starts[number + 1])
        ends = np.flatnonzero(after.ids[span] == small.sep)
        # As many [SEP] of each type; a token has the type of the [SEP] that follows it.
        assert after.types[span][ends].tolist() == sequences.types[was][sequences.ids[was] == small.sep].tolist()
        follows = np.searchsorted(ends, np.arange(len(after.ids[span])))
        assert (after.types[span] == after.types[span][ends][follows]).all()
    assert {str(a.dtype) for a in (after.ids, after.types)} == {"int32"} and after.starts.dtype == np.int64


def test_labels_of_tokens_are_refused(sequences, small):
    tagged = dataclasses.replace(sequences, of_tokens={"tags": sequences.types})
    with pytest.raises(ValueError, match="labels of tokens"):
        Augmentation(tagged, small, ["dropped"], 0.1, 1)


def test_batches_hold_the_sequences_of_their_epoch(sequences, small, known):
    change = Augmentation(sequences, small, WAYS, 0.4, 1, known)
    batches = TrainingBatches(sequences, 40, 32, seed=1, augmented=change)
    plain = TrainingBatches(sequences, 40, 32, seed=1)
    shapes = {batch["input_ids"].shape for batch in batches.samples()}
    for step in (0, batches.steps_per_epoch - 1, batches.steps_per_epoch, 2 * batches.steps_per_epoch + 3):
        batch, expected = batches(step), change(step // batches.steps_per_epoch)
        rows, places = np.nonzero(batch[WEIGHTS])
        for row, place in zip(rows, places):
            number = batch[NUMBERS][row, place]
            inside = batch["sequence_ids"][row] == place + 1
            span = slice(expected.starts[number], expected.starts[number + 1])
            assert (batch["input_ids"][row, inside] == expected.ids[span]).all()
            assert (batch["token_type_ids"][row, inside] == expected.types[span]).all()
            assert batch["labels"][row, place] == number
        assert set(batch[NUMBERS].flat) == set(plain(step)[NUMBERS].flat)  # in the same order
        assert batch["sequence_ids"].astype(bool).sum() <= plain(step)["sequence_ids"].astype(bool).sum()
    assert {batches(step)["input_ids"].shape for step in range(batches.steps_per_epoch)} == shapes
    again = TrainingBatches(sequences, 40, 32, seed=1, augmented=Augmentation(sequences, small, WAYS, 0.4, 1, known))
    assert all((again(step)[name] == value).all() for name, value in batch.items())


# What a model guesses


class Told:
    """A model that is sure of the token before the mask, less of the one after, and remembers what it was asked."""

    def __init__(self, vocabulary: Vocabulary):
        self.size, self.asked, self.masks, self.mask = vocabulary.size, Counter(), [], vocabulary.mask

    def __call__(self, batch):
        ids, places = batch["input_ids"], batch[POSITIONS]
        self.masks.append(((ids == self.mask).sum(), (batch["sequence_ids"] > 0).sum()))
        logits = np.zeros((*places.shape, self.size + 3), np.float32)  # a model may have more rows
        for row, column in itertools.product(*map(range, places.shape)):
            place = places[row, column]
            if ids[row, place] == self.mask:
                logits[row, column, ids[row, place - 1]] = 8
                logits[row, column, ids[row, place + 1]] = 6
                logits[row, column, self.size :] = 50
        return logits.reshape(-1, self.size + 3)


def test_a_model_is_asked_for_each_word_once(small):
    """Its guesses stand where they were asked for: beside the words that it saw there."""
    given = encoded(TEXTS * 3, small, 40)
    model = Told(small)
    made, layout = guesses(given, small, 40, model), Layout(given, small)
    tokens = layout.firsts[layout.guessed]
    assert sum(masks for masks, _ in model.masks) == len(tokens) > 100
    first = model.masks[0]  # a pass over all
    assert first[1] >= 3 * len(TEXTS) and made.ids.shape == made.shares.shape == (len(tokens), CANDIDATES)
    special = {small.pad, small.cls, small.sep, small.unk, small.mask, small.tokenizer.token_to_id(".")}
    for slot, place in enumerate(tokens.tolist()):
        before, itself, after = given.ids[place - 1 : place + 2].tolist()
        fits = [i not in special | {itself} and not small.continues_word[i] for i in (before, after)]
        expected = [i for i, fit in zip((before, after), fits) if fit]
        assert made.ids[slot, : len(set(expected))].tolist() == list(dict.fromkeys(expected))
        there = made.ids[slot][made.shares[slot] > 0].tolist()
        assert not special & set(there) and itself not in there and not small.continues_word[there].any()
        assert (np.diff(made.shares[slot]) <= 0).all() and made.shares[slot].sum() <= 1
        if expected == [before]:
            assert made.shares[slot, 0] == pytest.approx(np.exp(8) / (np.exp(8) + np.exp(6) + small.size - 2), rel=1e-3)


def test_a_pass_masks_few_words_and_the_model_takes_each_batch(small):
    given = encoded([TEXTS[0]] * 50, small, 40)
    seen = []

    def logits(batch):
        asked = (batch["input_ids"] == small.mask).sum(1)
        seen.append((batch[POSITIONS].shape, asked.sum() / (batch["sequence_ids"] > 0).sum()))
        assert {*INPUTS, POSITIONS} <= batch.keys() and asked.max() <= batch[POSITIONS].shape[1]
        return np.zeros((batch[POSITIONS].size, small.size), np.float32)

    guesses(given, small, 40, logits)
    assert max(share for _, share in seen) < 0.2 and len({shape for shape, _ in seen}) == 1


def test_entries_are_words(tmp_path):
    tokens = [*SPECIAL_TOKENS, "[unused1]", "book", "##s", "é", "我", "##我", "7", ".", "—", "。", "don't", "["]
    (tmp_path / "vocab.txt").write_text("\n".join(tokens))
    kept = [token for token, is_word in zip(tokens, entries(tokenizer.load(tmp_path / "vocab.txt"))) if is_word]
    assert kept == ["book", "é", "我", "7", "don't"]


def test_without_words_nothing_is_asked(small):
    made = guesses(encoded([("",), ("attackers",)], small, 40), small, 40, lambda batch: pytest.fail("asked"))
    assert made.ids.shape == (0, CANDIDATES)


# Options


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"augment": ["dropped", "turned"]}, "--augment is ['dropped', 'turned']; choose a list of guesses or dropped"),
        ({"augment": ["dropped"], "augment_share": 0}, "--augment-share is 0.0; choose a number from 0.001 to 1"),
        ({"augment_model": "bert"}, "--augment-model bert is what guesses words, but nothing is to be guessed"),
    ],
)
def test_options_that_change_nothing_are_a_sentence(changes, words):
    with pytest.raises(UserError) as caught:
        FinetuneOptions.from_dict({"training": changes}, "run.json")
    assert words in str(caught.value)


@pytest.mark.parametrize("task", ["tagging", "question-answering", "multiple-choice"])
def test_a_task_without_labels_of_whole_texts_is_refused(task, small):
    options = FinetuneOptions(data=DataOptions(task=task), training=FinetuningOptions(augment=("dropped",)))
    with pytest.raises(UserError, match=f"such as classification, not for {task}; leave it out"):
        Augmenter(options, None, small)


def test_guesses_for_other_data_are_refused_and_damaged_ones_made_again(small, sequences, known, tmp_path):
    training = FinetuningOptions(augment=("guesses",))
    options = FinetuneOptions(training=training, run=FinetuningRun(resume=tmp_path))
    (tmp_path / "guesses.safetensors").write_bytes(save({"ids": known.ids[1:], "shares": known.shares[1:]}))
    with pytest.raises(UserError, match="has guesses for other data; restore the data"):
        Augmenter(options, None, small)(None, sequences, Progress())
    (tmp_path / "guesses.safetensors").write_bytes(save({"ids": known.ids, "shares": known.shares})[:-1])
    missing = dataclasses.replace(options, start=StartOptions(model=tmp_path / "gone"))
    with pytest.raises(UserError, match="gone"):  # it would be asked again
        Augmenter(missing, None, small)


def test_a_changed_text_is_shown_with_what_the_vocabulary_does_not_know(small, capsys):
    sequences = encoded([("\u4e00 attackers \u4e8c",)] * 9, small, 40)
    options = FinetuneOptions(training=FinetuningOptions(augment=("swapped",), augment_share=0.9))
    Augmenter(options, None, small)(None, sequences, Progress())
    told = capsys.readouterr().out
    assert "such as '[UNK] attackers [UNK]', which becomes" in told and "[CLS]" not in told and "[SEP]" not in told


def test_a_run_that_was_killed_while_its_folder_was_made_is_begun_anew(tmp_path):
    for name in ("guesses.safetensors", "teacher.safetensors", "task.json"):
        (tmp_path / name).write_bytes(b"")
    check_free(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match="link is not an empty folder"):
        check_free(tmp_path / "link")
    with pytest.raises(UserError, match="is not an empty folder"):
        check_free(tmp_path)
