"""Examples: Google's recipe, drawn as a pure function of (store, options, seed, step)."""

import dataclasses

import numpy as np
import pytest

from ms_bert.data.batches import FIELDS, BatchMaker, Phases, prefetched
from ms_bert.data.corpus import Corpus
from ms_bert.data.masking import _choose, mask
from ms_bert.data.pairs import LEAST_ROOM, PairSampler
from ms_bert.data.store import open_store
from ms_bert.errors import UserError
from ms_bert.options import ExampleOptions, Phase
from ms_bert.randomness import dropout_keys, generator, initial_weights, permuted

OPTIONS = ExampleOptions(seq_length=32)


def maker(store, vocabulary, options=OPTIONS, batch_size=64, seed=3, **arguments):
    return BatchMaker(store.train, vocabulary, options, batch_size, seed, **arguments)


def place(split, start):
    """Document and sentence numbers of token positions."""
    sentence = split.sentences.last_not_above(start)
    return split.documents.last_not_above(sentence), sentence


def test_a_batch_depends_on_nothing_but_its_step(store, vocabulary):
    one, other = maker(store, vocabulary), maker(store, vocabulary)
    for step in (5, 0, 7):
        other(step)
    for field in FIELDS:
        assert (one(5)[field] == other(5)[field]).all()
    assert (one(5)["input_ids"] != one(6)["input_ids"]).any()
    assert (one(5)["input_ids"] != maker(store, vocabulary, seed=4)(5)["input_ids"]).any()
    assert (one(5)["input_ids"] != maker(store, vocabulary, held_out=True)(5)["input_ids"]).any()


def test_phases_of_one_shape_are_a_run_without_phases(store, vocabulary):
    """Each goes on in the text where the one before ended, whatever the batches."""
    phases = [Phase(32, 64, 3), Phase(32, 64, 2), Phase(32, 64, 1)]
    divided, whole = Phases(store.train, vocabulary, OPTIONS, phases, 3), maker(store, vocabulary)
    for step in range(8):
        found, expected = divided(step), whole(step)
        assert all((found[field] == expected[field]).all() for field in FIELDS), step
    assert len(divided.samples()) == 1


def test_a_phase_begins_where_the_one_before_ended_in_the_text(store, vocabulary):
    ramp = Phases(store.train, vocabulary, OPTIONS, [Phase(32, 8, 5), Phase(32, 16, 9), Phase(48, 4, 1)], 3)
    firsts = [one.sampler.first / one.sampler.per_epoch for one in ramp.makers]
    per_epoch = ramp.makers[0].sampler.per_epoch
    assert firsts[:2] == [0, 5 * 8 / per_epoch]
    assert firsts[2] == pytest.approx((5 * 8 + 9 * 16) / per_epoch, abs=1 / ramp.makers[2].sampler.per_epoch)
    assert [ramp(step)["input_ids"].shape for step in (4, 5, 13, 14, 99)] == [
        (8, 32), (16, 32), (16, 32), (4, 48), (4, 48)
    ]  # fmt: skip
    assert [batch["input_ids"].shape for batch in ramp.samples()] == [(8, 32), (16, 32), (4, 48)]
    assert [batch["input_ids"].shape for batch in ramp.samples(13)] == [(16, 32), (4, 48)]
    assert ramp(14)["masked_positions"].shape == (4, 8)  # as many as its length needs


def test_held_out_text_is_masked_at_the_usual_rate(store, vocabulary):
    often = dataclasses.replace(OPTIONS, mask_rate=0.4, max_predictions=12)
    batches = [maker(store, vocabulary, one.of_held_out, held_out=True)(0) for one in (OPTIONS, often)]
    assert all((batches[0][field] == batches[1][field]).all() for field in FIELDS)
    assert maker(store, vocabulary, often)(0)["masked_weights"].sum() > 2 * batches[0]["masked_weights"].sum()
    few = dataclasses.replace(OPTIONS, max_predictions=2)
    assert few.of_held_out == OPTIONS


