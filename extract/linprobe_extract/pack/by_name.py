"""Data by name: ``--data cifar10`` is the folder ``data/cifar10``, packed when first asked for."""

from difflib import get_close_matches
from pathlib import Path

from linprobe.benchmarks import find_known
from linprobe.errors import ExtractError
from linprobe.names import is_url
from linprobe.terminal import command, note, pack_hint, watching
from linprobe_extract.pack.listing import PackOptions
from linprobe_extract.pack.pack import pack
from linprobe_extract.pack.registry import names_without_words
from linprobe_extract.shards.card import CARD_NAME


def data_folder(data: str | None, *, may_pack: bool, root: Path = Path("data")) -> str | None:
    """The folder or URL of what a person calls the data, packing a known dataset if need be.

    Folders, URLs and None pass through; a dataset is packed under its name in ``root``.
    ExtractError where it is neither, or is not packed yet and not ``may_pack``.
    """
    if data is None or is_url(data) or Path(data).is_dir():
        return data
    known, names = find_known(data), names_without_words()
    name = data if known is None else known.slug
    if name not in names:
        make = command("pack", "imagefolder:FOLDER", out="data/NAME")
        hint = f"{make} makes one of your images; '{command('datasets')}' lists what is known"
        packed = (card.parent for card in root.glob(f"*/{CARD_NAME}"))
        close = get_close_matches(data, [*names, *map(str, packed)], n=3)
        hint = pack_hint(Path(data)) or (f"did you mean {' or '.join(close)}?" if close else hint)
        raise ExtractError(f"'{data}' is no folder of shards and no known dataset", hint=hint)
    folder = root / name
    if not (folder / CARD_NAME).is_file():
        if not may_pack:
            hint = command("pack", name, out=folder)
            raise ExtractError(f"{name} is not packed in {folder} yet", hint=hint)
        note(f"packing {name} into {folder} (once)")
        with watching("packing") as watch:
            pack(name, folder, PackOptions(), watch)
    return str(folder)
