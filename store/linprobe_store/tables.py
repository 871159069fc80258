"""Plain text tables for the terminal."""

from collections.abc import Sequence

_GAP = "  "
_AGES = (("s", 60.0), ("min", 60.0), ("h", 24.0), ("d", 365.0))


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]], numeric: str) -> str:
    """Align columns under a header.

    Parameters
    ----------
    numeric : one character per column, ``>`` to align it to the right and ``<`` to the left.
    """
    lines = [header, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    return "\n".join(
        _GAP.join(
            cell.rjust(width) if side == ">" else cell.ljust(width)
            for cell, width, side in zip(line, widths, numeric, strict=True)
        ).rstrip()
        for line in lines
    )


def human_age(seconds: float) -> str:
    """Write an age the way people read it: ``3 min``, ``2 d``."""
    for unit, size in _AGES:
        if seconds < size:
            return f"{seconds:.0f} {unit}"
        seconds /= size
    return f"{seconds:.1f} y"
