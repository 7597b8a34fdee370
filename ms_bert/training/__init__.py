"""Training in MindSpore: the compiled step, the optimizers, and the trainer that the loop drives."""
