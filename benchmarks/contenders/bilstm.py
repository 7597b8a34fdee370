"""`python -m benchmarks.contenders.bilstm`: fine-tune a BERT with a BiLSTM on top, as the ablations of its paper do.

The command is pt_reference's `finetune`, with its tasks, batches, seeds and scores; only the model is another one: of
each sequence, a BiLSTM reads the hidden states in both directions before its tokens are classified. It is initialised
at random, and trained with BERT (the row "+ BiLSTM" of table 5; Devlin et al., 2019, 5.1). With --features, BERT stays
as it is, and the BiLSTM reads hidden states of the layers that are named (table 7; 5.3).
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import math
import sys
from collections.abc import Sequence

import torch
from torch import nn

from ms_bert.commands import finetuning
from ms_bert.config import BertConfig
from ms_bert.errors import UserError
from ms_bert.finetuning_options import FinetuningOptions
from ms_bert.options import TrainerOptions
from ms_bert.randomness import initial_weights
from ms_bert.run.checkpoints import Arrays
from ms_bert.run.workers import ALONE, Workers
from ms_bert.tasks import Task
from ms_bert.tasks.embedding import layers_from_the_input
from pt_reference.framework import PyTorch
from pt_reference.heads import BertForTokenClassification
from pt_reference.model import Numerics
from pt_reference.training import losses
from pt_reference.training.trainer import TorchTrainer


@dataclasses.dataclass(frozen=True)
class Top:
    """What stands on a BERT.

    Attributes:
        depth: layers of the BiLSTM.
        features: what it reads of a BERT that stays as it is: hidden states of these layers, 0 being the embeddings, -1
            the last layer; (): BERT is trained, and its last layer is read.
        added: the features are added up, with weights that are learned, instead of put side by side.
    """

    depth: int = 1
    features: tuple[int, ...] = ()
    added: bool = False


class BertWithBiLSTM(BertForTokenClassification):
    """BertForTokenClassification whose classifier reads a BiLSTM: logits (B, S, num_labels).

    Both directions together are as wide as BERT, so the classifier is that of the class above.
    """

    def __init__(self, config: BertConfig, numerics: Numerics, top: Top):
        super().__init__(config, numerics)
        width, self.frozen = config.hidden_size, bool(top.features)
        self.layers = layers_from_the_input(top.features or (-1,), config.num_hidden_layers)
        self.shares = nn.Parameter(torch.zeros(len(self.layers))) if top.added else None
        inputs = width if top.added else width * len(self.layers)
        self.lstm = nn.LSTM(inputs, width // 2, top.depth, batch_first=True, bidirectional=True)

    def forward(
        self,
        input_ids,
        attention_mask=None,
        token_type_ids=None,
        position_ids=None,
        cls_positions=None,
        dropout_keys=None,
    ):
        assert attention_mask is not None  # a batch has it
        inputs = (input_ids, attention_mask, token_type_ids, position_ids, cls_positions)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            # Features are always the same: without dropout.
            _, _, (embeddings, layers) = self.bert(*inputs, None if self.frozen else dropout_keys)
        states = (embeddings, *(output for _, _, output in layers))
        hidden = self.combined([states[layer] for layer in self.layers])
        return self.head(read(self.lstm, hidden, attention_mask), (), input_ids.shape[1], dropout_keys)

    def combined(self, states):
        """Hidden states, each (B * S, H) -> (B * S, inputs of the BiLSTM)."""
        if self.shares is None:
            return torch.cat(states, -1)
        # The scalar mix of ELMo (Peters et al., 2018, eq. 1), without its factor, which the BiLSTM has in its weights.
        return (torch.softmax(self.shares, 0) * torch.stack(states, -1)).sum(-1)

    def initialize_top(self, seed: int) -> None:
        """Draw the BiLSTM: weights from normal(0, 1 / sqrt(inputs)), biases 0; all shares are equal."""
        for name, parameter in self.lstm.named_parameters():
            scale = 0.0 if name.startswith("bias") else 1.0 / math.sqrt(parameter.shape[-1])
            value = initial_weights(f"lstm.{name}", tuple(parameter.shape), scale, seed, truncated=False)
            parameter.data.copy_(torch.from_numpy(value))
        if self.shares is not None:
            self.shares.data.zero_()


def read(lstm: nn.LSTM, hidden: torch.Tensor, sequence_ids: torch.Tensor) -> torch.Tensor:
    """What a BiLSTM gives for each token of each sequence, which it reads by itself.

    Args:
        hidden: (B * S, D). sequence_ids: (B, S), 0 for padding; the tokens of a sequence stand one after the other.

    Returns:
        (B * S, H), 0 for padding.
    """
    rows = torch.arange(len(sequence_ids), device=sequence_ids.device)[:, None]
    owners = (sequence_ids + rows * (int(sequence_ids.max()) + 1)).flatten()
    seen = sequence_ids.flatten() > 0
    lengths = torch.unique_consecutive(owners[seen], return_counts=True)[1].tolist()
    # One sequence a row, padded to the longest of the batch.
    given = nn.utils.rnn.pad_sequence(hidden[seen].split(lengths), batch_first=True)
    given = nn.utils.rnn.pack_padded_sequence(given, torch.tensor(lengths), batch_first=True, enforce_sorted=False)
    found = torch.cat(nn.utils.rnn.unpack_sequence(lstm(given)[0]))
    return found.new_zeros(len(seen), found.shape[-1]).masked_scatter(seen[:, None], found)


class Trainer(TorchTrainer):
    """TorchTrainer of a BertWithBiLSTM."""

    def __init__(self, config: BertConfig, options: TrainerOptions, task: Task, top: Top):
        objective = losses.objective(task)
        if objective.model is not BertForTokenClassification:
            raise UserError(f"a BiLSTM classifies tokens; add --pooling mean to {task.name}, or take another task.")
        try:
            layers_from_the_input(top.features, config.num_hidden_layers)
        except ValueError as error:
            last = config.num_hidden_layers
            raise UserError(f"--features: {error} of the model; choose from 0 to {last}, or from -1.") from None
        if top.features:
            assert isinstance(options.training, FinetuningOptions)
            training = dataclasses.replace(options.training, frozen_layers=config.num_hidden_layers)
            options = dataclasses.replace(options, training=training)
        super().__init__(config, options, task, objective._replace(model=functools.partial(BertWithBiLSTM, top=top)))
        self.model.initialize_top(options.training.seed)

    def load_weights(self, model: Arrays) -> None:
        """Of a BERT too: what it lacks stays as it is."""
        top = {name: value for name, value in self.state()[0].items() if name.startswith(("lstm.", "shares"))}
        super().load_weights({**top, **model})


class WithBiLSTM(PyTorch):
    """PyTorch, where each model has a BiLSTM on top."""

    def __init__(self, top: Top):
        self.top = top

    def trainer(self, config: BertConfig, options: TrainerOptions, task: Task, workers: Workers = ALONE) -> Trainer:
        return Trainer(config, options, task, self.top)


def main(arguments: Sequence[str] | None = None) -> int:
    program = "python -m benchmarks.contenders.bilstm"
    parser = argparse.ArgumentParser(prog=program, description=__doc__, add_help=False, allow_abbrev=False)
    parser.add_argument("--depth", type=int, choices=range(1, 5), default=1, help="layers of the BiLSTM")
    parser.add_argument("--features", type=int, nargs="+", default=[], help="layers that are read and left as they are")
    parser.add_argument("--added", action="store_true", help="features are added up with weights that are learned")
    own, others = parser.parse_known_args(arguments)
    top = Top(own.depth, tuple(own.features), own.added)
    return finetuning.main(WithBiLSTM(top), program, parser.format_help(), others)


if __name__ == "__main__":
    sys.exit(main())
