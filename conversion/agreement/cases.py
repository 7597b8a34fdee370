"""What is computed: small models and batches whose every weight, size and token can expose a fault.

Nothing here imports a framework. Every parameter is random, biases and LayerNorm too, for their usual first values hide
half of all mistakes; the sizes differ pairwise; positions run to the last; rows are ragged; both segments, ignored
labels, all-ignored rows and packed rows are among the batches.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from conversion.parameters import ARCHITECTURES, BACKBONE, CHOICE, MODULES, SEQUENCE, TOKEN, projection, shapes
from ms_bert.config import BertConfig
from ms_bert.data.batches import FIELDS, Batch
from ms_bert.options import ExampleOptions, Options, TrainingOptions
from ms_bert.randomness import DropoutColumns, dropout_keys

Tensors = dict[str, np.ndarray]

# Heads of 16 and 32 tokens, so that the NPU's fused attention computes it too.
CONFIG = BertConfig(
    vocab_size=97,
    hidden_size=48,
    num_hidden_layers=2,
    num_attention_heads=3,
    intermediate_size=80,
    max_position_embeddings=32,
    hidden_dropout_prob=0.1,
    attention_probs_dropout_prob=0.15,
)
ROWS, SLOTS, SEQUENCES = 4, 6, 3
PRETRAINING = (*BACKBONE, "pooler", "mlm", "nsp")  # the parts of what most problems are
ARCHITECTURE = "BertForPreTraining"

# Lengths of the sequences of each row.
RAGGED = ((32,), (19,), (7,), (3,))
SHORT = ((24,), (11,), (5,), (17,))
PACKED = ((11, 14, 7), (20, 5), (32,), (9, 9, 9))
# Masked slots in use of each row: a whole row may have none.
USED = (6, 4, 1, 0)

UPDATES = 7  # of the optimizer before the step that is compared: bias correction is far from 1 and from 0
RATE = 0.1  # so large that the change of a weight stands far above its rounding
SCALE = 1024.0  # the loss scale in float16
SEED = 20  # of the dropout


@dataclasses.dataclass(frozen=True)
class Case:
    """One batch, and how it is to be computed.

    Attributes:
        name: no two problems share one. batch: arrays of `ms_bert.data.batches.FIELDS`.
        dropout: whether the gradients are those of training, with the keys of `keys`; the forward pass has no dropout.
        same_as: the case that must have the same result, of which this is another form; None: it is one of its own.
        back: from this form's tensors of the forward pass to those of `same_as`.
    """

    name: str
    batch: Batch
    dropout: bool = False
    same_as: str | None = None
    back: Callable[[Tensors], Tensors] | None = None


@dataclasses.dataclass(frozen=True)
class Problem:
    """A model and what it is given.

    Attributes:
        config, architecture: of the model, as `conversion.parameters` names it. weights, moments: by canonical names,
        float32; the moments as m.NAME and v.NAME, of a run after `UPDATES` updates; {}: nothing is trained.
    """

    config: BertConfig
    architecture: str
    weights: Tensors
    moments: Tensors
    cases: tuple[Case, ...]

    @property
    def pooler(self) -> bool:
        """Whether there is a pooler, which some heads do without."""
        return "bert.pooler.dense.weight" in self.weights


def small_problem() -> Problem:
    """The problem that every check computes."""
    weights = random_weights(shapes(CONFIG, PRETRAINING))
    ragged, packed = make_batch(CONFIG, RAGGED, seed=1), make_batch(CONFIG, PACKED, seed=2)
    ignored = {**ragged, "masked_weights": np.zeros_like(ragged["masked_weights"])}
    ignored["next_sentence_weights"] = ragged["next_sentence_weights"] * np.float32(np.arange(ROWS) == 1)[:, None]
    nothing = {**ignored, "next_sentence_weights": np.zeros_like(ignored["next_sentence_weights"])}
    return Problem(
        CONFIG,
        ARCHITECTURE,
        weights,
        random_moments(weights),
        (
            Case("ragged", ragged),
            Case("packed", packed),
            Case("labels ignored", ignored),
            Case("nothing to learn", nothing),
            Case("dropout", ragged, dropout=True),
            reordered(Case("ragged", ragged)),
            padded(Case("short", make_batch(CONFIG, SHORT, 24, seed=4)), None),
            padded(Case("short", make_batch(CONFIG, SHORT, 24, seed=4)), 32),
            unpacked(Case("packed", packed)),
        ),
    )


def quiet_problem() -> Problem:
    """Weights so small that the epsilon of every LayerNorm shows, which unit activations hide.

    The input of each LayerNorm has a variance near 1e-3. Queries and keys are not that small, for near 0 their
    gradients would be rounding.
    """
    weights = random_weights(shapes(CONFIG, PRETRAINING))
    quiet = {name: value * np.float32(_loudness(name)) for name, value in weights.items()}
    batch = make_batch(CONFIG, RAGGED, seed=5)
    return Problem(CONFIG, ARCHITECTURE, quiet, random_moments(quiet), (Case("quiet", batch),))


def _loudness(name: str) -> float:
    if ".query.weight" in name or ".key.weight" in name:
        return 10.0
    # LayerNorm's own output is made small too, for it is the residual that the next one normalises.
    return 0.03 if "_embeddings." in name or "LayerNorm" in name or "dense" in name and "pooler" not in name else 1.0


def activation_problem(act: str) -> Problem:
    """The small problem with another activation."""
    small = small_problem()
    return dataclasses.replace(
        small, config=CONFIG.replace(hidden_act=act), cases=(Case(act, make_batch(CONFIG, RAGGED, seed=8)),)
    )


def large_problem(name: str, config: BertConfig, tokens: int = 24) -> Problem:
    """The forward pass of a larger model: ragged rows at the end of its positions."""
    batch = make_batch(config, ((tokens,), (tokens - 7, 4)), tokens, seed=3)
    # The last positions there are: a table that is cut or shifted is seen.
    last = config.max_position_embeddings - tokens
    batch["position_ids"] += np.where(batch["sequence_ids"] > 0, last, 0).astype(np.int32)
    return Problem(config, ARCHITECTURE, random_weights(shapes(config, PRETRAINING)), {}, (Case(name, batch),))


def of_one_shape(problem: Problem) -> Problem:
    """The cases that one compiled graph computes: those of the first one's shape."""

    def shape(case: Case) -> list[tuple[int, ...]]:
        return [case.batch[name].shape for name in FIELDS]

    alike = tuple(case for case in problem.cases if shape(case) == shape(problem.cases[0]))
    return dataclasses.replace(problem, cases=alike)


