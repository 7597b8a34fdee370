"""A step of fine-tuning all-MiniLM-L6-v2 to classify sentences of many lengths; float32, dropout and schedule on.

The twins pack the sentences; transformers' own Trainer pads them, to the full length as its run_glue does, or each
batch to its longest sentence, of sentences that are sorted by length.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable

import numpy as np

from benchmarks.contenders import THREADS, Work, minilm
from ms_bert.data.sequences import Sequences

SEED, RATE, EPOCHS, WARMUP = 1, 5e-5, 3, 0.1
FULL, SORTED = "transformers, full length", "transformers, sorted"


def saved(path, sequences: Sequences) -> None:
    """Write what the contenders read: ids (T,), starts (n + 1,) and labels (n,)."""
    np.savez(path, ids=sequences.ids, starts=sequences.starts, labels=sequences.of_sequences["labels"])


def _sequences(work: Work) -> Sequences:
    with np.load(work.file) as held:
        ids, starts, labels = held["ids"], held["starts"], held["labels"]
    cut = np.zeros(len(labels), bool)
    return Sequences(ids, np.zeros_like(ids), starts, cut, of_sequences={"labels": labels})


def _twin(framework: Callable, compile: bool = False):
    """compile: by torch.compile; MindSpore always compiles."""

    def make(work: Work) -> Callable[[], float]:
        import dataclasses

        from conversion import pretrained
        from conversion.parameters import ARCHITECTURES, BACKBONE, shapes
        from ms_bert.data.batches import prefetched
        from ms_bert.data.packing import TrainingBatches
        from ms_bert.finetuning_options import FinetuneOptions, FinetuningOptions, FinetuningRun
        from ms_bert.options import MindSporeOptions, PyTorchOptions
        from ms_bert.run.recipe import learning_rate
        from ms_bert.tasks.classification import Classification

        task = Classification(("negative", "positive"), ("accuracy",), work.tokens)
        initial = pretrained.read(minilm())
        config = initial.config.replace(**task.config())
        batches = TrainingBatches(_sequences(work), config.max_position_embeddings, work.rows, SEED)
        training = FinetuningOptions(
            batch_size=work.rows, epochs=EPOCHS, learning_rate=RATE, warmup_share=WARMUP, seed=SEED
        ).resolved(batches.steps_per_epoch)
        options = FinetuneOptions(
            training=training,
            run=FinetuningRun(threads=THREADS),
            mindspore=MindSporeOptions(graph_cache=False),
            pytorch=PyTorchOptions(compile=compile),
        )
        options = dataclasses.replace(options, data=dataclasses.replace(options.data, longest=work.tokens))
        twin = framework()
        twin.check(options)
        trainer = twin.trainer(config, options, task)
        parameters = shapes(config, (*BACKBONE, *ARCHITECTURES[task.architecture].parts))
        trainer.load_weights(initial.fit(parameters, task.architecture, False).values(SEED))
        steps = iter(enumerate(prefetched(batches, range(training.steps))))
        begun: list[bool] = []

        def once() -> float:
            if not begun:
                begun.append(trainer.compile(batches.samples()))
            step, batch = next(steps)
            sums = trainer.train_step(batch, step, learning_rate(training, step + 1)).sums
            return sums["loss"] / sums["count"]

        return once

    return make


def _mindspore():
    from ms_bert.framework import MindSpore

    return MindSpore()


def _pytorch():
    from pt_reference.framework import PyTorch

    return PyTorch()


def _transformers(by_length: bool):
    def make(work: Work) -> Callable[[], float]:
        import datasets
        import torch
        import transformers

        torch.set_num_threads(THREADS)
        sequences = _sequences(work)
        bounds = list(zip(sequences.starts, sequences.starts[1:]))
        ids = [sequences.ids[first:last].tolist() for first, last in bounds]
        ones = [[1] * len(one) for one in ids]
        if not by_length:
            ids = [one + [sequences.pad] * (work.tokens - len(one)) for one in ids]
            ones = [one + [0] * (work.tokens - len(one)) for one in ones]
        types = [[0] * len(one) for one in ids]
        labels = sequences.of_sequences["labels"].tolist()
        data = datasets.Dataset.from_dict(
            {"input_ids": ids, "token_type_ids": types, "attention_mask": ones, "labels": labels}
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(minilm())
        model = transformers.AutoModelForSequenceClassification.from_pretrained(minilm(), num_labels=2)
        options = transformers.TrainingArguments(
            output_dir=tempfile.mkdtemp(),
            per_device_train_batch_size=work.rows,
            num_train_epochs=EPOCHS,
            learning_rate=RATE,
            warmup_steps=WARMUP,
            weight_decay=0.01,
            train_sampling_strategy="group_by_length" if by_length else "random",
            save_strategy="no",
            logging_strategy="no",  # a line that it prints must not be taken for an answer
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            seed=SEED,
        )
        collator = transformers.DataCollatorWithPadding(tokenizer) if by_length else transformers.default_data_collator
        turns = _turns()
        trainer = transformers.Trainer(model, options, collator, data, callbacks=[turns])
        losses: list[float] = []
        model.register_forward_hook(lambda model, given, output: losses.append(output.loss.item()))
        threading.Thread(target=turns.run, args=(trainer.train,), daemon=True).start()

        def once() -> float:
            turns.step()
            return losses[-1]

        return once

    return make


def _turns():
    import transformers

    class Turns(transformers.TrainerCallback):
        """The loop of a Trainer, in a thread of its own, does a step when it is asked to."""

        def __init__(self):
            self.asked, self.done, self.ended = threading.Semaphore(0), threading.Semaphore(0), False

        def on_train_begin(self, *given, **named):
            self.asked.acquire()

        def on_step_end(self, *given, **named):
            self.done.release()
            self.asked.acquire()

        def run(self, train: Callable) -> None:
            try:
                train()
            finally:
                self.ended = True
                self.done.release()

        def step(self) -> None:
            self.asked.release()
            self.done.acquire()
            if self.ended:
                raise SystemExit("the Trainer has ended")

    return Turns()


MAKERS = {
    "ms_bert fused": _twin(_mindspore),
    "pt_reference": _twin(_pytorch),
    "pt_reference --compile": _twin(_pytorch, compile=True),
    FULL: _transformers(by_length=False),
    SORTED: _transformers(by_length=True),
}
