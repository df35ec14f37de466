"""Makes the model card from the records of a run."""
