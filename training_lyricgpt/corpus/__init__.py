"""Lyrics become token streams."""
