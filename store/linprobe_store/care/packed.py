"""Packing: a sealed split as compressed Zarr for slow links, and back, bit for bit.

Zarr's blosc (zstd, bit shuffle) makes float16 6 to 9 % smaller, and halves float32 that hold it.
``PACKED.json`` carries the sealed split's commit, which proves every unpacked file equal. It may
come from strangers: what is not just as we would have packed it is refused before it is decoded.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from posixpath import dirname, join
from typing import Literal

from linprobe.errors import REPAIR, IntegrityError, StoreError
from linprobe.names import first_few
from linprobe.records import MAX_BYTES, canonical_json, plain, read_bytes
from linprobe_store.arrays.array_writer import RowLayout, RowWriter
from linprobe_store.care.packed_array import PackedArray
from linprobe_store.care.place import Place
from linprobe_store.format import commit as commits
from linprobe_store.format import layout
from linprobe_store.format.checksums import check_content, digest_bytes
from linprobe_store.format.layout import COMMIT_FILE, DATA_FOLDER, PACKED_FILE
from linprobe_store.format.zarr_v3 import ArrayGeometry, parse_geometry
from linprobe_store.handles.split import Split

_METADATA = "zarr.json"
_GROUP = f"{DATA_FOLDER}/{_METADATA}"


@dataclass(frozen=True)
class PackedCommit(commits.FileTable, commits.Signed):
    """The marker of a packed split: its own files, and the sealed split that they stand for."""

    kind: Literal["packed"]
    commit: commits.SplitCommit
    metadata: Mapping[str, str]
    """Each ``zarr.json`` of the sealed split, by its path below the split's folder."""


def pack_split(split: Split, place: Place, folder: str) -> int:
    """Write a sealed split in its packed form, the marker last; gives the bytes written.

    A chunk that is there and gives the rows is kept, so that an interrupted packing goes on.
    IntegrityError where the split is damaged, StoreError where the place refuses.
    """
    commits.check_files(split.path, split.commit.files, "deep")
    metadata = read_metadata(split)
    contents = {_GROUP: metadata[_GROUP].encode()}
    files, written = {}, 0
    for mapped in split.arrays.all():
        name = mapped.folder.relative_to(split.path).as_posix()
        packed = PackedArray(mapped.geometry, metadata[join(name, _METADATA)])
        contents[join(name, _METADATA)] = packed.metadata
        for i in range(packed.n_chunks):
            path, rows = join(name, packed.chunk_key(i)), packed.rows_of(mapped, i)
            data = _whole_chunk(place, join(folder, path), packed, i, rows.tobytes())
            if data is None:
                data = packed.encode(i, rows)
                place.write(join(folder, path), data)
                written += len(data)
            files[path] = digest_bytes(data, strong=True)
    for path, data in contents.items():
        place.write(join(folder, path), data)
        files[path] = digest_bytes(data, strong=True)
        written += len(data)
    fields = {"files": files, "commit": split.commit, "metadata": metadata}
    place.write(join(folder, PACKED_FILE), commits.sign("packed", fields))
    return written


def _whole_chunk(place: Place, path: str, packed: PackedArray, i: int, rows: bytes) -> bytes | None:
    """What an earlier packing left of a chunk, if it gives these rows."""
    size = place.size(path)
    if size is None or size > packed.max_chunk_bytes:
        return None
    data = place.read(path)
    try:
        return data if packed.decode(i, data).tobytes() == rows else None
    except ValueError:  # cut, when it was killed
        return None


def unpack_split(packed: Path, folder: Path) -> None:
    """Write the split that a packed one stands for, proved equal; IntegrityError if damaged."""
    marker = packed / PACKED_FILE
    signed = parse_packed(read_bytes(marker), str(marker))
    commits.check_files(packed, signed.files, "deep")
    for name, text in signed.metadata.items():
        if name != _GROUP:
            geometry = parse_geometry(text.encode(), f"{marker}: {name}")
            _unpack_array((packed / name).parent, (folder / name).parent, geometry, text)
        (folder / name).write_bytes(text.encode())
    for name, expected in signed.commit.files.items():
        check_content(folder / name, expected, strong=True)
    (folder / COMMIT_FILE).write_bytes(canonical_json(plain(signed.commit)))


