"""From text to NumPy batches, without any framework.

corpus (documents) -> sentences -> WordPiece ids -> token store (Arrow, memory-mapped) -> sentence pairs -> masking ->
batches. The batch at step t is a pure function of (store, options, seed, t).
"""
