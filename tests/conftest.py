"""A small real corpus, its vocabulary, its token store and a run on it, shared by all tests."""

import gc
import sys
from pathlib import Path

import pytest

from ms_bert.data import builtin, tokenizer
from ms_bert.data.corpus import Corpus
from ms_bert.data.store import open_store
from ms_bert.options import TextOptions
from tests import pictures, runs

_MANY = 100  # modules
_frozen = 0


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    global _frozen
    if len(sys.modules) > _frozen + _MANY:
        # MindSpore looks for garbage before each compilation: not among what the tests have imported.
        _frozen = len(sys.modules)
        gc.collect()
        gc.freeze()
    pictures.draw(item.get_closest_marker("drawn") is not None)


@pytest.fixture(scope="module")
def one_thread():
    """Torch's threads wait for one another by spinning: with small models, or beside other work, that takes seconds."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def corpus_file(tmp_path_factory) -> Path:
    """Some topics of the Python language reference: a paragraph a line, a blank line between documents."""
    from pydoc_data.topics import topics

    names = sorted(topics, key=lambda name: (len(topics[name]), name))[-24:]
    path = tmp_path_factory.mktemp("corpus") / "topics.txt"
    path.write_text("\n\n".join("\n".join(builtin.prose(topics[name])) for name in names), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def text_options(corpus_file, cache) -> TextOptions:
    return TextOptions(corpus=(str(corpus_file),), vocab_size=600, held_out=0.2, cache=cache, processes=1)


@pytest.fixture(scope="session")
def vocabulary(text_options) -> tokenizer.Vocabulary:
    return tokenizer.vocabulary(text_options, Corpus(text_options))


@pytest.fixture(scope="session")
def store(text_options, vocabulary):
    return open_store(text_options, Corpus(text_options), vocabulary)[0]


@pytest.fixture(scope="session")
def options(corpus_file, cache, tmp_path_factory) -> list[str]:
    """Of a run of twelve steps."""
    return runs.small_run(corpus_file, cache, runs.write_config(tmp_path_factory.mktemp("config")))


@pytest.fixture(scope="session")
def undisturbed(options, tmp_path_factory) -> Path:
    """The folder of a run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("runs") / "undisturbed"
    with pictures.drawn():
        result = runs.run(*options, "--output", folder)
    assert result.returncode == 0, result.stderr
    return folder
