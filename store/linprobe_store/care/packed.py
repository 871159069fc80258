"""Packing: a sealed split as compressed Zarr for slow links, and back, bit for bit.

Zarr's blosc (zstd, bit shuffle) makes float16 6 to 9 % smaller, and halves float32 that hold it.
``PACKED.json`` carries the sealed split's commit, which proves every unpacked file equal.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from linprobe.errors import REPAIR, IntegrityError
from linprobe.names import first_few
from linprobe.records import canonical_json, plain, read, read_bytes
from linprobe_store.arrays.array_writer import RowLayout, RowWriter
from linprobe_store.arrays.mapping import MappedArray
from linprobe_store.format import commit as commits
from linprobe_store.format.checksums import check_content, digest_file
from linprobe_store.format.layout import COMMIT_FILE, DATA_FOLDER, PACKED_FILE
from linprobe_store.format.zarr_v3 import ArrayGeometry, parse_geometry
from linprobe_store.handles.split import Split

_CHUNK_BYTES = 8 << 20
"""Bytes of a chunk before compression: large enough for the codec, small enough to resume."""
_METADATA = "zarr.json"
_GROUP = f"{DATA_FOLDER}/{_METADATA}"


@dataclass(frozen=True)
class PackedCommit(commits.FileTable, commits.Signed):
    """The marker of a packed split: its own files, and the sealed split that they stand for."""

    kind: Literal["packed"]
    commit: commits.SplitCommit
    metadata: Mapping[str, str]
    """Each ``zarr.json`` of the sealed split, by its path below the split's folder."""


def pack_split(split: Split, folder: Path) -> None:
    """Write a sealed split into ``folder`` in its packed form; IntegrityError if it is damaged."""
    commits.check_files(split.path, split.commit.files, "deep")
    for mapped in split.arrays.all():
        _pack_array(mapped, folder / mapped.folder.relative_to(split.path))
    names = _metadata_files(split.commit)
    metadata = {name: (split.path / name).read_text(encoding="utf-8") for name in names}
    (folder / _GROUP).write_text(metadata[_GROUP], encoding="utf-8")
    paths = [path for path in folder.rglob("*") if path.is_file()]
    files = {path.relative_to(folder).as_posix(): digest_file(path, strong=True) for path in paths}
    fields = {"files": files, "commit": split.commit, "metadata": metadata}
    (folder / PACKED_FILE).write_bytes(commits.sign("packed", fields))


def unpack_split(packed: Path, folder: Path) -> None:
    """Write the split that a packed one stands for, proved equal; IntegrityError if damaged."""
    marker = packed / PACKED_FILE
    signed = parse_packed(read_bytes(marker), str(marker))
    commits.check_files(packed, signed.files, "deep")
    for name in _metadata_files(signed.commit):
        text = signed.metadata[name].encode()
        if name != _GROUP:
            geometry = parse_geometry(text, f"{marker}: {name}")
            _unpack_array((packed / name).parent, (folder / name).parent, geometry)
        (folder / name).write_bytes(text)
    for name, expected in signed.commit.files.items():
        check_content(folder / name, expected, strong=True)
    (folder / COMMIT_FILE).write_bytes(canonical_json(plain(signed.commit)))


def parse_packed(data: bytes, place: str) -> PackedCommit:
    """Read the marker of a packed split and the commit in it; raises as ``parse_signed`` does."""
    packed = commits.parse_signed(PackedCommit, data, place)
    commits.check_digest(plain(packed.commit), f"{place}: commit")
    if lost := sorted(set(_metadata_files(packed.commit)) - set(packed.metadata)):
        raise IntegrityError(f"{place}: expected the metadata {first_few(lost)}", hint=REPAIR)
    return packed


def _metadata_files(commit: commits.SplitCommit) -> list[str]:
    return [name for name in commit.files if name.endswith(_METADATA)]


def _pack_array(mapped: MappedArray, folder: Path) -> None:
    # Imported here, and below: only a packed copy pays for the half second.
    import zarr
    from zarr.codecs import BloscCodec, BloscShuffle

    shape = mapped.geometry.shape
    rows = max(1, min(_CHUNK_BYTES // mapped.geometry.row_bytes, shape[0]))
    packed = zarr.create_array(
        folder,
        shape=shape,
        dtype=mapped.geometry.dtype,
        chunks=(rows, *shape[1:]),
        compressors=BloscCodec(cname="zstd", clevel=5, shuffle=BloscShuffle.bitshuffle),
        fill_value=zarr.open_array(mapped.folder, mode="r").fill_value,
        dimension_names=read(dict[str, Any], mapped.folder / _METADATA)["dimension_names"],
        config={"write_empty_chunks": True},
    )
    for start in range(0, mapped.rows, rows):
        stop = min(start + rows, mapped.rows)
        packed[start:stop] = mapped.take(np.arange(start, stop))
    metadata = folder / _METADATA
    metadata.write_bytes(canonical_json(plain(read(dict[str, object], metadata))))


def _unpack_array(packed: Path, folder: Path, geometry: ArrayGeometry) -> None:
    """Write the shard files of an array whose sealed form is ``geometry``, not its metadata."""
    import zarr

    try:
        array = zarr.open_array(packed, mode="r")
        fill = "NaN" if geometry.dtype.kind == "f" else int(array.fill_value)
        row_shape, file_bytes = geometry.shape[1:], geometry.file_rows * geometry.row_bytes
        layout = RowLayout(geometry.dtype, row_shape, geometry.inner_rows, fill, (), file_bytes)
        writer = RowWriter(folder, layout, strong=False)
        try:
            for start in range(0, array.shape[0], array.chunks[0]):
                writer.append(np.asarray(array[start : start + array.chunks[0]]))
            writer.close()
        finally:
            writer.abandon()
    except (ValueError, TypeError, RuntimeError) as error:
        raise IntegrityError(f"{packed}: cannot be unpacked: {error}", hint=REPAIR) from error
