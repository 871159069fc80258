"""From the words on the command line to a listing."""

from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path

from linprobe.benchmarks import find_known, known_datasets
from linprobe.errors import PackError
from linprobe_extract.pack.listing import Listing, dataset_slug
from linprobe_extract.pack.plan import PackOptions
from linprobe_extract.pack.sources.csv import list_csv
from linprobe_extract.pack.sources.digits import list_digits
from linprobe_extract.pack.sources.folder import list_image_folder
from linprobe_extract.pack.sources.hf import list_hf
from linprobe_extract.pack.sources.torchvision import list_known, list_other_class

FORMS_HINT = (
    "digits, imagefolder:DIR, csv:FILE, torchvision:NAME, hf:NAME, or a dataset that the command "
    "datasets lists"
)


def never_changes(source: str) -> bool:
    """Whether a source of this name is the same whenever it is listed."""
    kind, _, rest = source.partition(":")
    name = rest.partition(":")[0] if kind == "torchvision" else kind
    row = find_known(name)
    by_hand = row is not None and row.torchvision is None
    return kind not in ("imagefolder", "csv", "hf") and not by_hand


def list_source(source: str, out: Path, options: PackOptions) -> Listing:
    """List the samples of ``source``; see :func:`linprobe_extract.pack.pack.pack` for its forms.

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
    if kind == "hf" and rest:
        return list_hf(rest, options)
    name, arguments = (rest.partition(":")[::2]) if kind == "torchvision" else (kind, rest)
    row = find_known(name)
    if options.root is not None:
        _refuse_inside(out, options.root)
    if row is not None:
        return list_known(row, arguments, out, options)
    if kind == "torchvision" and name:
        return list_other_class(name, arguments, out, options)
    close = get_close_matches(source, [*(row.slug for row in known_datasets()), "digits"], n=3)
    raise PackError(
        f"unknown source {source!r}",
        hint=f"did you mean {' or '.join(close)}?" if close else FORMS_HINT,
    )


def _refuse_inside(out: Path, folder: Path) -> None:
    """Refuse to write shards into the folder that is packed: the next run would list them."""
    if out.resolve().is_relative_to(folder.resolve()):
        raise PackError(
            f"{out} lies inside {folder}, which is packed",
            hint="choose an --out folder outside the source",
        )
