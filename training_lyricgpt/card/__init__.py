"""The model card, and what it is rendered from."""
