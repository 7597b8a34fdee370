"""BERT on MindSpore: pre-training in graph mode on Ascend, GPU or CPU.

Importing this package imports no framework; `ms_bert.model`, `ms_bert.heads`, `ms_bert.kernels`
and `ms_bert.training` import MindSpore.
"""

__version__ = "0.1.0"
