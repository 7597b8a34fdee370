"""Which tokens belong to one word, so that words are masked whole: pieces of a word, Chinese words, terms of a list.

WordPiece joins the pieces of a word by ##, and takes every Chinese character for a word of its own. A segmenter finds
Chinese words (as in Chinese-BERT-wwm; Cui et al., 2021), and a dictionary names terms of a domain (as the entities of
ERNIE; Sun et al., 2019). Both work on the tokens of an example, so that they need no token store of their own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ms_bert.data.files import read_bytes
from ms_bert.data.sequences import without_special_tokens
from ms_bert.data.tokenizer import UNK, Vocabulary
from ms_bert.errors import UserError, not_utf8
from ms_bert.options import ExampleOptions

# The blocks of Chinese characters that BERT's tokenizer sets apart (Google's tokenization.py, _is_chinese_char).
_CHINESE = (
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0x2F800, 0x2FA1F),
)


class Words:
    """Finds words among tokens.

    Args:
        vocabulary: of the tokens. options: their segmenter and dictionary.

    Attributes:
        unknown: how many terms of the dictionary have a piece that the vocabulary lacks; no token is of them.
        fingerprint: of the dictionary's terms; None: there is no dictionary.

    Raises:
        UserError: the dictionary cannot be read or has no terms, or the segmenter is not installed.
    """

    def __init__(self, vocabulary: Vocabulary, options: ExampleOptions):
        self.continues_word = vocabulary.continues_word
        self._cut = None
        self.unknown = 0
        self.fingerprint: str | None = None
        if options.segmenter == "rjieba":
            self._cut = _rjieba()
            tokens = (vocabulary.tokenizer.id_to_token(number) or "" for number in range(vocabulary.size))
            self._characters = np.array([token if _is_chinese(token) else "" for token in tokens], dtype=object)
        # The terms by their first token, each as its further ones, the longest first.
        self._terms: dict[int, list[tuple[int, ...]]] = {}
        if options.dictionary is not None:
            self._read(options.dictionary, vocabulary)

    def _read(self, path: Path, vocabulary: Vocabulary) -> None:
        try:
            lines = read_bytes(path).decode("utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise not_utf8(f"--dictionary {path}", error) from None
        except OSError as error:
            raise UserError(f"--dictionary {path} cannot be read ({error}); name a file with a term a line.") from None
        terms = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
        if not terms:
            raise UserError(f"--dictionary {path} has no terms; write one on each line.")
        unknown = vocabulary.tokenizer.token_to_id(UNK)
        plain = without_special_tokens(vocabulary.tokenizer)
        for encoding in plain.encode_batch(terms, add_special_tokens=False):
            if unknown in encoding.ids:
                self.unknown += 1
            elif len(encoding.ids) > 1:
                first, *rest = encoding.ids
                self._terms.setdefault(first, []).append(tuple(rest))
        for found in self._terms.values():
            found.sort(key=lambda rest: (-len(rest), rest))
        self.fingerprint = hashlib.sha256("\n".join(sorted(terms)).encode()).hexdigest()

    def continues(self, input_ids: np.ndarray, maskable: np.ndarray) -> np.ndarray:
        """Whether each token belongs to the word of the token before it: (B, S) bool.

        Args:
            input_ids: (B, S) int32. maskable: (B, S) bool, what is neither special nor padding; a word has no others.
        """
        follows = np.zeros_like(maskable)
        follows[:, 1:] = maskable[:, :-1]
        continues = self.continues_word[input_ids] & follows & maskable
        if self._cut is not None:
            for row in range(len(input_ids)):
                self._segment(input_ids[row], maskable[row], continues[row])
        if self._terms:
            for row in range(len(input_ids)):
                self._match(input_ids[row].tolist(), maskable[row], continues[row])
        return continues

    def _segment(self, ids: np.ndarray, maskable: np.ndarray, continues: np.ndarray) -> None:
        """Join the characters of each Chinese word of a row."""
        characters = self._characters[ids]
        chinese = maskable & (characters != "")
        borders = np.flatnonzero(np.diff(chinese, prepend=False, append=False))
        for begin, end in borders.reshape(-1, 2).tolist():
            for word in self._cut("".join(characters[begin:end])):  # type: ignore[misc]
                continues[begin + 1 : begin + len(word)] = True
                begin += len(word)

    def _match(self, ids: Sequence[int], maskable: np.ndarray, continues: np.ndarray) -> None:
        """Join the tokens of each term of a row, from the left, the longest first; a term ends where a word does."""
        place = 0
        while place < len(ids):
            length = 1
            if maskable[place] and not self.continues_word[ids[place]]:
                for rest in self._terms.get(ids[place], ()):
                    end = place + 1 + len(rest)
                    whole = tuple(ids[place + 1 : end]) == rest and maskable[place:end].all()
                    if whole and not (end < len(ids) and maskable[end] and self.continues_word[ids[end]]):
                        continues[place] = False
                        continues[place + 1 : end] = True
                        if end < len(ids) and not self.continues_word[ids[end]]:
                            continues[end] = False  # a word of the segmenter that began inside the term ends with it
                        length = end - place
                        break
            place += length


def _is_chinese(token: str) -> bool:
    return len(token) == 1 and any(first <= ord(token) <= last for first, last in _CHINESE)


def _rjieba():
    try:
        import rjieba
    except ImportError:
        raise UserError(
            "--segmenter rjieba needs the package rjieba, which is not installed; run pip install rjieba."
        ) from None
    return rjieba.cut
