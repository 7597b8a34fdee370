"""Training texts that are changed in each epoch (`--augment`), and what a model guesses for them before training."""

from __future__ import annotations

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from conversion import pretrained
from conversion.parameters import ARCHITECTURES
from conversion.pretrained import Pretrained
from ms_bert.commands.framework import Framework
from ms_bert.commands.inference import vocabulary_of
from ms_bert.data.augmentation import GUESSES, PASSES, POSITIONS, Augmentation, Guesses, guesses
from ms_bert.data.batches import Batch
from ms_bert.data.packing import INPUTS
from ms_bert.data.sequences import Sequences
from ms_bert.data.tokenizer import Vocabulary
from ms_bert.errors import UserError, shown
from ms_bert.finetuning_options import FinetuneOptions
from ms_bert.run import folder
from ms_bert.run.progress import Progress
from ms_bert.tasks import registry
from ms_bert.tasks.masked_words import ARCHITECTURE


class Augmenter:
    """`--augment`, checked before the data is read.

    Args:
        initial: the checkpoint that training begins with; None: the run has begun. vocabulary: of the run.

    Raises:
        UserError: the task's texts are not to be changed, or the model cannot guess words of this vocabulary.
    """

    def __init__(self, options: FinetuneOptions, initial: Pretrained | None, vocabulary: Vocabulary):
        self._options, self._vocabulary = options, vocabulary
        training, task = options.training, registry.kind(options.data.task)
        self._remembered: Guesses | None = None
        self._model: Pretrained | None = None
        if training.augment and not task.augmented:
            raise UserError(
                f"--augment is for tasks with labels of whole texts, such as classification, not for {task.name}; "
                "leave it out."
            )
        if GUESSES in training.augment:
            self._remembered = _remembered(options)
            if self._remembered is None:
                self._model = _guessing(options, initial, vocabulary)

    def __call__(
        self, framework: Framework, sequences: Sequences, progress: Progress
    ) -> tuple[Augmentation | None, dict[str, bytes]]:
        """What changes the training sequences, None without --augment; and the files by which a run remembers it.

        Raises:
            UserError: what is remembered was guessed for other data; or the model is too small for the sequences, or
                computes numbers that are not finite.
        """
        training = self._options.training
        if not training.augment:
            return None, {}
        found = self._remembered
        if self._model is not None:
            found = self._guesses(self._model, framework, sequences, progress)
        augmented = Augmentation(
            sequences, self._vocabulary, training.augment, training.augment_share, training.seed, found
        )
        files = {}
        if found is not None:
            if len(found.ids) != len(augmented.layout.guessed):
                raise UserError(
                    f"{folder.GUESSES} in {self._options.run.resume} has guesses for other data; restore the data, or "
                    "begin a new run."
                )
            files[folder.GUESSES] = save({"ids": found.ids, "shares": found.shares})
        progress.say(self._told(sequences, augmented(0)))
        return augmented, files

    def _told(self, sequences: Sequences, changed: Sequences) -> str:
        """How many sequences of the first epoch are changed, and the shortest of them."""

        def tokens(of: Sequences, number: int) -> np.ndarray:
            return of.ids[of.starts[number] : of.starts[number + 1]]

        def texts(of: Sequences, number: int) -> str:
            parts = np.split(tokens(of, number), np.flatnonzero(tokens(of, number) == self._vocabulary.sep))
            decode = self._vocabulary.tokenizer.decode
            # Each begins with [CLS] or [SEP]; what is unknown to the vocabulary is shown as such.
            return shown(" | ".join(decode(part[1:].tolist(), skip_special_tokens=False) for part in parts[:-1]))

        found = [n for n in range(len(sequences)) if not np.array_equal(tokens(sequences, n), tokens(changed, n))]
        line = f"{len(found):,} of {len(sequences):,} training texts are changed in the first epoch"
        if not found:
            return line
        shortest = min(found, key=lambda n: sequences.lengths[n])
        return f"{line}, such as {texts(sequences, shortest)}, which becomes {texts(changed, shortest)}"

    def _guesses(self, model: Pretrained, framework: Framework, sequences: Sequences, progress: Progress) -> Guesses:
        options, config = self._options, model.config
        path = options.training.augment_model or options.start.model
        if sequences.lengths.max() > config.max_position_embeddings:
            raise UserError(
                f"{path}, which guesses words, takes at most {config.max_position_embeddings} tokens, but the longest "
                f"text has {sequences.lengths.max()}; choose a smaller --longest, or another --augment-model."
            )
        if config.type_vocab_size < 2 and sequences.types.any():
            raise UserError(f"{path}, which guesses words, takes no pairs of texts; choose another --augment-model.")
        progress.say(f"guessing the words of the training data in {PASSES} passes of {path}")
        fields = (*INPUTS, POSITIONS)
        compute = framework.compute(ARCHITECTURE, model, options.run.device, "float32", options.run.threads, fields, {})

        def logits(batch: Batch) -> np.ndarray:
            table = compute(batch)
            if not np.isfinite(table).all():
                raise UserError(
                    f"{path} guesses words with probabilities that are not finite; name a model that was trained with "
                    "success with --augment-model.",
                    exit_code=1,
                )
            return table

        return guesses(sequences, self._vocabulary, config.max_position_embeddings, logits)


def _remembered(options: FinetuneOptions) -> Guesses | None:
    """The guesses that the run began with; None: they must be made."""
    if options.run.resume is None:
        return None
    try:
        found = load_file(options.run.resume / folder.GUESSES)
        return Guesses(found["ids"], found["shares"])
    except (OSError, SafetensorError, KeyError):
        return None


def _guessing(options: FinetuneOptions, initial: Pretrained | None, vocabulary: Vocabulary) -> Pretrained:
    """The model that guesses.

    Raises:
        UserError: it cannot be read, has no MLM head, sees one side of a word only, or has another vocabulary.
    """
    named, start = options.training.augment_model, options.start
    path, remedy = named or start.model, "name another one with --augment-model, or leave out guesses"
    assert path is not None  # `parse` asks for it
    found = initial
    if named is not None or found is None:
        found = pretrained.read(path, None if named else start.config)
    if not set(found.checkpoint.parts) >= ARCHITECTURES[ARCHITECTURE].parts:
        raise UserError(f"{path} has no MLM head, by which words are guessed for --augment; {remedy}.")
    if found.config.is_decoder:
        raise UserError(
            f"{path} is read from left to right (is_decoder), but words are guessed from both sides; {remedy}."
        )
    if named is not None and vocabulary_of(found).to_vocab_txt() != vocabulary.to_vocab_txt():
        raise UserError(f"--augment-model {path} has another vocabulary than --model; name one with the same.")
    return found
