"""WordPiece (Wu et al., 2016) through `tokenizers`: trained on a corpus, or read from a file."""

from __future__ import annotations

import collections
import contextlib
import hashlib
import itertools
import json
import math
import re
import sys
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from ms_bert.data.cache import kept_or_made, read_sealed, write_sealed
from ms_bert.data.corpus import Corpus
from ms_bert.errors import UserError, shown
from ms_bert.options import TextOptions

PAD, UNK, CLS, SEP, MASK = SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
CONTINUATION = "##"
CONFIG = "tokenizer_config.json"
_CLASS = "BertTokenizer"  # of transformers; its "Fast" is the same
_CLASSES = (_CLASS, "DistilBertTokenizer", "ElectraTokenizer", "MobileBertTokenizer")  # that clean text up as it does
_OTHERS = ("BertJapaneseTokenizer", "RoFormerTokenizer")  # that have a vocab.txt, too, and other words
_GENERAL = "PreTrainedTokenizerFast"  # which does what a tokenizer.json says
_ADDED = "added_tokens.json"  # beside a vocab.txt
FORMAT = 2  # of a trained vocabulary in the cache
LARGEST_FILE = 100_000_000  # bytes; that of a vocabulary of half a million entries has 20 million
MOST_IDS = 10_000_000
LONGEST_PIECE = 10_000  # characters of a text that the trainer is given at a time
_PIECE = re.compile(r"(?=\S).{1,%d}(?!\S)|\S{%d}" % (LONGEST_PIECE, LONGEST_PIECE), re.DOTALL)


class Vocabulary:
    """A WordPiece tokenizer and what the examples need to know of its entries.

    Attributes:
        tokenizer: the `tokenizers.Tokenizer`.
        size: number of ids, gaps included.
        pad, cls, sep, mask: ids of the special tokens.
        continues_word: (size,) bool, which ids are continuations (`##...`).
        second_type: the token type of the second text of a pair, 0 where a folder does not tell the two apart.
        cuts_left: whether what is too long loses its beginning, not its end.

    Raises:
        UserError: it is not WordPiece, or a special token is missing, or an id is out of all proportion.
    """

    def __init__(self, tokenizer: Tokenizer, source: str, second_type: int = 1, cuts_left: bool = False):
        self.tokenizer, self.second_type, self.cuts_left = tokenizer, second_type, cuts_left
        model = tokenizer.model
        if not isinstance(model, models.WordPiece):
            raise UserError(
                f"{source} is a {type(model).__name__} tokenizer, but BERT uses WordPiece; name another tokenizer."
            )
        if (model.unk_token, model.continuing_subword_prefix) != (UNK, CONTINUATION):
            raise UserError(
                f"{source} uses {model.unk_token[:100]!r} and {model.continuing_subword_prefix[:100]!r} where BERT's "
                f"WordPiece uses {UNK!r} and {CONTINUATION!r}; name another tokenizer."
            )
        entries = tokenizer.get_vocab(with_added_tokens=True)
        # [UNK] is the model's own: it does not see what was added to it.
        missing = [t for t in SPECIAL_TOKENS if t not in entries or (t == UNK and model.token_to_id(t) is None)]
        if missing:
            raise UserError(
                f"{source} has no {', '.join(missing)}; a BERT vocabulary needs {' '.join(SPECIAL_TOKENS)}."
            )
        self.size = max(entries.values()) + 1
        if self.size > MOST_IDS:
            raise UserError(f"{source} has the id {self.size - 1}; a vocabulary has at most {MOST_IDS:,} ids.")
        self.pad, self.unk, self.cls, self.sep, self.mask = (entries[token] for token in SPECIAL_TOKENS)
        self.continues_word = np.zeros(self.size, bool)
        self.continues_word[[i for token, i in entries.items() if token.startswith(CONTINUATION)]] = True

    def to_json(self) -> str:
        """The text of tokenizer.json."""
        return self.tokenizer.to_str(pretty=True)

    def to_vocab_txt(self) -> str:
        """The text of vocab.txt: an entry a line, in the order of the ids."""
        entries = {i: token for token, i in self.tokenizer.get_vocab(with_added_tokens=True).items()}
        return "".join(f"{entries.get(i, f'[unused-gap-{i}]')}\n" for i in range(self.size))

    def description(self) -> dict:
        """How text is cleaned up, and what a model is given of it, in the words of tokenizer_config.json.

        transformers' BertTokenizer reads these and not tokenizer.json; for a clean-up that is not BERT's there is a
        class that reads tokenizer.json, which gives token types only where they are named.
        """
        types = ("token_type_ids",) if self.second_type else ()
        given: dict = {"model_input_names": ["input_ids", *types, "attention_mask"]}
        if self.cuts_left:
            given["truncation_side"] = "left"
        normalizer = self.tokenizer.normalizer
        if not isinstance(normalizer, normalizers.BertNormalizer):
            return {"tokenizer_class": _GENERAL, **given}
        lowercase, strip = normalizer.lowercase, normalizer.strip_accents
        return {
            **given,
            "tokenizer_class": _CLASS,
            "do_lower_case": lowercase,
            "strip_accents": lowercase if strip is None else strip,
            "tokenize_chinese_chars": normalizer.handle_chinese_chars,
        }

    def fingerprint(self) -> str:
        """A hash that differs when any text may be tokenized differently."""
        return hashlib.sha256(self.tokenizer.to_str().encode()).hexdigest()


