"""What songs are like, and what they copy."""
