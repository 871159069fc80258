"""What can go wrong in extraction, beside what the store itself refuses.

::

    LinprobeError
    └── ExtractError      a model, a folder of shards or a machine is not what was asked for
        └── ShardError    one source tar cannot be read whole; the others go on
"""

from linprobe_store.errors import LinprobeError


class ExtractError(LinprobeError):
    """Raised when extraction cannot start or cannot finish."""


class ShardError(ExtractError):
    """Raised when a source tar is cut, damaged, or not laid out as WebDataset shards are."""
