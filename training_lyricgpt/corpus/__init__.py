"""Turns lyrics into token streams."""
