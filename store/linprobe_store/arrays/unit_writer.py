"""Writer of a unit's ``data.zarr``: checks every block, then streams it to one array per field.

Parts, sealed splits and imports pass the same checks: no NaN, infinity or all-zero row is ever
written, and a fill value is therefore never a feature.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from linprobe.errors import MismatchError, StoreError
from linprobe.records import JsonValue
from linprobe_store.arrays.array_writer import RowLayout, RowWriter
from linprobe_store.arrays.keys import Keys
from linprobe_store.arrays.values import find_bad_row
from linprobe_store.format import layout
from linprobe_store.format.checksums import FileDigest, digest_bytes
from linprobe_store.format.commit import UnitContents
from linprobe_store.format.layout import INNER_BYTES, INNER_ROWS, MAX_SHARD_FILE_BYTES
from linprobe_store.format.spec import (
    DigestArray,
    EncoderSpec,
    FeatureArray,
    FeatureBlock,
    LabelArray,
)
from linprobe_store.format.zarr_v3 import group_json

_HINTS: Mapping[str, str] = {
    "finite values, found NaN or infinity": "a value outside float16 fits with --storage-dtype "
    "float32; otherwise look at this sample and the encoder",
    "features, found all zeros": "look at this sample and the encoder; an all-zero row has no "
    "direction",
}
"""What to do about a bad row, by its problem."""


class UnitWriter:
    """Writer of one unit's arrays into a staging folder, of blocks with the taps of ``spec``.

    Messages name the ``source`` of the rows; ``strong`` adds a sha256 to the crc32c of each file.
    """

    def __init__(self, folder: Path, spec: EncoderSpec, source: str, *, strong: bool) -> None:
        self._spec = spec
        self._source = source
        self._strong = strong
        self._folder = folder
        self._features: dict[str, RowWriter] = {}
        for tap in spec.taps:
            name, axis = layout.FEATURES_PREFIX + tap.name, f"{tap.name}_feature"
            rows = self._writer(name, spec.storage_dtype, (tap.dim,), "NaN", axis)
            self._features[tap.name] = rows
        self._offsets = self._writer(layout.KEYS_OFFSETS, "int64", (), -1, "key_edge")
        self._bytes = self._writer(layout.KEYS_BYTES, "uint8", (), 0, "key_byte")
        self._labels: RowWriter | None = None
        self._images: RowWriter | None = None
        self._offsets.append(np.zeros(1, np.int64))

    @property
    def rows(self) -> int:
        """Rows appended so far."""
        return self._offsets.rows - 1

    def append(self, block: FeatureBlock) -> None:
        """Check a block and write it; raises as ``PartWriter.append`` does."""
        self._check_shapes(block)
        for tap, features in block.features.items():
            _check_values(features, block.keys, f"{self._source}: {tap}")
        try:
            keys = Keys.encoded(block.keys)
        except UnicodeEncodeError as error:
            message = f"{self._source}: the key {error.object!r} is not valid UTF-8"
            raise StoreError(message, hint="rename the member and pack the shard again") from None
        if not len(keys):
            return
        for tap, features in block.features.items():
            self._features[tap].append(features)
        self._label_writer(block.labels).append(block.labels)
        if block.image_sha256 is not None:
            if self._images is None:
                self._images = self._writer(layout.IMAGE_SHA256, "uint8", (32,), 0, "digest_byte")
            self._images.append(block.image_sha256)
        self._offsets.append(self._bytes.rows + np.cumsum(keys.lengths))
        self._bytes.append(keys.data)

    def close(self, attributes: Mapping[str, JsonValue]) -> UnitContents:
        """Finish every array; the group carries ``attributes`` beside the format's name.

        Raises a StoreError where an earlier append failed half-way, and its error was ignored.
        """
        labels = self._labels or self._label_writer(np.empty(0, np.int64))
        images = () if self._images is None else (self._images,)
        writers = (*self._features.values(), labels, *images)
        if any(writer.rows != self.rows for writer in writers):
            message = f"{self._source}: a block was written in part"
            raise StoreError(message, hint="write this source again from its beginning")
        files: dict[str, FileDigest] = {}
        for writer in (*writers, self._offsets, self._bytes):
            folder = writer.folder.relative_to(self._folder).as_posix()
            files |= {f"{folder}/{name}": digest for name, digest in writer.close().items()}
        group = group_json({"linprobe": {**layout.FORMAT_FIELDS, **attributes}})
        (self._folder / layout.DATA_FOLDER / "zarr.json").write_bytes(group)
        files[f"{layout.DATA_FOLDER}/zarr.json"] = digest_bytes(group, strong=self._strong)
        spec, width = self._spec, next(iter(labels.layout.row_shape), None)
        own = (spec.encoder_id, self.rows, spec.taps, spec.storage_dtype)
        return UnitContents(files, *own, width, has_image_digests=bool(images))

    def abandon(self) -> None:
        """Close the open files of a unit that will not be published."""
        others = (self._offsets, self._bytes, self._labels, self._images)
        for writer in (*self._features.values(), *others):
            if writer is not None:
                writer.abandon()

    def _writer(
        self, name: str, dtype: str, row_shape: tuple[int, ...], fill: int | str, dimension: str
    ) -> RowWriter:
        little = np.dtype(dtype).newbyteorder("<")
        inner_rows = INNER_ROWS if row_shape else INNER_BYTES // little.itemsize
        dimensions = ("sample", dimension) if row_shape else (dimension,)
        rows = RowLayout(little, row_shape, inner_rows, fill, dimensions, MAX_SHARD_FILE_BYTES)
        return RowWriter(self._folder / layout.DATA_FOLDER / name, rows, self._strong)

    def _label_writer(self, labels: LabelArray) -> RowWriter:
        """Writer of the labels, whose kind and width the first block decides."""
        if self._labels is None and labels.ndim == 1:
            self._labels = self._writer(layout.LABELS, "int64", (), -1, "sample")
        elif self._labels is None:  # 255 is never a multi-hot label
            self._labels = self._writer(layout.LABELS, "uint8", labels.shape[1:], 255, "class")
        return self._labels

    def _check_shapes(self, block: FeatureBlock) -> None:
        n, labels = len(block.keys), block.labels
        expected = {t.name: ((n, t.dim), self._spec.storage_dtype) for t in self._spec.taps}
        given = {name: (x.shape, x.dtype.name) for name, x in block.features.items()}
        if expected != given:
            message = f"{self._source}: expected features {expected}, found {given}"
            raise MismatchError(message, hint="give the taps, dims and dtype of the encoder's spec")
        kind = (labels.ndim, labels.dtype.name)
        if kind not in ((1, "int64"), (2, "uint8")) or len(labels) != n:
            raise MismatchError(
                f"{self._source}: expected labels ({n},) int64 or ({n}, k) uint8, "
                f"found {labels.shape} {labels.dtype.name}",
                hint="give one class id per sample, or one multi-hot row per sample",
            )
        row_shape = self._labels.layout.row_shape if self._labels else labels.shape[1:]
        if labels.shape[1:] != row_shape:
            raise MismatchError(
                f"{self._source}: expected labels with columns {row_shape}, "
                f"found {labels.shape[1:]}",
                hint="do not mix class ids with multi-hot labels, nor their widths",
            )
        self._check_images(block.image_sha256, n)

    def _check_images(self, images: DigestArray | None, n: int) -> None:
        """Refuse digests of another shape, and rows with digests after rows without, or before."""
        given = None if images is None else (images.shape, images.dtype.name)
        is_expected = given in (None, ((n, 32), "uint8"))
        has_digests = self._images is not None
        if not is_expected or (self.rows and n and has_digests != (images is not None)):
            expected = "None" if self.rows and not has_digests else f"({n}, 32) uint8"
            raise MismatchError(
                f"{self._source}: expected image_sha256 {expected}, found {given}",
                hint="give the sha256 of every image of a unit, or of none",
            )


def _check_values(features: FeatureArray, keys: Sequence[str], place: str) -> None:
    """Refuse, by a StoreError, features (n, d) that are not finite, and rows that are all zero."""
    bad = find_bad_row(features)
    if bad is not None:
        message = f"{place} of sample {keys[bad.row]!r}: expected {bad.problem}"
        raise StoreError(message, hint=_HINTS[bad.problem])
