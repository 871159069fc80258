"""What can go wrong between stored features and a result, as one tree.

::

    LinprobeError
    └── ProbeError             every expected failure of the train stage
        ├── DataError          features or labels that no probe can be fitted on
        ├── OptionError        a setting out of range, or two that contradict each other
        └── ResultError        a result or probe file that cannot be written or read
"""

from linprobe_store.errors import LinprobeError


class ProbeError(LinprobeError):
    """Raised when the train stage cannot do what was asked."""


class DataError(ProbeError):
    """Raised when features or labels do not allow the fit or the score asked for."""


class OptionError(ProbeError):
    """Raised when a setting is out of range or contradicts another."""


class ResultError(ProbeError):
    """Raised when a result or a probe file cannot be written, or is not one of ours."""