def test_a_batch_has_the_promised_arrays(store, vocabulary):
    batch = maker(store, vocabulary)(0)
    b, s, p = 64, 32, OPTIONS.prediction_slots
    shapes = {
        "input_ids": (b, s),
        "token_type_ids": (b, s),
        "position_ids": (b, s),
        "sequence_ids": (b, s),
        "cls_positions": (b, 1),
        "masked_positions": (b, p),
        "masked_labels": (b, p),
        "masked_weights": (b, p),
        "next_sentence_labels": (b, 1),
        "next_sentence_weights": (b, 1),
    }
    assert {name: array.shape for name, array in batch.items()} == shapes and set(FIELDS) == set(shapes)
    assert all(array.dtype == (np.float32 if name.endswith("weights") else np.int32) for name, array in batch.items())


def test_a_row_reads_cls_a_sep_b_sep_and_padding(store, vocabulary):
    batch, segments = maker(store, vocabulary)(2), PairSampler(store.train, OPTIONS, 3).draw(2, 64)[0]
    ids = batch["input_ids"].copy()
    rows = np.arange(64)[:, None]
    used = batch["masked_weights"] > 0
    ids[np.broadcast_to(rows, used.shape)[used], batch["masked_positions"][used]] = batch["masked_labels"][used]
    for i in range(64):
        a = store.train.tokens[segments.a_start[i] + np.arange(segments.a_length[i])].tolist()
        b = store.train.tokens[segments.b_start[i] + np.arange(segments.b_length[i])].tolist()
        row = [vocabulary.cls, *a, vocabulary.sep, *b, vocabulary.sep]
        assert ids[i].tolist() == row + [vocabulary.pad] * (32 - len(row))
        assert batch["sequence_ids"][i].tolist() == [1] * len(row) + [0] * (32 - len(row))
        assert batch["token_type_ids"][i].tolist() == [0] * (len(a) + 2) + [1] * (len(b) + 1) + [0] * (32 - len(row))
        assert 1 <= len(a) and 1 <= len(b)


@pytest.mark.parametrize("nsp", [True, False])
def test_a_packed_row_holds_examples_one_after_the_other(nsp, store, vocabulary):
    """Each as if alone, but for its place: [CLS] A [SEP] B [SEP], positions and segments from 0 on."""
    options = dataclasses.replace(OPTIONS, seq_length=160, pack=3, nsp=nsp, short_sequences=0.5)
    batch, drawn = maker(store, vocabulary, options)(4), PairSampler(store.train, options, 3).draw(4, 64)
    assert batch.keys() == set(FIELDS) and batch["cls_positions"].shape == (64, 3) and len(drawn) == 3
    ids = batch["input_ids"].copy()
    rows, used = np.arange(64)[:, None], batch["masked_weights"] > 0
    ids[np.broadcast_to(rows, used.shape)[used], batch["masked_positions"][used]] = batch["masked_labels"][used]
    for i in range(64):
        row, places, types, numbers, begins = [], [], [], [], []
        for number, segments in enumerate(drawn):
            a = store.train.tokens[segments.a_start[i] + np.arange(segments.a_length[i])].tolist()
            b = store.train.tokens[segments.b_start[i] + np.arange(segments.b_length[i])].tolist()
            if not a:
                assert not batch["next_sentence_weights"][i, number] and not batch["cls_positions"][i, number]
                assert 160 - len(row) < LEAST_ROOM
                continue
            one = [vocabulary.cls, *a, vocabulary.sep] + ([*b, vocabulary.sep] if nsp else [])
            assert bool(b) == nsp and batch["next_sentence_weights"][i, number] == nsp
            assert batch["next_sentence_labels"][i, number] == segments.is_random[i]
            begins.append(len(row))
            row += one
            places += range(len(one))
            types += [0] * (len(a) + 2) + [1] * (len(one) - len(a) - 2)
            numbers += [number + 1] * len(one)
        end = len(row)
        assert ids[i].tolist() == row + [vocabulary.pad] * (160 - end)
        assert batch["position_ids"][i, :end].tolist() == places and batch["token_type_ids"][i, :end].tolist() == types
        assert batch["sequence_ids"][i].tolist() == numbers + [0] * (160 - end)
        assert batch["cls_positions"][i, : len(begins)].tolist() == begins


