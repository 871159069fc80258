"""What can go wrong, as one tree, and how it is told.

::

    LinprobeError                  every expected failure of linprobe
    └── StoreError                 anything about the feature store
        ├── NotFoundError          no such encoder, dataset, split or tap
        ├── IntegrityError         bytes on disk are not what was committed
        └── MismatchError          two things that must agree do not
"""


class LinprobeError(Exception):
    """An expected failure, told to a person in two lines.

    Parameters
    ----------
    message : what failed, naming the file or value, what was expected and what was found.
    hint : the next command or change to try.
    """

    def __init__(self, message: str, *, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class StoreError(LinprobeError):
    """Raised when the feature store cannot do what was asked."""


class NotFoundError(StoreError):
    """Raised when a store has no encoder, dataset, split or tap of the name asked for."""


class IntegrityError(StoreError):
    """Raised when bytes on disk are missing, damaged, or not what was committed."""


class MismatchError(StoreError):
    """Raised when ids, dimensions, dtypes or fingerprints that must agree do not."""
