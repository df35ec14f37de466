"""Run folders and the models in them: opened, begun, written, exported."""
