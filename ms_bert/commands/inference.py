"""A model of a checkpoint with its vocabulary, as a function of sequences, for what is predicted."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from conversion.pretrained import Pretrained
from ms_bert.commands.framework import Compute, Framework
from ms_bert.config import BertConfig
from ms_bert.data import tokenizer
from ms_bert.data.packing import INPUTS
from ms_bert.data.sequences import Sequences
from ms_bert.errors import UserError, shown
from ms_bert.run.folder import TASK

_HEADS = {"mlm": "head of masked words (MLM)", "nsp": "head of next sentences (NSP)"}  # that pre-training trains


class Loaded:
    """What is made of a checkpoint, pickled as what it was made of: another process reads the checkpoint again."""

    _made_of: tuple[tuple[Any, ...], dict[str, Any]]

    def __new__(cls, *arguments: Any, **named: Any):
        made = super().__new__(cls)
        made._made_of = arguments, named
        return made

    def __reduce__(self):
        arguments, named = self._made_of
        return functools.partial(type(self), **named), arguments


class Inference:
    """A model with its vocabulary.

    Args:
        found: the checkpoint. path: as the user named it. framework: computes. architecture: a class of `heads`.
        needed: parts that the checkpoint must have besides the backbone; without any, the model gives hidden states.
        fields: of a batch, which the model takes.
        device, precision, threads: as the options of the commands. arguments: of the class.

    Attributes:
        vocabulary.

    Raises:
        UserError: it has no vocabulary, or lacks a part; or threads is no number of them.
    """

    def __init__(
        self,
        found: Pretrained,
        path: Path,
        framework: Framework,
        architecture: str,
        needed: Collection[str],
        fields: tuple[str, ...] = INPUTS,
        device: str = "CPU",
        precision: str = "float32",
        threads: int | None = None,
        arguments: Mapping[str, Any] | None = None,
    ):
        check_threads(threads)
        self.vocabulary = vocabulary_of(found)
        if missing := [part for part in needed if part not in found.checkpoint.parts]:
            heads = " and ".join(_HEADS.get(part, part) for part in missing)
            left_out = dict(found.checkpoint.left_out)
            reason = "".join(f" that can be used ({left_out[part]})" for part in missing if part in left_out)
            remedy = "pre-train this one further with pretrain --init" if set(missing) & set(_HEADS) else "fine-tune it"
            raise UserError(
                f"{path} has no {heads}{reason}, which this prediction needs; name a model that has it, or {remedy} "
                "first."
            )
        self._path, self._config = path, found.config
        self._make = functools.partial(
            framework.compute, architecture, found, device, precision, threads, fields, arguments or {}
        )

    @functools.cached_property
    def _compute(self) -> Compute:
        """Made when it is needed: what a user asks is read before, and may be wrong."""
        return self._make()

    def logits(self, sequences: Sequences, per_token: bool = False) -> np.ndarray:
        """(n, C) float32 of the sequences, or (T, C) of their tokens; whatever the other sequences are.

        Raises:
            UserError: some are not finite, or the model has no embedding for a token, a second text or a position.
        """
        check_inputs(sequences, self.vocabulary, self._path, self._config)
        found = self._compute.logits(sequences, per_token)
        check_finite(found, self._path, ", or choose --precision float32")
        return found


def check_inputs(sequences: Sequences, vocabulary: tokenizer.Vocabulary, path: Path, config: BertConfig) -> None:
    """Raise UserError where a model has no embedding for what sequences consist of: the kernels would take zeros."""
    most = int(sequences.ids.max(initial=0))
    if most >= config.vocab_size:
        raise UserError(
            f"{shown(vocabulary.tokenizer.id_to_token(most))} is the token {most} of the vocabulary, but {path} has "
            f"word embeddings up to {config.vocab_size - 1}; restore the vocabulary that the model was trained with."
        )
    if sequences.types.max(initial=0) >= config.type_vocab_size:
        raise UserError(
            f"a pair was given, but the type_vocab_size of {path} is {config.type_vocab_size}; give single texts, or "
            "name another model."
        )
    if sequences.lengths.max(initial=0) > config.max_position_embeddings:
        raise UserError(
            f"{sequences.lengths.max()} tokens are to be read at once, but {path} has only "
            f"{config.max_position_embeddings} positions; restore the config.json or the {TASK} that the model was "
            "trained with."
        )


def check_finite(found: np.ndarray, path: Path, otherwise: str = "") -> None:
    """Raise UserError if a model computes NaN or infinities; `otherwise`: what else may help."""
    if not np.isfinite(found).all():
        raise UserError(
            f"{path} computes numbers that are not finite; name a model that was trained with success{otherwise}.",
            exit_code=1,
        )


def check_threads(threads: int | None) -> None:
    """Raise UserError if threads is no number of them."""
    if threads is not None and threads < 1:
        raise UserError(f"threads is {threads}; expected at least 1, or None for as many as the processor has.")


def vocabulary_of(found: Pretrained) -> tokenizer.Vocabulary:
    """That of a checkpoint.

    Raises:
        UserError: it has none.
    """
    if not found.checkpoint.tokenizer:
        raise UserError(f"no vocabulary was found beside {found.checkpoint.source.path}; put its tokenizer there.")
    return tokenizer.load(found.checkpoint.source.home)
