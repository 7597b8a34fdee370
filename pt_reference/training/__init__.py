"""Training in PyTorch: the step, the optimizers, and the trainer that the loop drives."""