def test_packing_fills_the_rows_and_draws_no_example_twice(store, vocabulary):
    options = dataclasses.replace(OPTIONS, seq_length=512, short_sequences=1.0)
    alone, packed = (maker(store, vocabulary, dataclasses.replace(options, pack=pack))(0) for pack in (1, 6))
    shares = [(batch["sequence_ids"] > 0).mean() for batch in (alone, packed)]
    assert shares[0] < 0.6 and shares[1] > 0.9
    # Every example begins at a place of its own: what a step draws is spread over the text.
    drawn = PairSampler(store.train, dataclasses.replace(options, pack=6), 3).draw(0, 8)
    starts = np.concatenate([one.a_start[one.a_length > 0] for one in drawn])
    assert len(set(starts.tolist())) > 0.9 * len(starts)


def test_half_of_the_pairs_are_next_sentences_and_half_other_documents(store):
    split, random = store.train, 0
    sampler = PairSampler(split, ExampleOptions(seq_length=128), seed=1)
    for step in range(20):
        segments = sampler.draw(step, 200)[0]
        a_document, _ = place(split, segments.a_start)
        b_document, _ = place(split, segments.b_start)
        assert (a_document[~segments.is_random] == b_document[~segments.is_random]).all()
        assert (a_document[segments.is_random] != b_document[segments.is_random]).all()
        # What follows A follows it directly, but for what truncation took from A's end and B's beginning.
        gap = (segments.b_start - segments.a_start - segments.a_length)[~segments.is_random]
        assert (gap >= 0).all() and (gap == 0).any()
        random += segments.is_random.sum()
    assert abs(random / 4000 - 0.5) < 0.04


def test_nothing_crosses_the_end_of_its_document(store):
    split = store.train
    segments = PairSampler(split, OPTIONS, seed=1).draw(0, 1000)[0]
    for start, length in ((segments.a_start, segments.a_length), (segments.b_start, segments.b_length)):
        assert (place(split, start)[0] == place(split, start + length - 1)[0]).all()


def test_lengths_follow_the_recipe(store):
    long = PairSampler(store.train, ExampleOptions(seq_length=128, short_sequences=0.0), 1).draw(0, 2000)[0]
    short = PairSampler(store.train, ExampleOptions(seq_length=128, short_sequences=1.0), 1).draw(0, 2000)[0]
    total = long.a_length + long.b_length
    assert total.max() == 125 and (total == 125).mean() > 0.7
    assert (short.a_length + short.b_length).mean() < total.mean() - 20


def test_truncation_takes_from_the_longer_segment_at_both_ends():
    sampler, longest = object.__new__(PairSampler), np.full(69 * 69, 29)

    def google(a, b):
        while a + b > 29:
            a, b = (a - 1, b) if a > b else (a, b - 1)
        return a, b

    a, b = (side.ravel() for side in np.meshgrid(np.arange(1, 70), np.arange(1, 70)))
    zeros = np.zeros(len(a), np.int64)
    cut = sampler._truncate(generator(1, 1, 1), longest, zeros, a, zeros, b, zeros > 0)
    assert [google(x, y) for x, y in zip(a, b)] == list(zip(cut.a_length.tolist(), cut.b_length.tolist()))
    assert (cut.a_start >= 0).all() and (cut.a_start + cut.a_length <= a).all()
    front = cut.b_start[(a < 10) & (b > 60)] / (b - cut.b_length)[(a < 10) & (b > 60)]
    assert abs(front.mean() - 0.5) < 0.05


def test_every_epoch_visits_the_whole_text_anew(store):
    sampler = PairSampler(store.train, ExampleOptions(seq_length=32, nsp=False, short_sequences=0.0), 1)
    seen = []
    for epoch in range(2):
        sentence = sampler._first_sentences(epoch * sampler.per_epoch + np.arange(sampler.per_epoch))
        starts = store.train.sentences[sentence]
        assert len(np.unique(starts)) > 0.5 * sampler.per_epoch
        seen.append(sentence.tolist())
    assert seen[0] != seen[1]


