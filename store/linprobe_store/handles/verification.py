"""What of a split was verified, for the record of a result."""

from dataclasses import dataclass

from linprobe.records import NonNegative


@dataclass(frozen=True)
class Verification:
    """What of a split was verified before it was used."""

    method: str
    """How."""
    files: NonNegative
    """Files, each of them whole."""
    bytes: NonNegative
    """Bytes of them."""