def _unpack_array(packed: Path, folder: Path, geometry: ArrayGeometry, sealed: str) -> None:
    """Write the shard files of an array whose sealed form is ``geometry``, not its metadata."""
    array = PackedArray(geometry, sealed)
    fill, row_shape = array.fill, geometry.shape[1:]
    file_bytes = geometry.file_rows * geometry.row_bytes
    rows = RowLayout(geometry.dtype, row_shape, geometry.inner_rows, fill, (), file_bytes)
    writer = RowWriter(folder, rows, strong=False)
    try:
        array.check_metadata(read_bytes(packed / _METADATA), str(packed / _METADATA))
        for i in range(array.n_chunks):
            path = packed / array.chunk_key(i)
            writer.append(array.decode(i, read_bytes(path, limit=array.max_chunk_bytes)))
        writer.close()
    except (ValueError, TypeError, ArithmeticError) as error:
        raise IntegrityError(f"{packed}: cannot be unpacked: {error}", hint=REPAIR) from error
    finally:
        writer.abandon()


def read_metadata(split: Split) -> Mapping[str, str]:
    """Each ``zarr.json`` of a sealed split, by its path below the split's folder."""
    names = [name for name in split.commit.files if name.endswith(_METADATA)]
    return {name: read_bytes(split.path / name).decode() for name in names}


def parse_packed(data: bytes, place: str) -> PackedCommit:
    """Read the marker of a packed split and the commit in it; raises as ``parse_signed`` does.

    The names and sizes of its files, packed and sealed, are those that its shapes make, and no
    others: nothing is decoded, or written, outside them.
    """
    packed = commits.parse_signed(PackedCommit, data, place)
    commits.check_digest(plain(packed.commit), f"{place}: commit")
    taps = [layout.FEATURES_PREFIX + tap.name for tap in packed.commit.taps]
    images = [layout.IMAGE_SHA256] if packed.commit.has_image_digests else []
    arrays = [*taps, layout.LABELS, layout.KEYS_OFFSETS, layout.KEYS_BYTES, *images]
    metadata = {_GROUP, *(f"{DATA_FOLDER}/{array}/{_METADATA}" for array in arrays)}
    _check_names(metadata, packed.metadata, f"{place}: metadata")
    for name, text in packed.metadata.items():
        expected = packed.commit.files.get(name)
        if digest_bytes(text.encode(), strong=True) != expected:
            message = f"{place}: metadata: {name} is not that of its commit"
            raise IntegrityError(message, hint=REPAIR)
    try:
        sealed = dict(_sealed_files(packed, place))
        names = {*packed_files(packed.metadata, len(packed.files))}
    except (ValueError, TypeError, LookupError, ArithmeticError, StoreError) as error:
        raise IntegrityError(f"{place}: bad metadata: {error}", hint=REPAIR) from error
    _check_names({*metadata, *sealed}, packed.commit.files, f"{place}: files of the commit")
    _check_names(names, packed.files, f"{place}: files")
    for name, n_bytes in sealed.items():
        if packed.commit.files[name].bytes != n_bytes:
            message = f"{place}: {name}: expected {n_bytes} bytes of these rows"
            raise IntegrityError(message, hint=REPAIR)
    return packed


def packed_files(metadata: Mapping[str, str], limit: int = 1 << 40) -> Iterator[str]:
    """Names of the packed files of a split, from its sealed metadata, but for the marker.

    Raises ValueError where there are more than ``limit``.
    """
    for name, text in metadata.items():
        yield name
        if name != _GROUP:
            packed = PackedArray(parse_geometry(text.encode(), name), text)
            if packed.n_chunks > limit:
                raise ValueError(f"{name}: {packed.n_chunks:,} chunks for {limit:,} files")
            yield from (join(dirname(name), packed.chunk_key(i)) for i in range(packed.n_chunks))


def _sealed_files(packed: PackedCommit, place: str) -> Iterator[tuple[str, int]]:
    """Name and size of every file with the rows of the sealed arrays."""
    for name, text in packed.metadata.items():
        if name != _GROUP:
            geometry = parse_geometry(text.encode(), f"{place}: {name}")
            if geometry.n_files > len(packed.commit.files) or geometry.row_bytes > MAX_BYTES:
                raise ValueError(f"{name}: the shape {geometry.shape} does not fit its files")
            for i in range(geometry.n_files):
                yield join(dirname(name), geometry.file_key(i)), geometry.file_bytes(i)


def _check_names(expected: set[str], names: Mapping[str, object], place: str) -> None:
    if other := sorted(expected.symmetric_difference(names)):
        verb = "lacks" if other[0] in expected else "has no business with"
        raise IntegrityError(f"{place}: {verb} {first_few(map(repr, other))}", hint=REPAIR)
