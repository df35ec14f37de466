"""Opens run folders, starts models, writes songs, and exports models."""
