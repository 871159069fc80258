"""Reading a sealed split: verified when opened, mapped, never copied unless asked."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from linprobe.errors import NotFoundError, StoreError
from linprobe_store.arrays.keys import Keys
from linprobe_store.arrays.mapping import MappedArray, side_by_side
from linprobe_store.arrays.unit_maps import UnitArrays
from linprobe_store.format.commit import SplitCommit
from linprobe_store.format.layout import DATA_FOLDER
from linprobe_store.format.spec import (
    DatasetNames,
    DatasetSpec,
    DigestArray,
    EncoderNames,
    EncoderSpec,
    FeatureArray,
    LabelArray,
    StorageDtype,
    Tap,
)
from linprobe_store.format.taps import joined_taps
from linprobe_store.handles.verification import Verification

if TYPE_CHECKING:
    import zarr


@dataclass(frozen=True, eq=False, repr=False)
class Split:
    """A sealed split: n rows of features per tap, their labels and keys.

    Opening verifies the commit, the size of every file, all metadata and the shard indexes, in
    milliseconds. Features of a tap, labels and keys are verified whole when they are first read,
    through the very maps that are given: the checksum of every byte, and every row, label and key.
    Reading raises an IntegrityError where a file is damaged, or a row is not finite or all zero.
    Nothing here can be written to. A tap that the encoder has not raises a NotFoundError.

    Examples
    --------
    >>> split = FeatureStore("features").split("test")
    >>> len(split), split.labels.shape, [X.shape for X in split.blocks("embedding", rows=40)]
    (60, (60,), [(40, 12), (20, 12)])
    """

    encoder_spec: EncoderSpec
    """Encoder that made the features."""
    encoder_names: EncoderNames
    """What people call the encoder."""
    dataset_spec: DatasetSpec
    """Dataset that the split belongs to."""
    dataset_names: DatasetNames
    """What is declared about the dataset."""
    path: Path
    """Folder of the split."""
    commit: SplitCommit
    """What was committed."""
    arrays: UnitArrays
    """The mapped arrays."""

    def __len__(self) -> int:
        """Number of samples."""
        return self.n

    def __array__(
        self, dtype: np.dtype[np.generic] | None = None, copy: bool | None = None
    ) -> NDArray[np.generic]:
        """The embedding of all rows (n, d): the map where one holds them, else a copy."""
        maps = self.maps("embedding")
        whole = maps[0] if len(maps) == 1 else np.concatenate([self.rows([], "embedding"), *maps])
        return np.array(whole, dtype) if copy else np.asarray(whole, dtype)

    def __repr__(self) -> str:
        taps = ", ".join(f"{tap.name} {tap.dim}" for tap in self.taps)
        of = f"{self.dataset_name} by {self.encoder_names.model}"
        return f"Split({self.name} of {of}: {self.n} rows, {len(self.classes)} classes; {taps})"

    @property
    def name(self) -> str:
        """``train``, ``val`` or ``test``."""
        return self.commit.split

    @property
    def encoder_id(self) -> str:
        """Encoder, 64 hex digits."""
        return self.encoder_spec.encoder_id

    @property
    def dataset_id(self) -> str:
        """Dataset, 64 hex digits."""
        return self.dataset_spec.dataset_id

    @property
    def dataset_name(self) -> str:
        """What people call the dataset."""
        return self.dataset_names.name

    @property
    def metric(self) -> str | None:
        """Headline metric of the dataset; None where nobody declared one."""
        return self.dataset_names.metric

    @property
    def digest(self) -> str:
        """Sha256 of the commit, 64 hex digits: the identity of these very rows."""
        return self.commit.digest

    @property
    def n(self) -> int:
        """Number of samples."""
        return self.commit.rows

    @property
    def taps(self) -> tuple[Tap, ...]:
        """Taps stored."""
        return self.commit.taps

    @property
    def dtype(self) -> StorageDtype:
        """Dtype of the features."""
        return self.commit.dtype

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names by label; k entries."""
        return self.dataset_spec.classes

    @property
    def skipped_by_reason(self) -> Mapping[str, int]:
        """Samples of the source tars that have no row, counted by reason."""
        return dict(Counter(lost.reason for part in self.commit.parts for lost in part.skipped))

    @cached_property
    def labels(self) -> LabelArray:
        """Labels, read-only: (n,) int64 class ids, or (n, k) uint8 multi-hot."""
        return self.arrays.read_labels(len(self.classes))

    @cached_property
    def keys(self) -> Keys:
        """Sample keys, a sequence of n strings that is decoded when asked for."""
        return self.arrays.read_keys()

    @cached_property
    def image_sha256(self) -> DigestArray | None:
        """Sha256 of the bytes of each image, (n, 32), read-only; None for imported features."""
        mapped = self.arrays.read_image_sha256()
        if mapped is None:
            return None
        digests = cast("DigestArray", mapped.whole())
        digests.flags.writeable = False
        return digests

    def dim(self, tap: str) -> int:
        """Feature dimension d of a tap, or of several joined by ``+``."""
        return sum(self.arrays.features[name].geometry.shape[1] for name in self._names(tap))

    def blocks(self, tap: str, rows: int = 8192) -> Iterator[FeatureArray]:
        """All rows in order, as views of the maps: the way to scan.

        Parameters
        ----------
        tap : such as ``embedding``; several are joined by ``+``, such as ``last4+patch_mean``.
        rows : rows of a block at most; the last one of each shard file may be shorter.

        Returns
        -------
        Read-only views (m, d) in the storage dtype, m <= ``rows``; nothing is copied, unless
        several taps are joined: then block by block.
        """
        for views in self.views(tap, rows):
            columns = views[0] if len(views) == 1 else np.concatenate(views, axis=1)
            yield cast("FeatureArray", columns)

    def views(self, tap: str, rows: int = 8192) -> Iterator[tuple[FeatureArray, ...]]:
        """The views of :meth:`blocks` of every tap that is joined, side by side, without a copy."""
        for views in side_by_side([self._mapped(name) for name in self._names(tap)], rows):
            yield cast("tuple[FeatureArray, ...]", views)

    def maps(self, tap: str) -> tuple[FeatureArray, ...]:
        """One read-only ``np.memmap`` (m, d) per shard file, in row order; none when n is 0.

        ``tap`` is a single one: joined ones have no map.
        """
        return tuple(cast("FeatureArray", mapped) for mapped in self._mapped(tap).maps)

    def array(self, tap: str) -> FeatureArray:
        """All rows as one map.

        Parameters
        ----------
        tap : a single one, such as ``embedding``.

        Returns
        -------
        Read-only ``np.memmap`` (n, d) in the storage dtype; when n is 0, an empty array.

        Raises
        ------
        StoreError : the split has several shard files: use :meth:`blocks` or :meth:`maps`.
        """
        maps = self.maps(tap)
        if len(maps) > 1:
            raise StoreError(
                f"{self.path}: {tap} lies in {len(maps)} shard files, which one map cannot cover",
                hint="use split.blocks(tap) or split.maps(tap); np.concatenate(split.maps(tap)) "
                f"copies all {self.n} rows into memory",
            )
        return maps[0] if maps else np.empty((0, self.dim(tap)), self.dtype)

    def rows(self, indices: NDArray[np.integer] | Sequence[int], tap: str) -> FeatureArray:
        """Copy of some rows; a small share of them is read page by page, without those around.

        Parameters
        ----------
        indices : (m,) integers in [0, n).
        tap : such as ``embedding``; several are joined by ``+``.

        Returns
        -------
        (m, d) in the storage dtype, in the order of ``indices``.

        Raises
        ------
        IndexError : an index is not in [0, n).
        """
        wanted = np.asarray(indices, np.int64).reshape(-1)
        if len(wanted) and (wanted.min() < 0 or wanted.max() >= self.n):
            raise IndexError(f"rows {wanted.min()}..{wanted.max()} of a split of {self.n}")
        taken = [self._mapped(name).take(wanted) for name in self._names(tap)]
        return cast("FeatureArray", taken[0] if len(taken) == 1 else np.concatenate(taken, axis=1))

    def zarr(self) -> "zarr.Group":
        """The split as a read-only Zarr group for xarray, dask, ...; reading through it copies.

        Everything is verified first, since Zarr verifies nothing.
        """
        import zarr  # here, since it takes half a second, and the maps do without

        self.arrays.all()
        return zarr.open_group(self.path / DATA_FOLDER, mode="r", use_consolidated=False)

    def verify(self, tap: str) -> None:
        """Verify the features of a tap, the labels and the keys now, not when first read.

        Raises
        ------
        IntegrityError : a file, a row, a label or a key is not what was committed.
        """
        for name in self._names(tap):
            self._mapped(name)
        _ = self.labels, self.keys

    def verification(self) -> Verification:
        """What was verified so far."""
        sizes = [file.digest.bytes for array in self.arrays.verified for file in array.files]
        return Verification("crc32c of files, values of rows", len(sizes), sum(sizes))

    def check_unchanged(self) -> None:
        """Refuse, by an IntegrityError, verified files that changed, or are gone, since opened.

        After the last pass over rows, this says that every pass read what was verified.
        """
        self.arrays.check_unchanged()

    def _names(self, tap: str) -> tuple[str, ...]:
        try:
            return joined_taps(tap, self.encoder_spec)
        except NotFoundError as error:
            raise NotFoundError(f"{self.path}: {error.message}", hint=error.hint) from None

    def _mapped(self, tap: str) -> MappedArray:
        names = self._names(tap)
        if len(names) > 1:
            raise StoreError(
                f"{self.path}: {tap} are {len(names)} taps, which one map cannot cover",
                hint="use split.blocks(tap), or the maps of one tap after the other",
            )
        return self.arrays.read_features(names[0])
