"""What the commands that train have in common: options taken over from a run, and a run that is begun or resumed."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import platform
import signal
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import tyro

import ms_bert
from conversion.pretrained import Fit, Pretrained
from ms_bert.commands import agreeing
from ms_bert.commands.framework import Framework
from ms_bert.config import BertConfig
from ms_bert.data.cache import say
from ms_bert.data.tokenizer import Vocabulary
from ms_bert.errors import UserError
from ms_bert.options import RESUMABLE, Groups, RunOptions, TrainerOptions, TrainingOptions, changed
from ms_bert.process import THREADS, handle_signals, processors, share_of_threads
from ms_bert.run import checkpoints, supervisor
from ms_bert.run.folder import METRICS, RUN, TASK, Elsewhere, RunFolder, check_free, read_description, read_log
from ms_bert.run.loop import Interrupted, Loop, Trainer
from ms_bert.run.progress import Progress
from ms_bert.run.recipe import learning_rate
from ms_bert.run.workers import ALONE, Workers
from ms_bert.tasks import Batches, HeldOut, Task, registry
from ms_bert.tasks.downstream import DownstreamTask

Chosen = TypeVar("Chosen", bound=Groups)


# Options


def command_line(
    framework: Framework, program: str, description: str, arguments: Sequence[str], default: Chosen
) -> Chosen:
    """Options from the command line; `default` holds those that are not given."""
    kind = type(default)
    own = _without(kind, framework.without)
    shown = tyro.cli(
        own,
        prog=program,
        description=description,
        args=arguments,
        default=own(**vars(default)),
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes),
    )
    return kind(**vars(shown))


def _without(kind: type, group: str) -> type:
    """Options like these, of which one group is not shown."""
    (hidden,) = [field for field in dataclasses.fields(kind) if field.name == group]
    made = dataclasses.field(default_factory=hidden.default_factory)
    suppressed = tyro.conf.Suppress[hidden.default_factory]
    return dataclasses.make_dataclass(kind.__name__, [(group, suppressed, made)], bases=(kind,), frozen=True)


def taken_over(
    framework: Framework,
    given: Chosen,
    tasks: Collection[str],
    program: str,
    description: str,
    arguments: Sequence[str],
) -> Chosen:
    """The options given; with --resume or --repeat those of that run, as far as not given.

    With --auto-resume, --output is --resume as soon as a run has begun there.

    Args:
        tasks: names of those that the command trains.

    Raises:
        UserError: see the options; or the run is of another task; or a resumed run must not change an option.
    """
    run = given.run  # type: ignore[attr-defined]
    if run.auto_resume and run.resume is None:
        if run.output is None:
            raise UserError("--auto-resume is given without --output; name the folder of the run.")
        if (run.output / RUN).exists():
            run = dataclasses.replace(run, resume=run.output, output=None, repeat=None)
    if run.resume is not None and (run.repeat is not None or run.output is not None):
        raise UserError("--resume continues in the run's own folder; leave out --output and --repeat.")
    if run.resume is not None and run.resume.is_file():
        raise UserError(f"--resume names {run.resume}, which is a file; name the folder of the run.")
    source = run.resume or run.repeat
    if source is None:
        return given
    begun = saved(source, type(given), tasks)
    options = command_line(framework, program, description, arguments, begun)
    where = {"resume": run.resume, "output": run.output, "repeat": run.repeat}
    options = dataclasses.replace(options, run=dataclasses.replace(options.run, **where))  # type: ignore[attr-defined,type-var]
    refused = [name for name in changed(begun, options) if name not in RESUMABLE]
    if run.resume is not None and refused:
        raise UserError(
            f"--{refused[0].replace('_', '-')} cannot be changed when a run is resumed, because that would change "
            f"the training; leave it out, or begin a new run with --repeat {source}."
        )
    return options


def saved(path: Path, kind: type[Chosen], tasks: Collection[str]) -> Chosen:
    """The options of a run, without what names a folder."""
    groups = described(path, tasks)["options"]
    if missing := [group for group in vars(kind()) if group not in groups]:
        raise UserError(f"{path} is damaged: it lacks the options of {missing[0]}; restore it, or begin a new run.")
    options = kind.from_dict(groups, str(path))
    run = dataclasses.replace(options.run, output=None, resume=None, repeat=None)
    return dataclasses.replace(options, run=run)


def described(path: Path, tasks: Collection[str]) -> dict:
    """The run.json of a run of one of these tasks."""
    description = read_description(path)
    if description["task"] not in tasks:
        raise UserError(f"{path} is a run of {description['task']}, not of {' or '.join(tasks)}; name another run.")
    return description


def check_processors(threads: int | None) -> None:
    """Raise UserError unless this process may use so many processors."""
    # Not where options are made: a resumed run's may have been chosen on a larger machine, and be overridden here.
    most = processors()
    if threads is not None and threads > most:
        raise UserError(
            f"--threads is {threads}, more than the number of processors that this process may use; choose at most "
            f"{most}."
        )


def check_longest(longest: int, config: BertConfig) -> None:
    """Raise UserError unless a model has so many positions."""
    positions = config.max_position_embeddings
    if positions < longest:
        raise UserError(
            f"the task takes up to {longest} tokens (--longest), but the model has only {positions} positions; give "
            f"--longest {positions} or less."
        )


# Runs


@contextlib.contextmanager
def together(framework: Framework, options: TrainerOptions) -> Iterator[Workers]:
    """The workers that this process is one of, once the device has been found to do what is asked.

    Raises:
        UserError: it cannot; or a batch has no leaves for so many workers.
    """
    check_processors(options.run.threads)
    framework.check(options)
    if not framework.shares():
        yield ALONE
        return
    with supervisor.failures_told_apart():
        workers = framework.workers(options)
        check_leaves(options, workers.count)
        yield workers
        workers.close()


def check_leaves(options: TrainerOptions, workers: int) -> None:
    """Raise UserError unless each of so many workers has as many leaves of a batch; an evaluation shares batches."""
    leaves = options.training.in_leaves
    if workers.bit_count() != 1:
        raise UserError(f"{workers} workers cannot share a batch alike; use 2, 4, 8, ... of them.")
    if leaves % workers and not options.run.evaluate:
        raise UserError(
            f"{workers} workers cannot share a batch of {leaves} {'leaf' if leaves == 1 else 'leaves'}; give --leaves "
            f"{workers} to this run, and to those of fewer workers that are to write the same "
            "bytes, or fewer --workers."
        )


def by_workers(
    framework: Framework,
    options: TrainerOptions,
    command: str,
    arguments: Sequence[str],
    name: str,
    work: Callable[[Workers], int],
) -> int:
    """Do what a command does, in this process or by --workers; returns the exit code.

    Args:
        command: of the framework's package. arguments: of this process. name: of the folder below runs/ that is made
            where --output names none. work: what each worker does, the only one too; returns the exit code.
    """
    supervisor.die_with_supervisor()
    if framework.scheduled(options):
        return 0
    if options.run.workers > 1 and not framework.shares():
        return _supervised(framework, options, command, arguments, name)
    with together(framework, options) as workers:
        return work(workers)


def _supervised(
    framework: Framework, options: TrainerOptions, command: str, arguments: Sequence[str], name: str
) -> int:
    """Start the workers on this machine and watch them; see `by_workers`."""
    count, given = options.run.workers, options.run
    check_processors(given.threads)
    check_leaves(options, count)
    path = given.resume or given.output or free_folder(name)
    more = [] if given.resume or given.output or given.evaluate else ["--output", str(path)]
    threads = share_of_threads(count)
    if given.threads is None and framework.rounds_by_threads(options):
        more += ["--threads", str(threads)]

    def start(attempt: int) -> list[supervisor.Process]:
        goes_on = attempt > 0 and given.resume is None and (path / RUN).exists()
        if goes_on and not _is_of(path, options):  # another command has made it meanwhile
            check_free(path)
        own = ["--resume", str(path)] if goes_on else [*arguments, *more]
        above = str(Path(ms_bert.__file__).parent.parent)
        found = os.pathsep.join(filter(None, (above, os.environ.get("PYTHONPATH"))))
        shared = {"PYTHONPATH": found, THREADS: str(threads)}
        environments = [{**environment, **shared} for environment in framework.environments(count)]
        return supervisor.started([f"{framework.package}.{command}", *own], environments, count)

    def begun() -> Path | None:
        return path if given.evaluate is None and (path / RUN).exists() else None

    return supervisor.supervise(start, count, given.max_restarts, say, begun)


def _is_of(path: Path, options: TrainerOptions) -> bool:
    """Whether a run has these options, except for those of how it runs."""
    found = read_description(path)["options"]
    expected = json.loads(json.dumps(options.to_dict()))
    return all(found.get(group) == values for group, values in expected.items() if group != "run")


@dataclasses.dataclass(frozen=True)
class Run:
    """What a run trains, on what, and with what.

    Attributes:
        training, run: the options in force. data: what run.json says of the data; a resumed run knows it again by this.
        files: further ones of its folder, by name. patience, workers: see Loop.
    """

    task: Task
    config: BertConfig
    vocabulary: Vocabulary
    trainer: Trainer
    train: Batches
    held_out: HeldOut | None
    training: TrainingOptions
    run: RunOptions
    data: dict[str, Any]
    files: dict[str, bytes] = dataclasses.field(default_factory=dict)
    patience: int = 0
    workers: Workers = ALONE

    def loop(self, folder: RunFolder, progress: Progress) -> Loop:
        """The loop of it in a folder."""
        return Loop(
            self.task,
            self.training,
            self.run,
            self.trainer,
            folder,
            self.train,
            self.held_out,
            progress,
            self.patience,
            self.workers,
        )


Prepare = Callable[[bool], Run]
"""Makes what a run needs; told whether it has checkpoints of its own, from which its weights come."""


def begin(
    framework: Framework,
    options: TrainerOptions,
    name: str,
    prepare: Prepare,
    progress: Progress,
    workers: Workers = ALONE,
) -> Loop:
    """A run that has a folder and has not begun.

    Args:
        name: of the folder below runs/ that is made where --output names none.
    """
    path = options.run.output or free_folder(name)
    if workers.rank == 0:  # which may have made it before another comes here
        check_free(path)
    made = prepare(False)
    about = _about(made)
    agreeing.check(workers, framework, options, about)
    description = {
        "task": made.task.name,
        "options": options.to_dict(),
        "trained_by": _trained_by([], framework, options, 0, workers),
        **about,
    }
    folder: RunFolder = Elsewhere(path)
    if workers.rank == 0:
        folder = RunFolder.create(
            path, description, made.task.architecture, made.config, made.vocabulary, made.files, _longest(made)
        )
    return made.loop(folder, progress)


def _longest(made: Run) -> int:
    """The tokens that others are to give the model at most: as many as it learns from, or has positions."""
    positions = made.config.max_position_embeddings
    return min(made.task.longest, positions) if isinstance(made.task, DownstreamTask) else positions


def _about(made: Run) -> dict[str, Any]:
    """What run.json says of the model and the data."""
    return {
        "parameters": _parameters(made.trainer),
        "config": made.config.to_dict(),
        "vocabulary": made.vocabulary.fingerprint(),
        **made.data,
    }


def resume(
    framework: Framework,
    options: TrainerOptions,
    prepare: Prepare,
    check: Callable[[Path, dict, Run], None],
    progress: Progress,
    workers: Workers = ALONE,
) -> Loop:
    """The run of the folder that --resume names as its newest checkpoint has left it; complete, it is left as it is.

    Args:
        check: raises UserError unless the data is that which the folder's run.json describes.
    """
    path = options.run.resume
    assert path is not None
    folder = RunFolder(path) if workers.rank == 0 else Elsewhere(path)
    checkpoints.check_begun(path)
    made = prepare(bool(checkpoints.steps(path)))
    description = read_description(path)
    check(path, description, made)
    agreeing.check(workers, framework, options, _about(made))
    if mended := folder.mend_tokenizer(made.vocabulary, _longest(made)):
        progress.say(f"rewrote {' and '.join(mended)} in {path}: missing or damaged")
    state = checkpoints.load_newest(path, warn=lambda sentence: print(sentence, file=sys.stderr))
    if state is None and checkpoints.steps(path):
        raise UserError(
            f"{path} holds weights but no intact checkpoint to continue from; restore a checkpoint, or begin a new run "
            "from its weights."
        )
    loop = made.loop(folder, progress)
    steps = workers.gather(np.array([-1 if state is None else state.step]))[:, 0]
    if (steps != steps[0]).any():  # and all have read now what the first will set right
        raise UserError(f"not all workers found the same newest checkpoint in {path}; let all see the same folder.")
    loop.resume(state)
    if not loop.finished:
        trained_by = _trained_by(description["trained_by"], framework, options, loop.step, workers)
        if told := _told_of_others(trained_by):
            progress.say(told)
        given = options.to_dict()
        if given["training"] != description["options"]["training"]:
            if told := _told_of_rate(path, loop.training, loop.step):
                progress.say(told)
        folder.describe({**description, "options": given, "trained_by": trained_by})
    return loop


def _told_of_rate(path: Path, training: TrainingOptions, step: int) -> str:
    """That the learning rate jumps up where a run goes on for longer than it was begun for; or nothing."""
    logged = read_log(path, METRICS)
    last = [entry["learning_rate"] for entry in logged if "learning_rate" in entry and entry["step"] <= step]
    rate = learning_rate(training, step + 1)
    if not last or step <= training.warmup_steps or rate <= 1.5 * last[-1]:
        return ""
    return (
        f"the learning rate rises from {last[-1]:.1e} to {rate:.1e}, that of a run of {training.steps} steps; such a "
        "run from its beginning would end with another model"
    )


def train(loop: Loop, framework: Framework, options: TrainerOptions) -> int:
    """Train to the last step; returns the exit code, 0 if it was reached."""
    config, count = loop.trainer.config, loop.workers.count
    shared = f", shared by {count} workers" if count > 1 else ""
    loop.progress.say(
        f"BERT of {config.num_hidden_layers} layers of {config.hidden_size} with {config.num_attention_heads} "
        f"heads, {_parameters(loop.trainer):,} parameters, {framework.name} on {options.run.device} in "
        f"{options.training.precision} by {framework.kernels(options)}{shared}; "
        f"step {loop.step} of {loop.training.steps} in {loop.folder.path}"
    )
    try:
        loop.run()
    except Interrupted as stop:
        if count > 1:  # stopped on behalf of another one, perhaps, and its own signal is still on the way
            handle_signals({signal.SIGTERM: signal.SIG_IGN})
        loop.progress.say(f"{stop} and saved; continue with --resume {loop.folder.path}")
        return stop.exit_code
    return 0


def origin(initial: Pretrained, fit: Fit, kept: str = "") -> str:
    """Where the weights come from, in a line.

    Args:
        kept: what was taken of the checkpoint, if not all, in words.
    """
    source = initial.checkpoint.source
    said = f"weights of {source.path} ({source.container}, {initial.checkpoint.spelling.family})"
    return "; ".join(filter(None, (said, kept, fit.told())))


def named_layers(layers: Sequence[int]) -> str:
    """As a line says which: layer 2, or layers 1, 3, 5."""
    return f"layer{'s' if len(layers) > 1 else ''} {', '.join(map(str, layers))}"


def read_task(path: Path) -> DownstreamTask:
    """The task that a run's folder is of.

    Raises:
        UserError: there is no task.json, or it is damaged.
    """
    file = path / TASK
    try:
        values = json.loads(file.read_bytes())
        return registry.KINDS[values["task"]].from_remembered(values)
    except FileNotFoundError:
        raise UserError(f"there is no {file}; name the folder of a fine-tuned model.") from None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{file} cannot be read ({error}); restore it.") from None


def _trained_by(
    before: list[dict], framework: Framework, options: TrainerOptions, step: int, workers: Workers
) -> list[dict]:
    """What computed the run from which step on: what is known of the steps so far, and this process."""
    now = {
        "framework": framework.name,
        "device": options.run.device,
        "kernels": framework.kernels(options),
        "workers": workers.count,
        "versions": {
            "ms_bert": ms_bert.__version__,
            "python": platform.python_version(),
            "numpy": np.__version__,
            **framework.versions(),
        },
    }
    kept = [entry for entry in before if entry["from_step"] < step]
    if kept and {**kept[-1], **now} == kept[-1]:
        return kept
    return [*kept, {"from_step": step, **now}]


def _told_of_others(trained_by: Sequence[dict]) -> str:
    """That the last steps so far were computed by something else than the next ones, whose bytes therefore differ."""
    if len(trained_by) < 2:
        return ""
    before, now = (f"{entry['framework']} on {entry['device']} by {entry['kernels']}" for entry in trained_by[-2:])
    if before == now:  # only versions differ, or the number of workers
        return ""
    return (
        f"until step {trained_by[-1]['from_step']} computed by {before}, from there on by {now}: the same run, but not "
        "to the last bit"
    )


def _parameters(trainer: Trainer) -> int:
    """Number of trainable values; the tied output matrix counts once."""
    return sum(math.prod(shape) for shape in trainer.shapes.values())


def free_folder(name: str) -> Path:
    """The first free of runs/NAME, runs/NAME-2, ..."""
    number = 1
    while (path := Path("runs") / (name if number == 1 else f"{name}-{number}")).exists():
        number += 1
    return path
