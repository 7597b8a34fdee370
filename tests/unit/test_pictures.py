"""Pictures are drawn of whatever a model says, of one example and of collapsed models too."""

import warnings

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager

from ms_bert.data.sequences import Sequences
from ms_bert.tasks import pictures
from ms_bert.tasks.classification import Classification, MultiLabel, Regression
from ms_bert.tasks.pictures import MOST_NAMES, bars, by_length, confusion, drawn, grouped, ranges
from tests.unit import drawings

pytestmark = pytest.mark.drawn

LABELS = ("no", "yes", "a label whose name is very long")


def sequences(labels) -> Sequences:
    starts = np.cumsum([0, *(3 + i % 7 for i in range(len(labels)))])
    tokens = np.zeros(starts[-1], np.int32)
    return Sequences(tokens, tokens, starts, np.zeros(len(labels), bool), of_sequences={"labels": labels})


@pytest.mark.parametrize("count", [1, 7, 300])
@pytest.mark.parametrize("collapsed", [False, True])
def test_every_task_draws_its_evaluation(count, collapsed):
    rng = np.random.default_rng(count)
    numbers = rng.integers(0, 3, count).astype(np.int32)
    for task, labels, width in (
        (Classification(LABELS, ("accuracy",)), numbers, 3),
        (Classification(tuple(map(str, range(50))), ("accuracy",)), numbers, 50),
        (Regression((), ("pearson",)), numbers.astype(np.float32), 1),
        (MultiLabel(LABELS, ("f1_micro",)), rng.integers(0, 2, (count, 3)).astype(np.float32), 3),
    ):
        logits = np.full((count, width), 1e4, np.float32) if collapsed else rng.normal(size=(count, width))
        made = task.drawings(sequences(labels), logits.astype(np.float32))
        assert made and drawn(made).startswith(b"\x89PNG")


def test_bars_stand_in_the_order_of_their_counts_and_too_many_are_not_drawn():
    counts = {f"type {number}": number for number in range(50)}
    drawing = bars("F1 by type", "F1", {name: number / 50 for name, number in counts.items()}, counts)
    shown = drawings.bars(drawing)
    assert list(shown)[:2] == ["type 49 (49)", "type 48 (48)"] and len(shown) == MOST_NAMES
    assert shown["type 20 (20)"] == [0.4]
    axes = drawings.axes_of(drawing)
    assert axes.get_title() == "F1 by type, the 30 most frequent of 50" and axes.get_xlabel() == "F1"


def test_groups_have_a_bar_of_each_value_that_they_have():
    counts = {"1": 3, "2": 0, "3–4": 1200}
    values = {"recall": {"1": 0.5, "3–4": 0.0}, "precision": {"1": 0.25, "2": 1.0, "3–4": 0.75}}
    drawing = grouped("By length", "words", values, counts)
    assert drawings.bars(drawing) == {"1 (3)": [0.5, 0.25], "2 (0)": [1.0], "3–4 (1,200)": [0.0, 0.75]}
    assert [text.get_text() for text in drawings.axes_of(drawing).get_legend().texts] == ["recall", "precision"]
    assert drawn([grouped("Nothing", "", {"F1": {}}, {})]).startswith(b"\x89PNG")


def test_examples_of_one_length_are_in_one_bin():
    lengths = np.array([7] * 50 + [3] * 45 + [9, 1, 9, 9, 1])
    values = np.where(lengths == 7, 0.5, lengths / 10)
    (line,) = drawings.axes_of(by_length(lengths, values, "F1")).get_lines()[:1]
    assert line.get_xdata().tolist() == pytest.approx([1, 3, (50 * 7 + 27) / 53])
    assert line.get_ydata().tolist() == pytest.approx([0.1, 0.3, (50 * 0.5 + 2.7) / 53])
    (line,) = drawings.axes_of(by_length(np.arange(100), np.arange(100), "F1")).get_lines()[:1]
    assert line.get_xdata().tolist() == [9.5, 29.5, 49.5, 69.5, 89.5]


def test_ranges_double():
    numbers = np.array([1, 2, 3, 4, 5, 8, 9, 16, 17, 1000])
    assert ranges(numbers) == ["1", "2", "3–4", "3–4", "5–8", "5–8", "9–16", "9–16", "17–32", "513–1024"]
    assert ranges(np.zeros(0, np.int64)) == []


NAMES = {
    "人名": r"\u4eba\u540d (5)",
    "组织机构名称": r"\u7ec4\u7ec7\u673a… (5)",
    "Straße": "Straße (5)",
    "a\tb": r"a\tb (5)",
    "$x$ and $y_1$": "$x$ and $y_1$ (5)",
    "x" * 24: f"{'x' * 24} (5)",
    "x" * 25: f"{'x' * 23}… (5)",
}


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_no_font_has_is_shown_as_in_the_results_and_nothing_is_warned_of(name, monkeypatch):
    monkeypatch.setattr(pictures, "_FONTS", ())
    pictures._fonts.cache_clear()
    drawing = bars("F1", "F1", {name: 0.5}, {name: 5})
    assert list(drawings.bars(drawing)) == [NAMES[name]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert drawn([drawing, confusion(np.eye(2, dtype=int), (name, "O"))]).startswith(b"\x89PNG")
    pictures._fonts.cache_clear()


def test_a_font_that_is_installed_shows_chinese(tmp_path, monkeypatch):
    """A font of one letter, with a name of the list."""
    pen = TTGlyphPen(None)
    pen.moveTo((100, 0))
    for point in ((900, 0), (900, 800), (100, 800)):
        pen.lineTo(point)
    pen.closePath()
    font = FontBuilder(1000, isTTF=True)
    font.setupGlyphOrder([".notdef", "letter"])
    font.setupCharacterMap({ord("人"): "letter"})
    font.setupGlyf({".notdef": pen.glyph(), "letter": pen.glyph()})
    font.setupHorizontalMetrics({".notdef": (1000, 0), "letter": (1000, 0)})
    font.setupHorizontalHeader(ascent=800, descent=-200)
    font.setupNameTable({"familyName": "SimHei", "styleName": "Regular"})
    font.setupOS2()
    font.setupPost()
    font.save(tmp_path / "font.ttf")
    monkeypatch.setattr(font_manager.fontManager, "ttflist", [*font_manager.fontManager.ttflist])
    font_manager.fontManager.addfont(tmp_path / "font.ttf")
    pictures._fonts.cache_clear()
    drawing = bars(
        "F1",
        "F1",
        {"人": 0.5, "人人人": 0.5, "名": 0.5, "人" * 13: 0.5},
        dict.fromkeys(("人", "人人人", "名", "人" * 13), 1),
    )
    assert list(drawings.bars(drawing)) == ["人 (1)", "人人人 (1)", r"\u540d (1)", f"{'人' * 11}… (1)"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert drawn([drawing]) != drawn([bars("F1", "F1", {"x": 0.5}, {"x": 1})])
    pictures._fonts.cache_clear()
