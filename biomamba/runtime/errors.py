"""Errors that a user can cause and mend.

Each message names the key or file, what was found, what is allowed and what to do. The command
line programs print it without a traceback and exit with code 2; anything else is a defect and
keeps its traceback.
"""


class BioMambaError(Exception):
    """Base of all errors that the user can mend."""


class ConfigError(BioMambaError, ValueError):
    """The composed configuration cannot build a run."""


class DataError(BioMambaError):
    """A corpus, tokenizer or token store is missing, damaged or not the expected one."""


class CheckpointError(BioMambaError):
    """A model checkpoint is missing, incomplete or of another model."""


class MissingDependencyError(BioMambaError):
    """An optional package is needed and not installed."""


class TrainingError(BioMambaError):
    """A run cannot go on without damage to its result."""