# As many capitalised entries as the larger of these make a vocabulary one of text that was not lowercased.
MOST_CAPITALISED, MOST_CAPITALISED_SHARE = 100, 0.02


def vocabulary(options: TextOptions, corpus: Corpus) -> Vocabulary:
    """The vocabulary that the options name, or one trained on the corpus (kept in the cache)."""
    if options.vocab is not None:
        return load(options.vocab, cased=options.cased)
    made_from = [
        FORMAT,
        corpus.fingerprint(),
        options.vocab_size,
        options.vocab_sample,
        options.cased,
        options.text_field,
        options.documents,
    ]
    name = hashlib.sha256(json.dumps(made_from).encode()).hexdigest()
    kept = options.cache / "vocabularies" / f"{name}.json"

    def read() -> Vocabulary:
        return Vocabulary(Tokenizer.from_str(read_sealed(kept)["tokenizer"]), str(kept))

    def make(alone: bool) -> None:
        write_sealed(kept, {"tokenizer": _train(options, corpus).to_str()})

    lock = options.cache / "locks" / f"vocabulary-{name[:16]}"
    return kept_or_made(lock, f"the vocabulary {kept}", read, make)[0]


def load(path: Path, cased: bool = False) -> Vocabulary:
    """A vocabulary from tokenizer.json, vocab.txt, or a folder with one of them.

    What the tokenizer_config.json beside a tokenizer.json says of the clean-up of text is right, as it is to
    transformers; where it says nothing, the tokenizer.json is.

    How a vocab.txt cleans text up stands in the tokenizer_config.json beside it; without one, as Google's checkpoints
    come, it lowercases unless the vocabulary has capitals. With `cased` it does not lowercase, whatever stands there.

    Raises:
        UserError: there is none, or it is damaged, or not WordPiece, or a special token is missing, or it cuts text
            into words or puts special tokens around it otherwise than BERT.
    """
    if path.is_dir():
        found = [path / name for name in ("tokenizer.json", "vocab.txt") if (path / name).exists()]
        if not found:
            raise UserError(f"{path} holds neither tokenizer.json nor vocab.txt; name a vocabulary file.")
        path = found[0]
    if not path.is_file():
        raise UserError(
            f"there is no vocabulary {path}; name a vocab.txt or a tokenizer.json, or train one without --vocab."
        )
    if path.stat().st_size > LARGEST_FILE:
        raise UserError(f"{path} has more than {LARGEST_FILE:,} bytes; name a vocab.txt or a tokenizer.json.")
    if path.suffix == ".json":
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # `tokenizers` raises nothing narrower
            raise UserError(f"{path} is not a tokenizer.json ({_one_line(error)}); name one, or a vocab.txt.") from None
        # Some files also say how to cut and pad (sentence-transformers' do); the store is to hold whole sentences.
        tokenizer.no_truncation()
        tokenizer.no_padding()
        beside = path.with_name(CONFIG)
        try:
            said = _config(beside) if beside.exists() else {}
        except UserError:  # the tokenizer.json is whole, and a run writes the other anew
            said = {}
        if isinstance(tokenizer.normalizer, normalizers.BertNormalizer):
            tokenizer.normalizer = _as_described(said, beside, tokenizer.normalizer)
        with contextlib.suppress(UserError):  # what lies beside need not be of it
            _add_tokens(tokenizer, path, said)
        vocabulary = Vocabulary(tokenizer, str(path), cuts_left=_cuts_left(said))
        vocabulary.second_type = _framed(vocabulary, said, path)
        return vocabulary
    try:
        # Not splitlines(): bert-base-chinese has U+2028 as an entry, which would move all ids after it.
        tokens = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path} cannot be read as a vocab.txt ({_one_line(error)}); name a UTF-8 text with one entry per line."
        ) from None
    entries = {token: i for i, token in enumerate(tokens) if token}
    if UNK not in entries:
        raise UserError(f"{path} has no {UNK}; a BERT vocabulary needs {' '.join(SPECIAL_TOKENS)}.")
    beside = path.with_name(CONFIG)
    fields = _config(beside) if beside.exists() else None
    for name in ("word_tokenizer_type", "subword_tokenizer_type", "tokenizer_class"):
        value = (fields or {}).get(name)
        if value is not None and (name != "tokenizer_class" or value in _OTHERS):
            raise UserError(
                f"{beside} says that the {name} is {shown(value)}, which cuts text into words otherwise than BERT's; "
                "name a tokenizer.json, or remove what is not true from this file."
            )
    clean_up = _clean_up(lowercase=False) if cased else _described_clean_up(fields, beside, entries)
    said = fields or {}
    tokenizer = _with_special_tokens(_bert_tokenizer(_word_piece(entries), clean_up))
    _add_tokens(tokenizer, path, said)
    return Vocabulary(tokenizer, str(path), 0 if _without_types(said) else 1, _cuts_left(said))


