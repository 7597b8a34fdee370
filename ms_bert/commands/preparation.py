"""What a run computes with: its vocabulary, its token store, its config, and the weights that it begins from."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from conversion import configs, pretrained
from conversion.parameters import ARCHITECTURES, BACKBONE, shapes
from conversion.pretrained import Fit, Pretrained
from ms_bert.commands import training
from ms_bert.config import PRESETS, BertConfig
from ms_bert.data import tokenizer
from ms_bert.data.corpus import Corpus
from ms_bert.data.store import TokenStore, open_store
from ms_bert.data.tokenizer import Vocabulary
from ms_bert.errors import UserError
from ms_bert.options import Options, TextOptions
from ms_bert.run.folder import read_description
from ms_bert.run.progress import Progress
from ms_bert.tasks.pretraining import PreTraining


@dataclasses.dataclass(frozen=True)
class Prepared:
    """See the module; fit is None where all weights are drawn, or come from a checkpoint of the run itself."""

    vocabulary: Vocabulary
    store: TokenStore
    config: BertConfig
    fit: Fit | None


def prepare(options: Options, progress: Progress, begun: bool = False, needed: Sequence[str] = ()) -> Prepared:
    """Make it all, what takes long last: a checkpoint or a config that cannot be used is refused before text is read.

    Args:
        begun: whether the run has checkpoints of its own, so that the one of --init is not needed any more.
        needed: parts that the checkpoint of --init must have, where random ones would be of no use.

    Raises:
        UserError: an option, a file or the corpus will not do.
    """
    init = options.model.init
    initial = _initial(init, options.model.config) if init and not begun else None
    corpus = Corpus(options.text)
    vocabulary = _vocabulary(options, initial, corpus)
    config = _config(options, initial, vocabulary, progress)
    fit = None
    if initial is not None:
        _check_parts(initial, needed)
        parts = (*BACKBONE, *ARCHITECTURES[PreTraining.architecture].parts)
        fit = initial.fit(shapes(config, parts), PreTraining.architecture)
        progress.say(training.origin(initial, fit))
    return Prepared(vocabulary, make_store(options.text, corpus, vocabulary, progress), config, fit)


def _initial(init: Path, config: Path | None) -> Pretrained:
    """The checkpoint that --init names, with a config for pre-training."""
    found = pretrained.read(init, config)
    unlabelled = found.config.replace(id2label=None, label2id=None, problem_type=None, classifier_dropout=None)
    return dataclasses.replace(found, config=unlabelled)


def _check_parts(initial: Pretrained, needed: Sequence[str]) -> None:
    missing = [part for part in needed if part not in initial.checkpoint.parts]
    if missing:
        remedy = "name another checkpoint" if "mlm" in missing else "use --no-nsp"
        raise UserError(
            f"{initial.checkpoint.source.path} lacks {' and '.join(missing)}, which the evaluation needs; {remedy}."
        )


def _vocabulary(options: Options, initial: Pretrained | None, corpus: Corpus) -> Vocabulary:
    """That of the resumed run, else --vocab, else the one beside the checkpoint of --init, else a trained one.

    Raises:
        UserError: there is none for the weights of --init: with another one they would be noise.
    """
    text = options.text
    if options.run.resume:
        text = dataclasses.replace(text, vocab=options.run.resume)
    elif initial is not None and text.vocab is None:
        if not initial.checkpoint.tokenizer:
            raise UserError(
                f"no vocabulary was found beside {initial.checkpoint.source.path}, and its weights are useless with "
                "another one; set --vocab to the one that it was trained with."
            )
        text = dataclasses.replace(text, vocab=initial.checkpoint.source.home)
    vocabulary = tokenizer.vocabulary(text, corpus)
    if options.run.resume:
        _check_vocabulary(options.run.resume, vocabulary)
    return vocabulary


def make_store(
    text: TextOptions, corpus: Corpus, vocabulary: Vocabulary, progress: Progress, shards: int | None = None
) -> TokenStore:
    """The token store of the corpus; see `open_store`."""
    begun = time.perf_counter()
    store, made = open_store(text, corpus, vocabulary, shards)
    of = " ".join(text.corpus)
    progress.say(told(f"corpus {of}", store.train.counts, vocabulary, store.folder, made, time.perf_counter() - begun))
    return store


def told(what: str, counts: Mapping[str, int], vocabulary: Vocabulary, folder: Path, made: bool, seconds: float) -> str:
    """What a folder of tokens holds, in a line."""
    return (
        f"{what}: {counts['documents']:,} documents, {counts['sentences']:,} sentences, {counts['tokens']:,} tokens of "
        f"{vocabulary.size:,} kinds ({'made' if made else 'kept'} in {folder}, {seconds:.1f} s)"
    )


def _config(options: Options, initial: Pretrained | None, vocabulary: Vocabulary, progress: Progress) -> BertConfig:
    """The config of a run, checked against the vocabulary and the sequence length.

    It is that of the resumed folder, else --config, else that of the checkpoint of --init, else the preset.
    """
    source = options.run.resume or options.model.config or options.model.init
    if options.run.resume is None and initial is not None:
        config = initial.config
        notes = initial.checkpoint.notes
    elif source is not None:
        described = configs.read(source)
        if described.untied:
            raise UserError(
                f"{source}: tie_word_embeddings is false, but the MLM head that is trained here uses the word "
                "embeddings; set it to true."
            )
        config, notes = described.config, described.notes
    else:
        config = PRESETS[options.model.preset].replace(vocab_size=vocabulary.size, pad_token_id=vocabulary.pad)
        notes = ()
    for note in notes:
        progress.say(f"{source}: {note}")
    if config.vocab_size < vocabulary.size:
        raise UserError(
            f"the vocabulary has {vocabulary.size} entries and the config's vocab_size is "
            f"{config.vocab_size}; use the vocabulary that belongs to {source}, or a larger vocab_size."
        )
    if config.max_position_embeddings < (longest := max(options.row_lengths)):
        option = "--seq-length is" if longest == options.examples.seq_length else "--phases has a sequence length of"
        raise UserError(
            f"{option} {longest}, but the position table has {config.max_position_embeddings}; choose a shorter "
            "one, or a --config with a larger max_position_embeddings."
        )
    if options.examples.nsp and config.type_vocab_size < 2:
        raise UserError("the config's type_vocab_size is 1, but sentence pairs need 2; use --no-nsp or another config.")
    if options.examples.objective == "left-to-right":
        config = config.replace(is_decoder=True)
    elif config.is_decoder:
        raise UserError(
            f"{source} has a left-to-right model (is_decoder), whose tokens see none after them; add --objective "
            "left-to-right --no-nsp."
        )
    if options.run.resume:
        _check_config(options.run.resume, config)
    return config


def _check_vocabulary(path: Path, vocabulary: Vocabulary) -> None:
    """Raise UserError unless it is that of the run: with another one a whole token store would be made in vain."""
    if read_description(path).get("vocabulary") not in (None, vocabulary.fingerprint()):
        raise UserError(f"the vocabulary in {path} is not the one that the run began with; restore its tokenizer.json.")


def _check_config(path: Path, config: BertConfig) -> None:
    """Raise UserError where the config is not that of the run in a field that no shape of a tensor tells of."""
    begun = read_description(path).get("config", {})
    for name in (
        "num_attention_heads",
        "hidden_act",
        "hidden_dropout_prob",
        "attention_probs_dropout_prob",
        "layer_norm_eps",
        "is_decoder",
    ):
        if begun.get(name, getattr(config, name)) != getattr(config, name):
            raise UserError(
                f"{path}: config.json says {getattr(config, name)!r} for {name}, but the run began with "
                f"{begun[name]!r}; restore its config.json."
            )
