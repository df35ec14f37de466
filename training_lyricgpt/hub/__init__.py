"""Publishes a run: prepares the files, makes sure that they hold nothing private, sends them, and proves that they load."""
