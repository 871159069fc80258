"""An encoder in the store: its identity, its parts and its sealed datasets."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from linprobe.disk import refuse_links, write_atomic
from linprobe.errors import MismatchError, NotFoundError
from linprobe.names import check_class_names, short_id
from linprobe.records import canonical_json, plain, read_bytes
from linprobe.terminal import Watch, command, ignore
from linprobe_store.arrays.keys import Keys
from linprobe_store.arrays.part import PartWriter, find_part, part_names, part_path
from linprobe_store.arrays.seal import ReadLabels, SealTarget, seal_parts
from linprobe_store.arrays.unit_maps import UnitArrays, map_unit
from linprobe_store.format import layout
from linprobe_store.format.commit import PartCommit
from linprobe_store.format.names import parse_names, sign_names
from linprobe_store.format.spec import (
    DatasetNames,
    DatasetSpec,
    EncoderNames,
    EncoderSpec,
    FeatureArray,
    LabelArray,
    ShardFingerprint,
    parse_spec,
)
from linprobe_store.handles import lookup, witness
from linprobe_store.handles.dataset import StoredDataset
from linprobe_store.handles.folders import check_full_id, make_folder, open_made
from linprobe_store.handles.lookup import Listing
from linprobe_store.handles.newest import newest
from linprobe_store.handles.split import Split
from linprobe_store.handles.witness import Provenance


@dataclass(frozen=True)
class StoredEncoder:
    """An encoder of a store; made by ``FeatureStore.encoder`` and ``register_encoder``.

    Examples
    --------
    >>> encoder = FeatureStore("features").encoder()
    >>> encoder.names.model, [(tap.name, tap.dim) for tap in encoder.spec.taps]    # d of (n, d)
    ('ViT-T/8', [('embedding', 12)])
    """

    spec: EncoderSpec
    """What its features are a function of."""
    names: EncoderNames
    """What people call it."""
    path: Path
    """Its folder."""

    @property
    def encoder_id(self) -> str:
        """Sha256 of the spec, 64 hex digits."""
        return self.spec.encoder_id

    @property
    def short_id(self) -> str:
        """First 12 hex digits of the id."""
        return short_id(self.encoder_id)

    def committed_part(self, shard: ShardFingerprint) -> PartCommit | None:
        """Commit of the part of a source tar, or None when there is none yet.

        Raises
        ------
        IntegrityError : the part is there and damaged.
        MismatchError : it is of another encoder, source tar or version of the format.
        """
        return find_part(self.path, self.spec, shard)

    def part_names(self) -> frozenset[str]:
        """Names of the folders of its parts, as :func:`part_name` gives them, by one listing.

        A part that is listed was committed whole; damage since then is found by who reads it.
        """
        return part_names(self.path)

    def has_part(self, shard: ShardFingerprint) -> bool:
        """Whether the part of a source tar is there by now; it is not looked into."""
        return part_path(self.path, shard).exists()

    def part_labels(self, shard: ShardFingerprint) -> LabelArray:
        """Labels (n,) int64 or (n, k) uint8 of a tar's part; a NotFoundError where it has none."""
        return self._part(shard).read_labels()

    def _part(self, shard: ShardFingerprint) -> UnitArrays:
        part = self.committed_part(shard)
        if part is None:
            raise NotFoundError(
                f"{self.path}: '{shard.name}' has no part", hint=f"{command('extract')} makes it"
            )
        return map_unit(part_path(self.path, shard), part)

    def part_keys(self, shard: ShardFingerprint) -> Keys:
        """Keys (n,) of a tar's part; a NotFoundError where it has none."""
        return self._part(shard).read_keys()

    def part_writer(self, shard: ShardFingerprint) -> PartWriter:
        """Writer of a tar's part, for a ``with``; a StoreError where it cannot be written."""
        return PartWriter(self.path, self.spec, shard)

    def seal(
        self, dataset: DatasetSpec, split: str, *, names: DatasetNames,
        read_labels: ReadLabels | None = None,
    ) -> Split:  # fmt: skip
        """Seal the parts of a split, in shard-list order, if need be, and open it.

        Parameters
        ----------
        dataset : the dataset, whose shards say which parts and in which order.
        split : one of its splits, such as ``train``.
        names : as in :meth:`register_dataset`.
        read_labels : gives the labels of a part that were read in another way.

        Raises
        ------
        NotFoundError : the dataset has no such split, or parts are missing.
        IntegrityError : a part is damaged.
        MismatchError : labels outside the classes, or parts of another encoder.
        StoreError : a key comes twice, or the disk refuses.
        """
        layout.check_split_name(split)
        stored = self.register_dataset(dataset, names)
        path = stored.path / split
        if not path.exists():
            seal_parts(SealTarget(path, self.spec, dataset, split), self.path, read_labels)
        return stored.split(split)

    def datasets(self) -> tuple[StoredDataset, ...]:
        """Datasets with sealed splits, sorted by folder name; those that can be opened."""
        return self.listing().sound

    def listing(self) -> Listing[StoredDataset]:
        """Its datasets, and what is among them that cannot be opened."""
        folder = self.path / layout.SETS_FOLDER
        return lookup.open_folders(folder, layout.DATASET_PREFIX, "dataset", self.open_dataset)

    def dataset(self, query: str | None = None, watch: Watch = ignore) -> StoredDataset:
        """A dataset by its name, the beginning of its id, or its folder name.

        Parameters
        ----------
        query : None means the only dataset of the encoder. Of several with one name, it means the
            newest; the others are reached by their ids.
        watch : sees a line for every dataset that cannot be opened, and for a name of several.

        Raises
        ------
        NotFoundError : nothing matches; lists what is there.
        StoreError : several match, and lists them; or the one that does cannot be opened.
        """
        listing = self.listing()
        listing.tell(watch)
        named = [dataset for dataset in listing.sound if query in (None, dataset.name)]
        older = {dataset.path for dataset in named}
        older -= {dataset.path for dataset in newest(named, watch)}
        sound = tuple(dataset for dataset in listing.sound if dataset.path not in older)
        return lookup.choose(
            replace(listing, sound=sound),
            query,
            what="dataset",
            place=self.path,
            names=lambda dataset: (dataset.dataset_id, dataset.name, dataset.path.name),
        )

    def register_dataset(self, spec: DatasetSpec, names: DatasetNames) -> StoredDataset:
        """The dataset of a spec, made if it is new; safe to repeat and to race.

        Parameters
        ----------
        names : what people call it, and its headline metric; the first given to an id stay.

        Raises
        ------
        IntegrityError : it is there already, and damaged.
        MismatchError : class names that cannot be told apart or printed; another dataset has the
            same first 12 digits.
        StoreError : the store cannot be written to.
        """
        if spec.classes:  # a dataset without rows has none
            check_class_names(spec.classes, names.name, error=MismatchError)
        files = {
            layout.DATASET_FILE: canonical_json(plain(spec)),
            layout.NAMES_FILE: sign_names(names, spec.dataset_id),
        }
        parent = self.path / layout.SETS_FOLDER
        folder = make_folder(parent, layout.DATASET_PREFIX, names.name, spec.dataset_id, files)
        stored = open_made(folder, self.open_dataset)
        check_full_id(folder, spec.dataset_id, stored.dataset_id)
        declared = stored.names.completed(names)
        if declared != stored.names:
            refuse_links(self.path, parent, folder)
            write_atomic(folder / layout.NAMES_FILE, sign_names(declared, spec.dataset_id))
            return open_made(folder, self.open_dataset)
        return stored

    def open_dataset(self, folder: Path) -> StoredDataset:
        """Open the folder of a dataset; an IntegrityError if it is not what its name says."""
        file = folder / layout.DATASET_FILE
        spec = parse_spec(DatasetSpec, read_bytes(file), str(file), lookup.folder_digits(folder))
        names_file = folder / layout.NAMES_FILE
        names_data = read_bytes(names_file, limit=layout.MAX_NAMES_BYTES)
        names = parse_names(DatasetNames, names_data, str(names_file), spec.dataset_id)
        return StoredDataset(self.spec, self.names, spec, names, folder)

    def record_provenance(self, entry: Provenance) -> None:
        """Append a run to ``provenance.jsonl``."""
        witness.append_provenance(self.path, entry)

    def record_taken(self, shard: ShardFingerprint, rows: Mapping[str, str]) -> None:
        """Append to ``provenance.jsonl`` which rows of a tar's part are from which units."""
        witness.append_taken(self.path, part_path(self.path, shard).name, rows)

    def provenance(self) -> tuple[Provenance, ...]:
        """Runs that wrote features of this encoder, oldest first."""
        return witness.read_runs(self.path)

    def canary(self) -> Mapping[str, FeatureArray] | None:
        """Canary features (m, d) by tap; None before :meth:`check_canary` stored them."""
        return witness.read_canary(self.path)

    def check_canary(self, features: Mapping[str, FeatureArray]) -> None:
        """Compare this machine's canary features with the stored ones; the first call stores.

        Parameters
        ----------
        features : canary features (m, d) by tap, in the storage dtype.

        Raises
        ------
        MismatchError : other taps or shapes, a cosine below 0.9999 (0.999 in bf16), or a norm
            that differs by more than 1 % (5 % in 16 bits).
        """
        witness.check_canary(self.path, features, self.spec)


def open_encoder(folder: Path) -> StoredEncoder:
    """Open the folder of an encoder, or raise an IntegrityError if it is not what its name says."""
    file = folder / layout.ENCODER_FILE
    data = read_bytes(file, limit=layout.MAX_ENCODER_BYTES)
    spec = parse_spec(EncoderSpec, data, str(file), lookup.folder_digits(folder))
    names_file = folder / layout.NAMES_FILE
    names_data = read_bytes(names_file, limit=layout.MAX_NAMES_BYTES)
    names = parse_names(EncoderNames, names_data, str(names_file), spec.encoder_id)
    return StoredEncoder(spec, names, folder)