def _framed(vocabulary: Vocabulary, said: dict, path: Path) -> int:
    """The token type of a second text, by a tokenizer.json and what the tokenizer_config.json beside it says; the
    tokenizer is given BERT's special tokens around texts where it is to have them and does not say so.

    Raises:
        UserError: other special tokens stand around texts than around BERT's.
    """
    tokenizer, cls, sep, second = vocabulary.tokenizer, vocabulary.cls, vocabulary.sep, 1
    if tokenizer.post_processor is not None:
        a, b = (tokenizer.encode(text, add_special_tokens=False).ids for text in "ab")
        single, pair = tokenizer.encode("a"), tokenizer.encode("a", "b")
        second = max(pair.type_ids[-1:], default=1)
        types = [0] * (len(a) + 2) + [second] * (len(b) + 1)
        framed = (single.ids, pair.ids, pair.type_ids) == ([cls, *a, sep], [cls, *a, sep, *b, sep], types)
        # BERT's classes do as BERT whatever tokenizer.json says, and the library's own pairs are said by nobody.
        unsaid = single.ids == [cls, *a, sep] and pair.ids == [*a, *b]
        if _is_berts(said) or unsaid or _is_of_an_older_run(said, path):
            if not framed or second != 1:
                tokenizer.post_processor = processors.BertProcessing((SEP, sep), (CLS, cls))
            second = 1
        elif not framed or second > 1:
            raise UserError(
                f"{path} makes {' '.join(pair.tokens)} of the texts a and b, with the types {pair.type_ids}, but BERT "
                f"reads {CLS} A {SEP} B {SEP}; name another tokenizer."
            )
    return 0 if _without_types(said) else second


def _is_of_an_older_run(said: dict, path: Path) -> bool:
    """Whether a run wrote the files before it said what a model is given: then that is what BERT is given."""
    return "model_input_names" not in said and path.with_name("run.json").exists()


def _without_types(said: dict) -> bool:
    """Whether a tokenizer_config.json names what a model is given, and token types are not among it.

    Where it names nothing, PreTrainedTokenizerFast of transformers 5 gives no types; in transformers 4, by which most
    such models were trained, it gave those of the template, and so they are given here.
    """
    names = said.get("model_input_names")
    return isinstance(names, list) and "token_type_ids" not in names


def _cuts_left(said: dict) -> bool:
    return said.get("truncation_side") == "left"


def _is_berts(said: dict) -> bool:
    """Whether a tokenizer_config.json is that of a class which does as BERT's; it may name none."""
    return str(said.get("tokenizer_class") or _CLASS).removesuffix("Fast") in _CLASSES


