"""transformers' own test suites, run on LyricGPT and, as the reference, on GPT-2."""
