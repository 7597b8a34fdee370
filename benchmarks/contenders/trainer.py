"""Fine-tuning by transformers' own Trainer, with the options and the results.json of `python -m ms_bert.finetune`.

The recipe is theirs too: AdamW, a weight decay of 0.01, gradients clipped at 1, a rate that rises over the first tenth
of the steps and then falls linearly to 0; the best of the checkpoints of the epochs counts, or, with --last, the last.
A run that was interrupted goes on from its newest checkpoint when the same command is given again.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import torch
import transformers

from benchmarks import runs
from benchmarks.contenders.transformers_tasks import KINDS
from ms_bert.commands.finetuning import read
from ms_bert.finetuning_options import DataOptions
from ms_bert.run.progress import Progress

SECONDS = 600  # between two checkpoints to go on from


class Saving(transformers.TrainerCallback):
    """Asks for checkpoints within the epochs too, and for one of the last step."""

    def __init__(self):
        self._saved = time.monotonic()

    def on_step_end(self, args, state, control, **_):
        if time.monotonic() - self._saved > SECONDS or state.global_step == state.max_steps:
            control.should_save, self._saved = True, time.monotonic()


def main(arguments: Sequence[str] | None = None) -> None:
    given = parse(arguments)
    if given.threads is not None:
        torch.set_num_threads(given.threads)
    transformers.set_seed(given.seed)  # before the head is drawn
    data = DataOptions(given.task, given.train, given.dev, columns=tuple(given.columns), longest=given.longest)
    task, found = read(data, Progress())
    train, dev = found["train"].examples, found["dev"].examples
    prepared = KINDS[task.name](given.model, task, train, dev)
    when = "no" if given.last else "epoch"
    options = transformers.TrainingArguments(
        output_dir=str(given.output),
        per_device_train_batch_size=given.batch_size,
        num_train_epochs=given.epochs,
        learning_rate=given.learning_rate,
        warmup_steps=0.1,
        weight_decay=0.01,
        eval_strategy=when,
        save_strategy=when,
        save_total_limit=1,
        load_best_model_at_end=not given.last,
        metric_for_best_model=task.measure,
        greater_is_better=True,
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        seed=given.seed,
    )
    trainer = transformers.Trainer(
        *(prepared.model, options, prepared.collator, prepared.train, prepared.dev),
        compute_metrics=prepared.score,
        callbacks=[Saving()],
    )
    trainer.train(resume_from_checkpoint=runs.checkpoint(given.output))
    scores = trainer.evaluate()
    results = {
        "step": trainer.state.best_global_step or trainer.state.global_step,
        "examples": len(dev),
        "loss": scores["eval_loss"],
        "metrics": {name: {"value": scores[f"eval_{name}"]} for name in task.measures if f"eval_{name}" in scores},
    }
    (given.output / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    for folder in given.output.glob(runs.CHECKPOINTS):
        shutil.rmtree(folder)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.contenders.trainer", description=__doc__)
    parser.add_argument("--task", required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--train", required=True)
    parser.add_argument("--dev")
    parser.add_argument("--columns", nargs="*", default=())
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=5e-5)
    parser.add_argument("--longest", type=int)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--last", action="store_true", help="choose no checkpoint by the scores")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
