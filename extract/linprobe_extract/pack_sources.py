"""From the words on the command line to a listing."""

from dataclasses import replace
from pathlib import Path

from linprobe_extract.pack_csv import list_csv
from linprobe_extract.pack_digits import list_digits
from linprobe_extract.pack_folder import list_image_folder
from linprobe_extract.pack_listing import Listing, PackError, dataset_slug
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
    listing = _list(source, out, options)
    return replace(listing, name=dataset_slug(options.name)) if options.name else listing


def _list(source: str, out: Path, options: PackOptions) -> Listing:
    """List by the kind of source."""
    kind, _, rest = source.partition(":")
    if source == "digits":
        return list_digits(options.seed)
    if kind == "imagefolder" and rest:
        folder = Path(rest).expanduser()
        _refuse_inside(out, folder)
        return list_image_folder(folder, options)
    if kind == "csv" and rest:
        return list_csv(Path(rest).expanduser(), options)
    raise PackError(
        f"unknown source {source!r}",
        hint="digits, imagefolder:DIR, csv:FILE, torchvision:NAME or hf:NAME",
    )


def _refuse_inside(out: Path, folder: Path) -> None:
    """Refuse to write shards into the folder that is packed: the next run would list them."""
    if out.resolve().is_relative_to(folder.resolve()):
        raise PackError(
            f"{out} lies inside {folder}, which is packed",
            hint="choose an --out folder outside the source",
        )
