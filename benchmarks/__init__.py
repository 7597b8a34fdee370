"""Measurements, one file a question: `python -m benchmarks QUESTION` writes results/QUESTION.json."""
