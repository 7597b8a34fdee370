"""A training run, whatever the task and the framework: loop, run folder, checkpoints, recipe of a step, curves.

Nothing here imports a framework or knows a task: a `loop.Trainer` computes, a `ms_bert.tasks.Task` says what it means.
"""
