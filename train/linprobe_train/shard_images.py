"""Images of some test rows, where the shards that the features came from are at hand."""

import tarfile
from collections.abc import Collection, Mapping
from pathlib import Path, PurePosixPath

_IMAGES = frozenset(
    (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
)


def find_images(folder: Path, split: str, keys: Collection[str]) -> Mapping[str, bytes]:
    """Image files of samples, by key; those that are not found are left out.

    A report goes without pictures rather than not at all: tars that cannot be read are passed over.

    Parameters
    ----------
    folder : holds ``<split>/*.tar`` or ``<split>*.tar``, as packed.
    split : such as ``test``.
    keys : sample keys: member paths up to the first dot of the basename.
    """
    found: dict[str, bytes] = {}
    wanted = set(keys)
    for path in sorted([*folder.glob(f"{split}/*.tar*"), *folder.glob(f"{split}*.tar*")]):
        if wanted - set(found):
            found |= _from_shard(path, wanted - set(found))
    return found


def _from_shard(path: Path, wanted: Collection[str]) -> Mapping[str, bytes]:
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(path) as shard:
            for member in shard:
                name = PurePosixPath(member.name)
                key = str(name.with_name(name.name.partition(".")[0] or name.name))
                if key in wanted and name.suffix.lower() in _IMAGES and member.isfile():
                    stream = shard.extractfile(member)
                    found[key] = b"" if stream is None else stream.read()
    except (tarfile.TarError, OSError, EOFError):
        pass
    return found
