"""A dataset in the store: its spec and its sealed splits, for one encoder."""

from dataclasses import dataclass
from pathlib import Path

from linprobe.disk import STAGING_PREFIX
from linprobe.errors import NotFoundError, StoreError
from linprobe.terminal import command
from linprobe_store.arrays.unit_maps import map_unit
from linprobe_store.format.commit import SplitCommit, check_files, check_origin, read_commit
from linprobe_store.format.layout import COMMIT_FILE, PACKED_FILE
from linprobe_store.format.spec import DatasetNames, DatasetSpec, EncoderNames, EncoderSpec
from linprobe_store.handles.lookup import list_folders, reading
from linprobe_store.handles.split import Split
from linprobe_store.handles.witness import Provenance, read_runs


@dataclass(frozen=True)
class StoredDataset:
    """A dataset for which an encoder has sealed splits; made by ``StoredEncoder.dataset``.

    Examples
    --------
    >>> dataset = FeatureStore("features").encoder().dataset("toys")
    >>> dataset.splits, dataset.split("test").array("embedding").shape    # (n, d)
    (('test', 'train'), (60, 12))
    """

    encoder_spec: EncoderSpec
    """Encoder that made the features."""
    encoder_names: EncoderNames
    """What people call the encoder."""
    spec: DatasetSpec
    """Identity of the dataset."""
    names: DatasetNames
    """What is declared about it; not hashed."""
    path: Path
    """Folder of the dataset."""

    @property
    def name(self) -> str:
        """What people call it."""
        return self.names.name

    @property
    def metric(self) -> str | None:
        """Its headline metric; None where nobody declared one."""
        return self.names.metric

    @property
    def dataset_id(self) -> str:
        """Sha256 of the spec, 64 hex digits."""
        return self.spec.dataset_id

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the sealed splits, sorted; packed and damaged ones are among them.

        A StoreError where the folder cannot be listed.
        """
        known = {split.name for split in self.spec.splits}
        with reading(self.path):
            return tuple(
                path.name
                for path in list_folders(self.path)
                if not path.name.startswith((STAGING_PREFIX, "."))
                and (path.is_dir() or path.is_symlink() or path.name in known)
            )

    def split(self, name: str) -> Split:
        """Open and verify a sealed split, in milliseconds: its features are mapped and not read.

        Parameters
        ----------
        name : ``train``, ``val`` or ``test``.

        Raises
        ------
        NotFoundError : it is not sealed.
        IntegrityError : it is damaged.
        MismatchError : it is of another encoder, dataset or version of the format.
        StoreError : it is packed for transfer.
        """
        path = self.split_path(name)
        with reading(path):
            return self._open(path)

    def _open(self, path: Path) -> Split:
        commit = self._commit(path)
        check_files(path, commit.files, "open")
        encoder, dataset = (self.encoder_spec, self.encoder_names), (self.spec, self.names)
        return Split(*encoder, *dataset, path, commit, map_unit(path, commit))

    def commit(self, name: str) -> SplitCommit:
        """Commit of a sealed split, whose files are there in their sizes; raises as :meth:`split`.

        A tenth of what opening takes: nothing is mapped, and no content looked at.
        """
        path = self.split_path(name)
        with reading(path):
            commit = self._commit(path)
            check_files(path, commit.files, "sizes")
            return commit

    def _commit(self, path: Path) -> SplitCommit:
        if is_packed_split(path):
            raise StoreError(
                f"{path}: packed for transfer, cannot be mapped",
                hint=f"unpack it into a store: {command('store copy', 'SOURCE', 'TARGET')}",
            )
        commit = read_commit(SplitCommit, path)
        self.check_commit(path, commit)
        return commit

    def check_commit(self, path: Path, commit: SplitCommit) -> None:
        """Refuse, by a MismatchError, the commit of another split than the folder says."""
        check_origin(
            path,
            ("encoder", self.encoder_spec.encoder_id, commit.encoder_id),
            ("dataset", self.dataset_id, commit.dataset_id),
            ("split", path.name, commit.split),
            ("taps", self.encoder_spec.taps, commit.taps),
            ("dtype", self.encoder_spec.storage_dtype, commit.dtype),
        )

    def split_path(self, name: str) -> Path:
        """Folder of a sealed split, which may be damaged; a NotFoundError where there is none."""
        if name not in self.splits:
            sealed = ", ".join(self.splits) or "none"
            raise NotFoundError(
                f"{self.path}: split {name!r} is not sealed",
                hint=f"sealed are: {sealed}; {command('extract')} makes the rest",
            )
        return self.path / name

    def provenance(self) -> tuple[Provenance, ...]:
        """Runs that wrote features of its encoder, oldest first."""
        return read_runs(self.path.parents[1])


def is_packed_split(path: Path) -> bool:
    """Whether the folder of a split holds the packed form, which cannot be mapped."""
    return (path / PACKED_FILE).exists() and not (path / COMMIT_FILE).exists()
