"""Everything around the model that stays at home: run configuration, corpora, token streams, optimisation, evaluation,
checkpoints, reports. Imports the two shipped packages and nothing else of this project; the scripts import it.
"""


class LyricGPTError(Exception):
    """Something the user can mend: the scripts print its message without a traceback and exit with status 1."""
