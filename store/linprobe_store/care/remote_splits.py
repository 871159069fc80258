"""The sealed splits of a store at any place, found through its small files alone."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from linprobe.disk import STAGING_PREFIX
from linprobe.errors import NotFoundError
from linprobe.records import JsonObject, parse_json
from linprobe_store.care.packed import packed_commit, packed_files
from linprobe_store.care.place import Place, read_small
from linprobe_store.format.checksums import FileDigest
from linprobe_store.format.commit import SplitCommit, check_signature, split_commit_from
from linprobe_store.format.layout import (
    COMMIT_FILE,
    DATASET_FILE,
    DATASET_PREFIX,
    ENCODER_FILE,
    ENCODER_PREFIX,
    FORMAT_FILE,
    NAMES_FILE,
    PACKED_FILE,
    SETS_FOLDER,
)
from linprobe_store.format.spec import (
    DatasetNames,
    DatasetSpec,
    EncoderNames,
    EncoderSpec,
    check_id,
    dataset_names_from,
    dataset_spec_from,
    encoder_names_from,
    encoder_spec_from,
)
from linprobe_store.handles.lookup import choose, folder_digits
from linprobe_store.handles.store import check_format_line


@dataclass(frozen=True)
class SourceSplit:
    """A sealed or packed split at some place."""

    spec: EncoderSpec
    """Encoder."""
    names: EncoderNames
    """What people call the encoder."""
    encoder_folder: str
    """Folder of the encoder, relative to the place."""
    dataset: DatasetSpec
    """Dataset."""
    dataset_names: DatasetNames
    """What is declared about the dataset."""
    dataset_folder: str
    """Folder of the dataset, relative to the place."""
    name: str
    """``train``, ``val`` or ``test``."""
    commit: SplitCommit
    """Commit of the sealed split, which a packed one carries too."""
    files: Mapping[str, FileDigest]
    """Files to move, by path below :attr:`folder`: those of the commit, or the packed ones."""
    is_packed: bool
    """Whether the split is packed."""
    marker_bytes: bytes
    """Content of the file that says that the split is complete."""

    @property
    def folder(self) -> str:
        """Folder of the split, relative to the place."""
        return f"{self.dataset_folder}/{self.name}"

    @property
    def marker(self) -> str:
        """Name of the file that says that the split is complete."""
        return PACKED_FILE if self.is_packed else COMMIT_FILE

    def packed(self, folder: Path) -> "SourceSplit":
        """The same split in the packed form that lies in a local ``folder``."""
        data = (folder / PACKED_FILE).read_bytes()
        files = packed_files(parse_json(data, str(folder / PACKED_FILE)))
        return replace(self, files=files, is_packed=True, marker_bytes=data)


@dataclass(frozen=True)
class _Folder:
    """A folder of an encoder or dataset, read from its small files."""

    path: str
    spec: JsonObject
    names: JsonObject


def list_splits(place: Place, encoder: str | None, dataset: str | None) -> tuple[SourceSplit, ...]:
    """Sealed and packed splits of a store.

    Parameters
    ----------
    encoder, dataset : by name or id; None means all.

    Raises
    ------
    NotFoundError : not a store, or nothing matches.
    IntegrityError : a spec or commit is damaged.
    MismatchError : the store is of another version of the format.
    """
    line = read_small(place, FORMAT_FILE)
    check_format_line(line.decode(errors="replace"), f"{place.label}/{FORMAT_FILE}")
    encoders = [
        (folder, encoder_spec_from(folder.spec), encoder_names_from(folder.names))
        for folder in _spec_folders(place, "", ENCODER_PREFIX, ENCODER_FILE)
    ]
    if encoder is not None:
        encoders = [
            choose(
                encoders,
                encoder,
                what="encoder",
                place=place.label,
                names=lambda e: (e[1].encoder_id, e[2].slug, e[2].model),
            )
        ]
    found: list[SourceSplit] = []
    for folder, spec, names in encoders:
        check_id(folder.spec.place, spec.encoder_id, folder_digits(Path(folder.path)))
        found += _dataset_splits(place, folder.path, spec, names, dataset)
    if not found:
        raise NotFoundError(
            f"{place.label}: no sealed split{f' of dataset {dataset!r}' if dataset else ''}",
            hint="look what is there with 'linprobe store ls'",
        )
    return tuple(found)


def _dataset_splits(
    place: Place, encoder: str, spec: EncoderSpec, names: EncoderNames, dataset: str | None
) -> Iterator[SourceSplit]:
    for folder in _spec_folders(place, f"{encoder}/{SETS_FOLDER}", DATASET_PREFIX, DATASET_FILE):
        dataset_spec = dataset_spec_from(folder.spec)
        dataset_names = dataset_names_from(folder.names)
        check_id(folder.spec.place, dataset_spec.dataset_id, folder_digits(Path(folder.path)))
        is_named = dataset in (None, dataset_names.name)
        if not is_named and not dataset_spec.dataset_id.startswith(str(dataset)):
            continue
        for split in place.folders(folder.path):
            if split.startswith((STAGING_PREFIX, ".")):
                continue
            is_packed, data, commit, files = _read_marker(place, f"{folder.path}/{split}")
            yield SourceSplit(
                spec, names, encoder, dataset_spec, dataset_names, folder.path, split,
                commit, files, is_packed, data,
            )  # fmt: skip


def _read_marker(
    place: Place, folder: str
) -> tuple[bool, bytes, SplitCommit, Mapping[str, FileDigest]]:
    is_packed = place.size(f"{folder}/{COMMIT_FILE}") is None and (
        place.size(f"{folder}/{PACKED_FILE}") is not None
    )
    name = f"{folder}/{PACKED_FILE if is_packed else COMMIT_FILE}"
    data = read_small(place, name)
    signed = parse_json(data, f"{place.label}/{name}")
    if is_packed:
        return True, data, packed_commit(signed), packed_files(signed)
    check_signature(signed, "split")
    commit = split_commit_from(signed)
    return False, data, commit, commit.contents.files


def _spec_folders(place: Place, parent: str, prefix: str, spec_file: str) -> Iterator[_Folder]:
    for name in place.folders(parent):
        if name.startswith(prefix):
            path = f"{parent}/{name}".lstrip("/")
            files = [f"{path}/{file}" for file in (spec_file, NAMES_FILE)]
            spec, names = (parse_json(read_small(place, f), f"{place.label}/{f}") for f in files)
            yield _Folder(path, spec, names)
