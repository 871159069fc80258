"""Moving the files of a split between places, each checked on its way."""

from collections.abc import Iterator
from posixpath import join

from linprobe.disk import store_errors
from linprobe.errors import REPAIR, IntegrityError
from linprobe_store.care.place import Place
from linprobe_store.care.remote_splits import SourceSplit
from linprobe_store.format.checksums import (
    FileDigest,
    FileHasher,
    compare_digests,
    digest_stream,
)

_CHUNK_BYTES = 4 << 20


def move_split(split: SourceSplit, target: Place, folder: str) -> int:
    """Write the files of a split, and then its marker, below a folder; gives the bytes moved."""
    moved = sum(
        _move_file(split.place, join(split.folder, name), target, join(folder, name), digest)
        for name, digest in split.marker.files.items()
    )
    target.write(join(folder, split.marker.name), split.marker.data)
    return moved


def _move_file(
    source: Place, name: str, target: Place, target_name: str, expected: FileDigest
) -> int:
    """Move a file unless it is there, whole; checks its bytes; gives how many were moved."""
    if target.size(target_name) == expected.bytes:
        with target.open_read(target_name) as stream:
            if digest_stream(stream, strong=True) == expected:
                return 0
    if source.size(name) is None:
        raise IntegrityError(f"{source.label}/{name}: missing", hint=REPAIR)
    hasher, moved = FileHasher(strong=True), 0
    with target.writing(target_name) as out:
        for data in _blocks(source, name):
            hasher.update(data)
            moved += len(data)
            if moved > expected.bytes:
                break  # of a source that says less than it sends
            out.write(data)
        compare_digests(f"{source.label}/{name}", expected, hasher.digest())
    if (size := target.size(target_name)) != expected.bytes:
        message = f"{target.label}/{target_name}: expected {expected.bytes} bytes, found {size}"
        raise IntegrityError(message, hint="run the copy again")
    return expected.bytes


def _blocks(source: Place, name: str) -> Iterator[bytes]:
    with store_errors(f"{source.label}/{name}"), source.open_read(name) as stream:
        while data := stream.read(_CHUNK_BYTES):
            yield data
