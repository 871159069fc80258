"""From the words on the command line to a listing."""

from pathlib import Path

from linprobe_extract.pack_digits import list_digits
from linprobe_extract.pack_listing import Listing, PackError
from linprobe_extract.pack_plan import PackOptions


def never_changes(source: str) -> bool:
    """Whether a source of this name is the same whenever it is listed."""
    return not source.startswith(("imagefolder:", "csv:"))


def list_source(source: str, out: Path, options: PackOptions) -> Listing:
    """List the samples of ``source``; see :func:`linprobe_extract.pack.pack` for its forms.

    Raises
    ------
    PackError : no such source, or its files are not as they should be.
    """
    kind, _, rest = source.partition(":")
    if source == "digits":
        return list_digits(options.seed)
    raise PackError(
        f"unknown source {source!r} ({kind}, {rest}, {out})",
        hint="digits, imagefolder:DIR, csv:FILE, torchvision:NAME or hf:NAME",
    )
