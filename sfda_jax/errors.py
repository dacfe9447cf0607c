"""User-facing errors: what was found, what was expected, and what mends it."""


class SfdaError(Exception):
    """Base of every error a user can cause and mend.

    Args:
        message: what was found, what was expected, and where (file, key, step).
        hint: the command or change that mends it; printed after the message.
    """

    def __init__(self, message: str, *, hint: str = ""):
        self.message = message
        self.hint = hint
        super().__init__(f"{message} {hint}".strip())


class ConfigError(SfdaError):
    """A recipe, a flag or a name that cannot be used."""


class DataError(SfdaError):
    """A dataset, image or label that is missing, damaged or inconsistent."""


class CheckpointError(SfdaError):
    """A checkpoint that is missing, of another network, or cannot be written."""


class TrainingError(SfdaError):
    """A run that cannot go on (non-finite loss, full disk, lost process)."""
