"""Conversion between BERT checkpoint formats without loss: `python -m conversion --help`."""
