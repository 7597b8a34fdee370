"""`--evaluate`: what a checkpoint makes of held-out text, without training, so that two can be compared."""

from __future__ import annotations

import dataclasses

from ms_bert.commands.framework import Framework
from ms_bert.commands.preparation import prepare
from ms_bert.data.batches import BatchMaker, FirstRows
from ms_bert.options import Options
from ms_bert.run.loop import evaluate
from ms_bert.run.progress import Progress
from ms_bert.run.workers import ALONE, Workers
from ms_bert.tasks.pretraining import PreTraining


def evaluate_checkpoint(framework: Framework, options: Options, workers: Workers = ALONE) -> int:
    """Evaluate the checkpoint that --evaluate names on the corpus, as its run would; returns the exit code.

    The sequences are those that a run with these options is evaluated on; without held-out documents they are drawn
    from all.

    Raises:
        UserError: it cannot be read or lacks a head, or an option will not do.
    """
    progress, path = Progress(shown=workers.rank == 0), options.run.evaluate
    task = PreTraining(objective=options.examples.objective)
    options = dataclasses.replace(options, model=dataclasses.replace(options.model, init=path))
    needed = ("mlm", *(("pooler", "nsp") if options.examples.nsp else ()))
    prepared = prepare(options, progress, needed=needed)
    store, batch_size, seed = prepared.store, options.training.batch_size, options.training.seed
    split = store.held_out if options.text.held_out else store.train
    make = BatchMaker(split, prepared.vocabulary, options.examples.of_held_out, batch_size, seed, held_out=True)
    config = prepared.config.with_dropout(0.0)  # which no evaluation has
    framework.check_rows(options, config, [options.examples.seq_length])
    trainer = framework.trainer(config, options, task)
    if prepared.fit is None:
        raise ValueError("no checkpoint was named")
    trainer.load_weights(prepared.fit.values(seed))
    found = evaluate(task, trainer, FirstRows(make, options.run.eval_sequences, task.weights), workers).metrics()
    text = "held-out " if options.text.held_out else ""
    corpus = " ".join(options.text.corpus)
    progress.say(f"{path} on {options.run.eval_sequences:,} {text}sequences of {corpus}: {task.told(found)}")
    return 0
