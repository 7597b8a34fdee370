"""A pre-training run, whatever framework computes it: command line, run folder, checkpoints, loop, curves.

Nothing here imports a framework; a `loop.Trainer` does the computing.
"""
