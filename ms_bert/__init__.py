"""BERT on MindSpore: pre-training in graph mode on Ascend, GPU or CPU.

The half that imports no framework: config, options, fields, errors, randomness; data, tasks, run, commands. Both
MindSpore and `pt_reference` stand on it. MindSpore's half: device, model, heads, kernels, training, pretrained.
"""

__version__ = "0.1.0"
