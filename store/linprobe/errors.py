"""What can go wrong, as one tree, and how it is told.

::

    LinprobeError              every expected failure of linprobe
    ├── StoreError             the feature store cannot do what was asked
    │   ├── NotFoundError      no such encoder, dataset, split or tap
    │   ├── IntegrityError     bytes on disk are not what was committed
    │   └── MismatchError      two things that must agree do not
    ├── CardError              the card of a packed dataset is not one
    ├── PackError              a source cannot be packed as asked
    ├── ExtractError           a model, a folder of shards or a machine is not what was asked for
    │   └── ShardError         one source tar cannot be read whole; the others go on
    └── ProbeError             the train stage cannot do what was asked
        ├── DataError          features or labels that no probe can be fitted on
        ├── OptionError        a setting out of range, or two that contradict each other
        └── ResultError        a result or probe file that cannot be written or read
"""

from pathlib import Path

REPAIR = (
    "copy it again from where it is whole; or remove it, a part or split with 'linprobe store gc "
    "--damaged --deep', an encoder or dataset with 'linprobe store rm', and make it again"
)


class LinprobeError(Exception):
    """An expected failure, printed for a person in two lines.

    Parameters
    ----------
    message : what failed, naming the file or value, what was expected and what was there instead.
    hint : the next command or change to try.

    Examples
    --------
    >>> from linprobe import FeatureStore
    >>> try:
    ...     FeatureStore("nowhere").split("test")
    ... except LinprobeError as error:
    ...     print(error.message)
    'nowhere' is no feature store: no such folder
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


class CardError(LinprobeError):
    """Raised when a ``dataset.json`` is not a card that this version can read."""


class PackError(LinprobeError):
    """Raised when a source cannot be packed as asked; nothing is left half-written."""


class ExtractError(LinprobeError):
    """Raised when extraction cannot start or cannot finish."""


class ShardError(ExtractError):
    """Raised when a source tar is cut, damaged, or not laid out as WebDataset shards are."""


class ProbeError(LinprobeError):
    """Raised when the train stage cannot do what was asked."""


class DataError(ProbeError):
    """Raised when features or labels do not allow the fit or the score asked for."""


class OptionError(ProbeError):
    """Raised when a setting is out of range or contradicts another."""


class ResultError(ProbeError):
    """Raised when a result or a probe file cannot be written, or is not one of ours."""


def unreadable(path: Path, error: OSError) -> StoreError:
    """Error for a file that is there and cannot be read: not damage, perhaps only a permission."""
    return StoreError(
        f"{path}: {error.strerror or error}", hint="check its permissions and the disk, then retry"
    )
