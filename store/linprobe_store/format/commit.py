"""``COMMIT.json``: what says that a unit is complete, and what every file of it must be."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Literal, TypeVar, cast

from linprobe import records
from linprobe.errors import REPAIR, IntegrityError, MismatchError
from linprobe.records import JsonValue, NonNegative
from linprobe.terminal import command
from linprobe_store.format.checksums import FileDigest, check_content, check_size
from linprobe_store.format.layout import COMMIT_FILE, FORMAT_FIELDS, FORMAT_NAME, FORMAT_VERSION
from linprobe_store.format.spec import ShardFingerprint, SkippedSample, StorageDtype, Tap


@dataclass(frozen=True)
class FileTable:
    """Files of a unit and what each of them must be."""

    files: Mapping[str, FileDigest]
    """Every file but the one that holds this table, by its path below the unit's folder."""

    def __post_init__(self) -> None:
        for name in self.files:
            if not {"", ".", ".."}.isdisjoint(name.split("/")) or "\0" in name:
                raise ValueError(f"bad path {name!r} among its files")

    @property
    def n_bytes(self) -> int:
        """Bytes of the files."""
        return sum(digest.bytes for digest in self.files.values())


@dataclass(frozen=True)
class Signed:
    """What every signed file of a store says beside its own fields."""

    format: Literal["linprobe-store"]
    """Name of the format."""
    version: Literal[3]
    """Version of the format."""
    digest: str
    """Sha256 of the canonical JSON of all other fields, 64 hex digits."""


@dataclass(frozen=True)
class UnitContents(FileTable):
    """What a part and a sealed split have in common."""

    encoder_id: str
    """Encoder that made the features, 64 hex digits."""
    rows: NonNegative
    """Number of samples n."""
    taps: tuple[Tap, ...]
    """Taps stored, in the order of the encoder's spec."""
    dtype: StorageDtype
    """Dtype of the features."""
    n_label_columns: NonNegative | None
    """None for class ids (n,) int64; k for multi-hot labels (n, k) uint8."""
    has_image_digests: bool
    """Whether the array ``image_sha256`` is there: not for imported features, nor without rows."""


@dataclass(frozen=True)
class PartCommit(UnitContents, Signed):
    """A committed part: the features of one source tar."""

    kind: Literal["part"]
    """What the unit is."""
    shard: ShardFingerprint
    """Source tar."""
    skipped: tuple[SkippedSample, ...]
    """Every sample of the tar that has no row, with the reason."""
    batch_size: NonNegative
    """Batch size of the run that made it; features do not depend on it beyond rounding."""
    labelling: str
    """How the writer read the labels, in its own words; labels read in another way are others."""


@dataclass(frozen=True)
class PartRows:
    """Where the rows of one source tar lie in a sealed split."""

    shard: ShardFingerprint
    """Source tar."""
    row_start: NonNegative
    """First row."""
    rows: NonNegative
    """Number of rows."""
    skipped: tuple[SkippedSample, ...]
    """Every sample of the tar that has no row, with the reason."""


@dataclass(frozen=True)
class SplitCommit(UnitContents, Signed):
    """A sealed split; the same rows always give the same digest."""

    kind: Literal["split"]
    """What the unit is."""
    dataset_id: str
    """Dataset, 64 hex digits."""
    split: str
    """Name of the split."""
    parts: tuple[PartRows, ...]
    """Source tars in row order."""

    def __post_init__(self) -> None:
        super().__post_init__()
        starts = accumulate((part.rows for part in self.parts), initial=0)
        if [*starts] != [*(part.row_start for part in self.parts), self.rows]:
            raise ValueError(f"expected parts one after another, of {self.rows} rows in all")
        if weak := [name for name, digest in self.files.items() if digest.sha256 is None]:
            raise ValueError(f"expected a sha256 of every file, found none of {weak[0]!r}")


Record = TypeVar("Record", bound=Signed)


def sign(kind: str, *fields: object) -> bytes:
    """Bytes of a signed file of some kind, with the fields of dataclasses and mappings."""
    body = {**FORMAT_FIELDS, "kind": kind}
    for group in fields:
        body |= cast("dict[str, JsonValue]", records.plain(group))
    return records.canonical_json({**body, "digest": records.digest_json(body)})


def parse_signed(kind: type[Record], data: bytes, place: str) -> Record:
    """Read, check a signed file; MismatchError for another version, IntegrityError for damage."""
    fields = cast("dict[str, JsonValue]", records.parse(dict[str, object], data, place))
    if isinstance(name := fields.get("format"), str) and "version" in fields:
        check_version(name, fields["version"], place)
    record = records.parse(kind, fields, place)
    check_digest(fields, place)
    return record


def check_digest(fields: JsonValue, place: str) -> None:
    """Refuse, by an IntegrityError, a signed record whose fields are not those of its digest."""
    body = dict(cast("Mapping[str, JsonValue]", fields))
    expected, digest = str(body.pop("digest")), records.digest_json(body)
    if digest != expected:
        message = f"{place}: expected digest {expected[:12]}, found {digest[:12]}"
        raise IntegrityError(message, hint=REPAIR)


def read_commit(kind: type[Record], unit: Path) -> Record:
    """Read and check the commit of a unit; raises as :func:`parse_signed` does."""
    path = unit / COMMIT_FILE
    return parse_signed(kind, records.read_bytes(path), str(path))


def check_version(name: str, version: object, place: str) -> None:
    """Refuse, by a MismatchError, another format or another version of ours."""
    if (name, version) != (FORMAT_NAME, FORMAT_VERSION):
        is_older = name == FORMAT_NAME and version in range(1, FORMAT_VERSION)
        reason = ", whose rows do not say of which image they are" if is_older else ""
        raise MismatchError(
            f"{place}: expected format {FORMAT_NAME} {FORMAT_VERSION}, found {name} {version}"
            f"{reason}",
            hint="use the release of linprobe that wrote this store; or fill a new --store by "
            f"{command('extract')} or {command('store import')}",
        )


def check_origin(unit: Path, *pairs: tuple[str, object, object]) -> None:
    """Refuse, by a MismatchError, a unit of another origin than its folders say.

    Each pair: what is compared, what the folders say, what the commit says.
    """
    for what, expected, committed in pairs:
        if expected != committed:
            raise MismatchError(
                f"{unit}: expected {what} {expected}, found {committed}",
                hint="a folder of another store was moved here: move it back, or remove it",
            )


def check_files(
    unit: Path, files: Mapping[str, FileDigest], level: Literal["sizes", "open", "crc32c", "deep"]
) -> None:
    """Check a unit against its file table, or raise an IntegrityError that names the file.

    ``sizes``: every file is there at its exact size; ``open``: and the metadata has its content;
    ``crc32c``: every byte of every file; ``deep``: by its sha256 too, where it has one.
    """
    for name, expected in files.items():
        if level in ("crc32c", "deep") or (level == "open" and name.endswith("zarr.json")):
            check_content(unit / name, expected, strong=level == "deep")
        else:
            check_size(unit / name, expected.bytes)
