"""The code for training and publishing that is not uploaded with a model.

Its packages are layers: `corpus`, `engine`, `model`, `quality`, `card`, `hub`. Each imports only from those before it.
The scripts import from all of them, and nothing imports a script.
"""


class LyricGPTError(Exception):
    """A problem that the user can fix. The scripts print its message without a traceback and exit with status 1."""