def _described_clean_up(said: dict | None, path: Path, entries: Collection[str]) -> normalizers.BertNormalizer:
    """The clean-up that a tokenizer_config.json describes, by the defaults of transformers' BertTokenizer; without one
    that of which the entries of a vocabulary are made."""
    if said is None:
        # Of Google's cased vocabularies a third is capitalised; of others a few entries may be.
        capitalised = sum(
            entry != entry.lower() for entry in entries if entry[:1] != "["
        )  # [CLS], [unused0], [UNUSED0]
        return _clean_up(lowercase=capitalised < max(MOST_CAPITALISED, MOST_CAPITALISED_SHARE * len(entries)))
    of = _said_of_clean_up(said, path)
    return _clean_up(
        lowercase=of["do_lower_case"] is not False,
        strip_accents=of["strip_accents"],
        chinese=of["tokenize_chinese_chars"] is not False,
    )


def _as_described(fields: dict, path: Path, normalizer: normalizers.BertNormalizer) -> normalizers.BertNormalizer:
    """The clean-up of a tokenizer.json, with what a tokenizer_config.json says of it; of a class that is not BERT's, or
    with other values than true and false, it says nothing."""
    try:
        said = _said_of_clean_up(fields, path)
    except UserError:
        return normalizer
    if not _is_berts(fields):
        return normalizer
    # Where nothing is said of accents, they go with the capitals.
    accents = normalizer.strip_accents if said["do_lower_case"] is None else None
    own = (normalizer.lowercase, accents, normalizer.handle_chinese_chars)
    lowercase, strip_accents, chinese = (b if a is None else a for a, b in zip(said.values(), own))
    return normalizers.BertNormalizer(
        clean_text=normalizer.clean_text,
        handle_chinese_chars=chinese,
        strip_accents=strip_accents,
        lowercase=lowercase,
    )


def _add_tokens(tokenizer: Tokenizer, path: Path, said: dict) -> None:
    """Add the tokens that transformers keeps beside a vocabulary, in added_tokens.json or tokenizer_config.json, of
    which the latter is `said`; entries that these or special_tokens_map.json call special are not split.

    Raises:
        UserError: their ids do not follow those of the vocabulary.
    """
    config, beside, named = (path.with_name(name) for name in (CONFIG, _ADDED, "special_tokens_map.json"))
    lists = [said.get("additional_special_tokens"), said.get("extra_special_tokens")]
    if named.exists():
        lists.append(_config(named).get("additional_special_tokens"))
    special = {_content(one) for found in lists if isinstance(found, list) for one in found}
    added: dict[int, AddedToken] = {}
    place = beside
    try:
        for content, number in (_config(beside) if beside.exists() else {}).items():
            added[int(number)] = AddedToken(content, special=content in special, normalized=content not in special)
        place = config
        for number, fields in (said.get("added_tokens_decoder") or {}).items():
            flags = {name: bool(fields.get(name)) for name in ("lstrip", "rstrip", "single_word", "special")}
            normalized = bool(fields.get("normalized", not flags["special"]))
            added[int(number)] = AddedToken(fields["content"], normalized=normalized, **flags)
    except (ValueError, TypeError, KeyError, AttributeError):
        raise UserError(f"{place} is damaged (no tokens with ids); restore or remove it.") from None
    entries = tokenizer.get_vocab()
    following, made = max(entries.values()) + 1, []
    for number, token in sorted(added.items(), key=lambda one: one[0]):
        if token.content not in entries:
            # With a gap among the ids the library would give out one that is taken.
            if number != following or following != len(entries):
                raise UserError(
                    f"{shown(token.content)} was added to {path} as {number}, but its ids go up to {following - 1}"
                    f"{'' if following == len(entries) else ' with gaps'}; restore the files of the tokenizer."
                )
            entries[token.content], following = number, number + 1
        made.append(token)
    made += [AddedToken(one, special=True, normalized=False) for one in sorted(special & entries.keys())]
    known = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    tokenizer.add_tokens([token for token in made if token.content not in known])


def _content(token: object) -> str:
    """Of a token as a string or, in files of some versions, as an object."""
    content = token.get("content") if isinstance(token, dict) else token
    return content if isinstance(content, str) else ""


def longest_of(folder: Path) -> int | None:
    """The tokens that a model takes by the model_max_length of a tokenizer_config.json; None: it says none. A number
    that no text reaches is how transformers says that there is no limit."""
    path = folder / CONFIG
    said = _config(path) if path.exists() else {}
    value = said.get("model_max_length", said.get("max_len"))  # its name in older files
    return int(value) if isinstance(value, int | float) and 2 < value < math.inf else None


