"""From a corpus to its token store, whole or in parts that several machines make."""

from __future__ import annotations

import time
from collections.abc import Sequence

from ms_bert.commands import command, preparation
from ms_bert.data import tokenizer
from ms_bert.data.corpus import Corpus
from ms_bert.data.files import write_atomically
from ms_bert.data.store import open_part
from ms_bert.errors import UserError
from ms_bert.options import TokenizeOptions
from ms_bert.run.progress import Progress


def main(program: str, description: str, arguments: Sequence[str] | None) -> int:
    """Run the command; returns the exit code."""
    stopped = "interrupted; no store was written."
    return command.main_with(TokenizeOptions, tokenize, program, description, arguments, stopped)


def tokenize(options: TokenizeOptions) -> int:
    """Make what the options ask for, unless the cache holds it; returns the exit code."""
    text, progress = options.text, Progress()
    if options.save_vocab is not None and options.save_vocab.is_dir():
        raise UserError(f"--save-vocab {options.save_vocab} is a folder; name a file, such as tokenizer.json.")
    corpus = Corpus(text)
    numbers = None if options.shard is None else options.numbers
    if numbers is not None:
        corpus.shards(numbers[1])  # which there must be
    vocabulary = tokenizer.vocabulary(text, corpus)
    if options.save_vocab is not None:
        write_atomically(options.save_vocab, vocabulary.to_json().encode())
    if numbers is None:
        preparation.make_store(text, corpus, vocabulary, progress, options.merge)
        return 0
    begun = time.perf_counter()
    part, made = open_part(text, corpus, vocabulary, *numbers)
    what = f"shard {options.shard}"
    counts = part.split.counts
    progress.say(preparation.told(what, counts, vocabulary, part.folder, made, time.perf_counter() - begun))
    return 0