def test_without_nsp_an_example_is_one_run_of_text(store, vocabulary):
    batch = maker(store, vocabulary, ExampleOptions(seq_length=32, nsp=False))(0)
    assert not batch["token_type_ids"].any() and not batch["next_sentence_weights"].any()
    assert ((batch["input_ids"] == vocabulary.sep).sum(1) == 1).all()
    assert batch["sequence_ids"].sum(1).max() == 32


@pytest.mark.parametrize("size", [1, 2, 3, 5, 16, 17, 1000, 4097])
def test_the_epochs_order_is_a_permutation_and_new_in_each_epoch(size):
    index = np.arange(size)
    first, second = (permuted(index, size, 1, 2, np.full(size, epoch)) for epoch in (0, 1))
    assert sorted(first) == sorted(second) == index.tolist()
    if size > 10:
        assert (first != second).mean() > 0.5 and abs(np.corrcoef(index, first)[0, 1]) < 0.5


# Masking


def test_masking_follows_80_10_10(store, vocabulary):
    batches = [maker(store, vocabulary, ExampleOptions(seq_length=128))(step) for step in range(20)]
    ids, labels, positions, weights = (
        np.concatenate([b[k] for b in batches])
        for k in ("input_ids", "masked_labels", "masked_positions", "masked_weights")
    )
    used = weights > 0
    now = np.take_along_axis(ids, positions, 1)[used]
    kept, masked = (now == labels[used]).mean(), (now == vocabulary.mask).mean()
    assert abs(masked - 0.8) < 0.02 and abs(kept - 0.1) < 0.02
    share = used.sum() / np.concatenate([b["sequence_ids"].sum(1) - 3 for b in batches]).sum()
    assert abs(share - 0.15) < 0.01


@pytest.mark.parametrize("masking", ["token", "whole-word", "ngram"])
def test_masking_touches_text_only_and_in_ascending_order(store, vocabulary, masking):
    batch = maker(store, vocabulary, ExampleOptions(seq_length=32, masking=masking))(1)
    special = np.isin(batch["masked_labels"], [vocabulary.cls, vocabulary.sep, vocabulary.pad, vocabulary.mask])
    assert not (special & (batch["masked_weights"] > 0)).any()
    for positions, weights in zip(batch["masked_positions"], batch["masked_weights"]):
        count = int(weights.sum())
        assert count >= 1 and (weights[:count] == 1).all()
        assert (np.diff(positions[:count]) > 0).all() and (positions[count:] == 0).all()


def chosen_matrix(vocabulary, ids, maskable, masking, step, rate=0.3):
    options = ExampleOptions(seq_length=ids.shape[1], masking=masking, mask_rate=rate)
    result = mask(generator(9, 9, step), ids, maskable, options, vocabulary)
    chosen = np.zeros(ids.shape, bool)
    for row, (positions, weights) in enumerate(zip(result["masked_positions"], result["masked_weights"])):
        chosen[row, positions[weights > 0]] = True
    return chosen


def test_whole_word_masking_never_splits_a_word(store, vocabulary):
    batch = maker(store, vocabulary)(0)
    ids, text = batch["input_ids"], batch["sequence_ids"] > 0
    text &= ~np.isin(ids, [vocabulary.cls, vocabulary.sep])
    chosen = chosen_matrix(vocabulary, ids, text, "whole-word", 1)
    joined = vocabulary.continues_word[ids[:, 1:]] & text[:, 1:] & text[:, :-1]
    assert joined.any() and (chosen[:, 1:] == chosen[:, :-1])[joined].all()


def test_ngram_masking_masks_spans_of_words(vocabulary):
    whole_words = np.flatnonzero(~vocabulary.continues_word)[10:]
    ids = np.random.default_rng(0).choice(whole_words, (400, 64)).astype(np.int32)
    text = np.ones(ids.shape, bool)
    text[:, [0, 30, 63]] = False

    def neighbours(masking):  # how often the token after a chosen one is chosen too
        chosen = chosen_matrix(vocabulary, ids, text, masking, 1, rate=0.15)
        assert not (chosen & ~text).any()
        return (chosen[:, 1:] & chosen[:, :-1]).sum() / chosen.sum()

    # Spans of 1, 2, 3 in the ratio 6 : 3 : 2 hold 1.64 tokens; by chance alone, 0.15 of the neighbours are chosen.
    assert neighbours("ngram") > neighbours("token") + 0.15


