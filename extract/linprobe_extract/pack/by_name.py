"""Data by name: ``--data cifar10`` is the folder ``data/cifar10``, packed when first asked for."""

from pathlib import Path

from linprobe.benchmarks import find_known
from linprobe.errors import ExtractError
from linprobe.terminal import command, note, watching
from linprobe_extract.pack.listing import PackOptions
from linprobe_extract.pack.pack import pack
from linprobe_extract.pack.registry import names_without_words
from linprobe_extract.shards.card import CARD_NAME


def data_folder(data: str | None, *, may_pack: bool, root: Path = Path("data")) -> str | None:
    """Turn what a person calls the data into a folder or URL, packing a known dataset if need be.

    Parameters
    ----------
    data : a folder, a URL, ``digits`` or the name of a known dataset; None passes through.
    may_pack : False refuses what is not packed yet.
    root : where datasets are packed to, each under its name.

    Raises
    ------
    ExtractError : it is neither, or is not packed and may not be.
    LinprobeError : it cannot be downloaded or packed.
    """
    if data is None or "://" in data or Path(data).is_dir():
        return data
    known, names = find_known(data), names_without_words()
    name = data if known is None else known.slug
    if name not in names:
        raise ExtractError(
            f"'{data}' is no folder of shards and no known dataset",
            hint=f"{command('pack', 'SOURCE', out='DIR')} makes a folder; known are "
            f"{', '.join(names)}",
        )
    folder = root / name
    if not (folder / CARD_NAME).is_file():
        if not may_pack:
            raise ExtractError(
                f"{name} is not packed in {folder} yet", hint=command("pack", name, out=folder)
            )
        note(f"packing {name} into {folder} (once)")
        with watching("packing") as watch:
            pack(name, folder, PackOptions(), watch)
    return str(folder)