def unpacked_only(problem: Problem) -> Problem:
    """The cases that have one sequence a row, as other programs take them."""
    alone = tuple(case for case in problem.cases if case.batch["sequence_ids"].max() == 1)
    return dataclasses.replace(problem, cases=alone)


# Other forms of a batch, which must have the same results.


def reordered(case: Case) -> Case:
    """The rows in another order."""
    order = np.array([2, 0, 3, 1])
    put = np.argsort(order)
    rows = len(case.batch["input_ids"])

    def back(named: Tensors) -> Tensors:
        return {
            name: value.reshape(rows, -1, *value.shape[1:])[put].reshape(value.shape) for name, value in named.items()
        }

    batch = {name: value[order] for name, value in case.batch.items()}
    return Case(f"{case.name}, rows reordered", batch, same_as=case.name, back=back)


def padded(case: Case, tokens: int | None) -> Case:
    """The rows with padding up to so many tokens, of ids and segments that must not matter; None: as they are."""
    if tokens is None:
        return case
    before = case.batch["input_ids"].shape[1]
    rng = np.random.default_rng(6)
    batch = dict(case.batch)
    for name, most in (("input_ids", 50), ("token_type_ids", 2), ("position_ids", 20), ("sequence_ids", 1)):
        more = rng.integers(0, most, (len(batch[name]), tokens - before)).astype(np.int32)
        batch[name] = np.concatenate([batch[name], more], 1)
    rows = len(batch["input_ids"])

    def back(named: Tensors) -> Tensors:
        cut = {}
        for name, value in named.items():
            if name.endswith("probabilities"):
                value = value[:, :, :before, :before]
            elif is_per_token(name):
                value = value.reshape(rows, tokens, -1)[:, :before].reshape(rows * before, -1)
            cut[name] = value
        return cut

    return Case(f"{case.name}, padded to {tokens}", batch, same_as=case.name, back=back)


