"""Measures what songs are like, and what they copy."""