def test_choosing_groups_is_googles_greedy_loop():
    rng = np.random.default_rng(1)
    rows, tokens = 200, 24
    group = np.cumsum(rng.random((rows, tokens)) < 0.5, axis=1)
    group -= group[:, :1]
    maskable = rng.random((rows, tokens)) < 0.8
    wanted, keys = rng.integers(0, 9, rows), rng.random((rows, tokens))
    chosen = _choose(keys, group, maskable, wanted)
    for row in range(rows):
        members = {g: [i for i in range(tokens) if group[row, i] == g and maskable[row, i]] for g in range(tokens)}
        picked = []
        for g in sorted((g for g in members if members[g]), key=lambda g: keys[row, g]):
            if len(picked) + len(members[g]) <= wanted[row]:
                picked += members[g]
        assert np.flatnonzero(chosen[row]).tolist() == sorted(picked)


# What there must be


@pytest.mark.parametrize(
    "text, words",
    [
        ("One. Two. Three.", "1 training document"),
        ("It was. So what?\n\nWho is it? Nobody.\n\nAnd then? The end.\n", "1 held-out document"),
        ("One\n\nTwo\n\nThree\n\nFour\n\nFive\n\nSix\n", "has only one sentence"),
    ],
)
def test_a_corpus_that_nsp_cannot_be_made_from_is_told(tmp_path, vocabulary, text_options, text, words):
    (tmp_path / "a.txt").write_text(text)
    options = dataclasses.replace(text_options, corpus=(str(tmp_path / "a.txt"),), cache=tmp_path)
    store, _ = open_store(options, Corpus(options), vocabulary)
    with pytest.raises(UserError, match=words):
        PairSampler(store.train, OPTIONS, 1)
        PairSampler(store.held_out, OPTIONS, 1, held_out=True)


# Made ahead


def test_prefetching_gives_the_same_batches_in_order_and_ends_its_thread():
    import threading

    before = threading.active_count()
    assert list(prefetched(lambda step: step * step, range(3, 40))) == [step * step for step in range(3, 40)]
    batches = prefetched(lambda step: step, range(1000))
    assert next(batches) == 0
    batches.close()
    assert threading.active_count() == before


def test_an_error_in_the_making_is_raised_where_the_batch_is_taken():
    def make(step):
        if step == 2:
            raise UserError("no such batch")
        return step

    batches = prefetched(make, range(5))
    assert [next(batches), next(batches)] == [0, 1]
    with pytest.raises(UserError, match="no such batch"):
        next(batches)


# Random numbers that are promises


def test_saved_runs_rely_on_these_very_numbers():
    # A change here (a NumPy whose generators differ, another stream number) breaks the resuming of every saved run.
    assert generator(1, 2, 3).integers(0, 1000, 5).tolist() == GENERATOR
    row, column = dropout_keys(1, 0, 2, 2)
    assert [*row[:, 0].tolist(), *column.tolist()] == DROPOUT
    assert permuted(np.arange(6), 6, 1, 2, np.zeros(6)).tolist() == PERMUTED
    weights = initial_weights("bert.pooler.dense.weight", (2, 2), 0.02, 1, False)
    assert weights.ravel().tolist() == pytest.approx(WEIGHTS, rel=1e-6)


def test_truncated_weights_stay_within_two_deviations():
    free = initial_weights("a.weight", (300, 300), 0.02, 1, False)
    cut = initial_weights("a.weight", (300, 300), 0.02, 1, True)
    assert abs(free.std() / 0.02 - 1) < 0.02 and abs(cut).max() <= 0.04 < abs(free).max()
    assert (initial_weights("a.bias", (3,), 0.02, 1, False) == 0).all()
    assert (initial_weights("a.LayerNorm.weight", (3,), 0.02, 1, False) == 1).all()


GENERATOR = [613, 718, 203, 411, 795]
DROPOUT = [-818591303, 586255185, 1517436603, 513025737]
PERMUTED = [4, 1, 2, 0, 3, 5]
WEIGHTS = [-0.007697794, 0.013698186, 0.01592938, -0.016262703]
