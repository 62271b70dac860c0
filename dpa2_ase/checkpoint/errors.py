"""The one error of unreadable files."""


class CheckpointError(ValueError):
    """A file is not a model this package can read; the message says why and what to do."""
