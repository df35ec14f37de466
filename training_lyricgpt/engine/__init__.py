"""What training needs of a machine: optimizers, evaluation, checkpoints, plans."""