def unpacked(case: Case) -> Case:
    """Each sequence of the packed rows in a row of its own."""
    batch, tokens = case.batch, case.batch["input_ids"].shape[1]
    places = []  # of each sequence: its row, its number, where it begins and ends
    for row, ids in enumerate(batch["sequence_ids"]):
        for number in range(ids.max()):
            inside = np.flatnonzero(ids == number + 1)
            places.append((row, number, inside[0], inside[-1] + 1))
    rows, slots = len(places), batch["masked_positions"].shape[1]
    alone = {name: np.zeros((rows, tokens), np.int32) for name in FIELDS[:4]}
    for name in FIELDS[5:8]:
        alone[name] = np.zeros((rows, slots), batch[name].dtype)
    for name in (FIELDS[4], *FIELDS[8:]):
        alone[name] = np.zeros((rows, 1), batch[name].dtype)
    slot_of = np.zeros(batch["masked_positions"].shape, int)  # which row a masked slot went to
    for new, (row, number, begin, end) in enumerate(places):
        for name in FIELDS[:4]:
            alone[name][new, : end - begin] = batch[name][row, begin:end]
        alone["sequence_ids"][new, : end - begin] = 1
        for name in FIELDS[8:]:
            alone[name][new, 0] = batch[name][row, number]
        mine = (batch["masked_positions"][row] >= begin) & (batch["masked_positions"][row] < end)
        slot_of[row][mine] = new
        alone["masked_positions"][new][mine] = batch["masked_positions"][row][mine] - begin
        for name in FIELDS[6:8]:
            alone[name][new][mine] = batch[name][row][mine]

    def back(named: Tensors) -> Tensors:
        shape = batch["sequence_ids"].shape
        together = {}
        for name, value in named.items():
            if name.endswith("probabilities"):
                made = np.zeros((shape[0], value.shape[1], tokens, tokens))
                for new, (row, _, begin, end) in enumerate(places):
                    made[row, :, begin:end, begin:end] = value[new, :, : end - begin, : end - begin]
            elif is_per_token(name):
                made = np.zeros((*shape, value.shape[1]))
                for new, (row, _, begin, end) in enumerate(places):
                    made[row, begin:end] = value.reshape(rows, tokens, -1)[new, : end - begin]
                made = made.reshape(-1, value.shape[1])
            elif is_per_sequence(name):
                made = np.zeros((*batch["cls_positions"].shape, value.shape[1]))
                for new, (row, number, _, _) in enumerate(places):
                    made[row, number] = value[new]
                made = made.reshape(-1, value.shape[1])
            else:
                by_slot = value.reshape(rows, slots, -1)[slot_of, np.arange(slots)]
                made = by_slot.reshape(-1, value.shape[1])
            together[name] = made
        return together

    return Case(f"{case.name}, unpacked", alone, same_as=case.name, back=back)


def random_weights(named: dict[str, tuple[int, ...]], seed: int = 7) -> dict[str, np.ndarray]:
    """Every parameter random, float32, of a size that keeps activations near 1 and attention far from uniform."""
    rng = np.random.default_rng(seed)
    weights = {}
    for name, shape in named.items():
        value = rng.standard_normal(shape, np.float32)
        if name.endswith("LayerNorm.weight"):
            value = 1.0 + 0.3 * value
        elif name.endswith("bias"):
            value = 0.3 * value
        elif "_embeddings." in name:
            value = 0.7 * value
        else:
            gain = 1.4 if ".query." in name or ".key." in name else 1.0
            value = value * (gain / shape[-1] ** 0.5)
        weights[name] = value.astype(np.float32)
    return weights