def _config(path: Path) -> dict:
    """What a tokenizer_config.json says."""
    try:
        fields = json.loads(path.read_bytes())
        fields.get("")
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as a JSON object ({_one_line(error)}); restore or remove it.") from None
    return fields


def _said_of_clean_up(fields: dict, path: Path) -> dict[str, bool | None]:
    """do_lower_case, strip_accents and tokenize_chinese_chars of a tokenizer_config.json; None: it does not say."""
    said = {name: fields.get(name) for name in ("do_lower_case", "strip_accents", "tokenize_chinese_chars")}
    for name, value in said.items():
        if not isinstance(value, bool) and value is not None:
            raise UserError(f"{path}: {name} is {shown(value)}; expected true or false.")
    return said


def _one_line(error: Exception) -> str:
    return repr(str(error)[:200])[1:-1]


def _train(options: TextOptions, corpus: Corpus) -> Tokenizer:
    """A WordPiece vocabulary of the asked size from a sample of whole documents spread over the corpus."""
    share = min(1.0, options.vocab_sample / max(corpus.megabytes(), 1e-9))
    # Every document whose running number crosses a whole multiple when scaled by the share.
    sample = ["\n".join(lines) for i, lines in enumerate(corpus.documents()) if int((i + 1) * share) > int(i * share)]
    if not sample:
        raise UserError(f"the corpus {' '.join(options.corpus)} holds no text; name one that does.")
    alphabet = _alphabet_size(sample, options.vocab_size // 2)

    def trained(size: int, first: list[str]) -> dict[str, int]:
        tokenizer = _bert_tokenizer(_word_piece({}), _clean_up(lowercase=not options.cased))
        tokenizer.train_from_iterator(
            itertools.chain.from_iterable(map(_pieces, sample)),
            trainers.WordPieceTrainer(
                vocab_size=size,
                special_tokens=[*SPECIAL_TOKENS, *first],
                continuing_subword_prefix=CONTINUATION,
                limit_alphabet=alphabet,
                show_progress=size > 1 and sys.stderr.isatty(),
            ),
        )
        return tokenizer.get_vocab()

    # The trainer numbers the single continuing characters in the order of a hash map and breaks ties by number, so
    # that each run would give another vocabulary; a first pass finds these characters, and they are given in order.
    continuing = sorted(token for token in trained(1, []) if token.startswith(CONTINUATION))
    tokenizer = _bert_tokenizer(
        _word_piece(trained(options.vocab_size, continuing)), _clean_up(lowercase=not options.cased)
    )
    return _with_special_tokens(tokenizer)


def _pieces(text: str) -> Iterator[str]:
    """The lines of a text, long ones in pieces, cut at white space where there is any.

    Training takes memory by the length of a piece and time by the square of that of a word.
    """
    for line in text.split("\n"):
        if len(line) <= LONGEST_PIECE:
            yield line
        else:
            yield from _PIECE.findall(line)


def _alphabet_size(sample: list[str], most: int) -> int:
    """How many characters make up 99.99% of the text: a hundred for English, thousands for Chinese; at most `most`."""
    step = max(1, sum(map(len, sample)) // 20_000_000)
    counts: collections.Counter[str] = collections.Counter()
    for text in sample[::step]:
        counts.update(text)
    covered = np.cumsum(sorted(counts.values(), reverse=True))
    return min(most, int(np.searchsorted(covered, 0.9999 * covered[-1])) + 1)


def _word_piece(entries: dict[str, int]) -> models.WordPiece:
    return models.WordPiece(entries, unk_token=UNK, max_input_chars_per_word=100)


def _bert_tokenizer(model, clean_up: normalizers.BertNormalizer) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = clean_up
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix=CONTINUATION)
    return tokenizer


def _clean_up(lowercase: bool, strip_accents: bool | None = None, chinese: bool = True) -> normalizers.BertNormalizer:
    """BERT's: control characters out, Chinese characters apart; by default accents go where case goes."""
    return normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=chinese,
        strip_accents=lowercase if strip_accents is None else strip_accents,
        lowercase=lowercase,
    )


def _with_special_tokens(tokenizer: Tokenizer) -> Tokenizer:
    entries = tokenizer.get_vocab()
    tokenizer.add_special_tokens([token for token in SPECIAL_TOKENS if token in entries])
    if SEP in entries and CLS in entries:
        tokenizer.post_processor = processors.BertProcessing((SEP, entries[SEP]), (CLS, entries[CLS]))
    return tokenizer
