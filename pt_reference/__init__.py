"""The same BERT in PyTorch, line for line: same parameters, same arrays to train on, same run folder as ms_bert."""
