"""Everything around the model that stays at home, in buildings: `corpus`, `engine`, `model`, `quality`, `card`, `hub`.

Each imports from those before it alone; the scripts import from all, and nothing imports a script.
"""


class LyricGPTError(Exception):
    """Something the user can mend: the scripts print its message without a traceback and exit with status 1."""