def random_moments(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Moments as of gradients near 0.1: each m of its own, each v positive."""
    rng = np.random.default_rng(11)
    m = {f"m.{name}": (0.05 * rng.standard_normal(w.shape)).astype(np.float32) for name, w in weights.items()}
    v = {f"v.{name}": (1e-5 * rng.uniform(0.2, 2.0, w.shape)).astype(np.float32) for name, w in weights.items()}
    return m | v


def make_batch(config: BertConfig, lengths, tokens: int = 32, seed: int = 1, slots: int = SLOTS) -> Batch:
    """A batch of rows, each of sequences of these lengths, the rest padding; arrays as `ms_bert.data.batches.FIELDS`.

    Token ids and segments are random, padding as well; unused slots hold labels and positions that must not matter.
    """
    rng = np.random.default_rng(seed)
    rows = len(lengths)
    made = {
        "input_ids": rng.integers(0, config.vocab_size, (rows, tokens)),
        "token_type_ids": rng.integers(0, config.type_vocab_size, (rows, tokens)),
        "position_ids": np.zeros((rows, tokens)),
        "sequence_ids": np.zeros((rows, tokens)),
        "cls_positions": np.zeros((rows, SEQUENCES)),
        "masked_positions": np.zeros((rows, slots)),
        "masked_labels": rng.integers(0, config.vocab_size, (rows, slots)),
        "next_sentence_labels": rng.integers(0, 2, (rows, SEQUENCES)),
        "next_sentence_weights": np.zeros((rows, SEQUENCES)),
    }
    for row, row_lengths in enumerate(lengths):
        begin = 0
        for number, length in enumerate(row_lengths):
            made["sequence_ids"][row, begin : begin + length] = number + 1
            made["position_ids"][row, begin : begin + length] = np.arange(length)
            made["cls_positions"][row, number] = begin
            made["next_sentence_weights"][row, number] = 1
            begin += length
        made["masked_positions"][row] = rng.integers(0, begin, slots)
    made["input_ids"][0, 1:3] = 0, config.vocab_size - 1  # the first and the last there are
    used = np.arange(slots) < np.array([USED[row % len(USED)] for row in range(rows)])[:, None]
    made = {name: value.astype(np.int32) for name, value in made.items()} | {"masked_weights": used.astype(np.float32)}
    return made | {"next_sentence_weights": made["next_sentence_weights"].astype(np.float32)}


def keys(config: BertConfig, batch: Batch, step: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The dropout keys of a step on a batch."""
    return dropout_keys(SEED, step, batch["input_ids"].size, DropoutColumns(config).total)


def step_options(optimizer: str, precision: str, rows: int, device: str = "CPU", **training) -> Options:
    """The options of the step that is compared: strong decay, and gradients that are clipped."""
    options = Options(
        examples=ExampleOptions(seq_length=32),
        training=TrainingOptions(
            **{
                "batch_size": rows,
                "optimizer": optimizer,
                "precision": precision,
                "weight_decay": 0.1,
                "clip_norm": 0.5,
                "loss_scale": SCALE,
                "seed": SEED,
                **training,
            }
        ),
    )
    return dataclasses.replace(options, run=dataclasses.replace(options.run, device=device))


def with_changed(options: Options, group: str, **changes) -> Options:
    """These options with some of a group changed."""
    return dataclasses.replace(options, **{group: dataclasses.replace(getattr(options, group), **changes)})


def shaken(problem: Problem) -> Problem:
    """The problem with weights that are moved by a float32 step, at random up, down or not at all.

    What PyTorch makes of them is as good an answer in float32 as what it makes of the weights themselves. It may be
    lucky there, as where all numbers of a row are the same and it finds their variance to be 0.
    """
    rng = np.random.default_rng(14)

    def moved(value: np.ndarray) -> np.ndarray:
        return value + rng.integers(-1, 2, value.shape, np.int8) * np.spacing(value)

    return dataclasses.replace(problem, weights={name: moved(value) for name, value in problem.weights.items()})


def without_dropout(problem: Problem) -> Problem:
    config = problem.config.replace(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    return dataclasses.replace(problem, config=config)


def outputs(problem: Problem) -> list[str]:
    """Names of what the heads give, in their order: (rows, width) each, rows being tokens, sequences or slots.

    A model without pooler and heads gives its last hidden state.
    """
    heads = dict.fromkeys(head.tensor for head in ARCHITECTURES[problem.architecture].heads)
    return [*(["pooled_output"] if problem.pooler else []), *heads] or ["last_hidden_state"]


def directions(problem: Problem, batch: Batch, computed: Tensors) -> list[np.ndarray]:
    """Random directions of the shapes of the outputs, 0 where there is no token or sequence."""
    rng = np.random.default_rng(13)
    names = outputs(problem)
    drawn = {name: rng.normal(size=computed[name].shape) / computed[name].shape[0] ** 0.5 for name in names}
    return list(real_only(drawn, batch).values())


def cell(problem: Problem) -> tuple[str, BertConfig, dict[str, bool | int]]:
    """What the problem's cell is made of: its class, its config and further arguments.

    The config has as many labels as the weights are for. Each row is a question of its own, of one choice.
    """
    described = ARCHITECTURES[problem.architecture]
    modules = [projection(head.part) for head in described.heads]
    counts = {len(problem.weights[f"{module}.bias"]) for module in modules if "N" in MODULES[module].shape}
    labels = {str(i): f"LABEL_{i}" for count in counts for i in range(count)} or None
    return problem.architecture, problem.config.replace(id2label=labels), described.arguments(problem.pooler, choices=1)


def totals(batch: Batch) -> list[np.float32]:
    """What the losses of a batch are divided by, at least 1."""
    return [np.float32(max(batch[name].sum(), 1.0)) for name in ("masked_weights", "next_sentence_weights")]


def scale(precision: str) -> float:
    """The loss scale."""
    return SCALE if precision == "float16" else 1.0


def losses(sums: dict[str, float], batch: Batch) -> dict[str, np.ndarray]:
    """The mean losses and the numbers of right answers of a batch, each ()."""
    masked, next_sentence = map(float, totals(batch))
    return {
        "mlm_loss": np.array(sums["masked_loss"] / masked),
        "nsp_loss": np.array(sums["next_sentence_loss"] / next_sentence),
        "mlm_correct": np.array(sums["masked_correct"]),
        "nsp_correct": np.array(sums["next_sentence_correct"]),
    }


def is_per_token(name: str) -> bool:
    """Whether a tensor of the forward pass has a row for each token, (B * S, width)."""
    inside = name == "embeddings" or (name.startswith("layer.") and name.endswith(".output"))
    return inside or _row(name) == TOKEN


def is_per_sequence(name: str) -> bool:
    """Whether a tensor of the forward pass has a row for each sequence, (B * N, width)."""
    return _row(name) in (SEQUENCE, CHOICE)


def _row(name: str) -> str | None:
    """What a row of an output is; None: it is none of a class."""
    every = (output for one in ARCHITECTURES.values() for output in one.outputs)
    return next((output.row for output in every if output.tensor == name), None)


def real_only(named: Tensors, batch: Batch) -> Tensors:
    """The tensors with 0 wherever a token is padding, or a sequence is none: what is there is nobody's business.

    Attention probabilities are (B, heads, S, S); others have a row for each token, each sequence or each masked slot.
    """
    inside = batch["sequence_ids"] > 0
    there = np.arange(batch["cls_positions"].shape[1]) < batch["sequence_ids"].max(1, keepdims=True)
    cleaned = {}
    for name, value in named.items():
        if name.endswith("probabilities"):
            value = np.where(inside[:, None, :, None], value, 0.0)
        elif is_per_token(name):
            value = np.where(inside.reshape(-1, 1), value, 0.0)
        elif is_per_sequence(name):
            value = np.where(there.reshape(-1, 1), value, 0.0)
        cleaned[name] = value
    return cleaned
