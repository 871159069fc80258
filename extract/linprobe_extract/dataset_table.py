"""The 27 datasets of the CLIP paper (Radford et al. 2021, Appendix A.1 and Table 9).

Sizes are those of the splits as packed here. Where Table 9 prints another size than the official
files have, the row says so in its note and the official size holds: for FER2013 and UCF101 the
paper's author confirms the misprint (openai/CLIP issue 45).
"""

from linprobe_extract.dataset_row import KnownDataset
from linprobe_extract.dataset_rows_clip import CLIP_ROWS
from linprobe_extract.dataset_rows_kornblith import KORNBLITH_ROWS

KNOWN_DATASETS: tuple[KnownDataset, ...] = KORNBLITH_ROWS + CLIP_ROWS
"""All rows, in the order of Table 9."""


def find_known(name: str) -> KnownDataset | None:
    """The row of this slug, or of this torchvision class; None where there is none."""
    for row in KNOWN_DATASETS:
        if row.slug == name or (row.torchvision and row.torchvision.name == name):
            return row
    return None


def table_text() -> str:
    """The table as the command ``datasets`` prints it."""
    header = ("name", "classes", "train", "val", "test", "metric", "files", "split")
    rows = [header, *(_cells(row) for row in KNOWN_DATASETS)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    numbers = {1, 2, 3, 4}
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column in numbers else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def _cells(row: KnownDataset) -> tuple[str, ...]:
    """One line of the table."""
    sizes = row.sizes or {}
    counts = (f"{sizes[split]:,}" if split in sizes else "-" for split in ("train", "val", "test"))
    return (row.slug, str(row.n_classes), *counts, row.metric.value, row.provider, row.split)
