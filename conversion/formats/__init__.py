"""File formats: each module reads a file to tensors by the file's own names, and writes them; it knows no BERT."""
