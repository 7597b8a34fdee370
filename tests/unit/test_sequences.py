"""Texts become sequences as in Hugging Face, whatever the tokenizer's file says of truncation and padding."""

import numpy as np
import pytest
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from ms_bert.data.sequences import encoded
from ms_bert.data.tokenizer import Vocabulary

SHORT = "The import system"
LONG = "Python code in one module gains access to the code in another module by importing it."
TEXTS = [(SHORT,), (LONG,), ("",), (SHORT, LONG), (LONG, SHORT), (LONG, LONG[::-1]), ("", LONG), (SHORT, "")]


@pytest.fixture(scope="module")
def reference(vocabulary):
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("cls", "sep", "pad", "unk", "mask")}
    return PreTrainedTokenizerFast(tokenizer_object=vocabulary.tokenizer, **names)


@pytest.mark.parametrize("longest", [3, 4, 5, 8, 13, 20, 60])
@pytest.mark.parametrize("texts", TEXTS, ids=range(len(TEXTS)))
def test_what_is_too_long_is_truncated_as_by_hugging_face(texts, longest, vocabulary, reference):
    found = encoded([texts], vocabulary, longest)
    expected = reference(*texts, truncation="longest_first", max_length=longest, return_token_type_ids=True)
    assert found.ids.tolist() == expected["input_ids"] and found.types.tolist() == expected["token_type_ids"]
    assert bool(found.cut[0]) == (len(reference(*texts)["input_ids"]) > longest)


def test_many_texts_lie_one_after_the_other(vocabulary):
    whole = encoded(TEXTS, vocabulary, 20)
    assert len(whole) == len(TEXTS) and whole.truncated == whole.cut.sum() > 0
    for number, texts in enumerate(TEXTS):
        alone = encoded([texts], vocabulary, 20)
        span = slice(whole.starts[number], whole.starts[number + 1])
        assert (whole.ids[span] == alone.ids).all() and (whole.types[span] == alone.types).all()
    assert (whole.lengths == np.diff(whole.starts)).all() and whole.starts[-1] == len(whole.ids)


def test_a_tokenizer_that_truncates_and_pads_does_neither(vocabulary):
    tokenizer = Tokenizer.from_str(vocabulary.to_json())
    tokenizer.enable_truncation(5)
    tokenizer.enable_padding(length=40)
    other = encoded(TEXTS, Vocabulary(tokenizer, "tokenizer.json"), 30)
    assert (other.ids == encoded(TEXTS, vocabulary, 30).ids).all()
