"""``COMMIT.json``: what says that a unit is complete, and what its files must be.

The file table of a unit: what every file must be.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from linprobe.errors import REPAIR, IntegrityError, MismatchError
from linprobe.records import JsonObject, JsonValue, canonical_json, digest_json, read_json
from linprobe_store.format.checksums import FileDigest, check_content, check_size
from linprobe_store.format.layout import COMMIT_FILE, FORMAT_NAME, FORMAT_VERSION
from linprobe_store.format.spec import (
    ShardFingerprint,
    SkippedSample,
    StorageDtype,
    Tap,
    shard_from,
    storage_dtype_from,
    taps_from,
)


def check_files(
    unit: Path, files: Mapping[str, FileDigest], level: Literal["open", "deep"]
) -> None:
    """Check a unit against its file table.

    ``open``: every file is there at its exact size, and the metadata has its exact content.
    ``deep``: every byte of every file.

    Raises
    ------
    IntegrityError : naming the file, what was expected and what was found.
    """
    for name, expected in files.items():
        if level == "deep":
            check_content(unit / name, expected, strong=True)
        elif name.endswith("zarr.json"):
            check_content(unit / name, expected)
        else:
            check_size(unit / name, expected)


def file_table_from(json: JsonObject) -> Mapping[str, FileDigest]:
    """File table of a signed JSON object; refuses paths that leave the unit's folder."""
    table = json.object("files")
    files = {}
    for name in table.fields:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or str(path) != name:
            raise IntegrityError(f"{json.place}: bad path {name!r} among its files", hint=REPAIR)
        entry = table.object(name)
        sha256 = None if entry.get("sha256") is None else entry.text("sha256")
        files[name] = FileDigest(entry.integer("bytes"), entry.text("crc32c"), sha256)
    return files


@dataclass(frozen=True)
class UnitContents:
    """What a part and a sealed split have in common."""

    encoder_id: str
    """Encoder that made the features, 64 hex digits."""
    rows: int
    """Number of samples n."""
    taps: tuple[Tap, ...]
    """Taps stored, in the order of the encoder's spec."""
    dtype: StorageDtype
    """Dtype of the features."""
    n_label_columns: int | None
    """None for class ids (n,) int64; k for multi-hot labels (n, k) uint8."""
    files: Mapping[str, FileDigest]
    """Every file of the unit but ``COMMIT.json``, by its path below the unit's folder."""


@dataclass(frozen=True)
class PartCommit:
    """A committed part: the features of one source tar."""

    shard: ShardFingerprint
    """Source tar."""
    contents: UnitContents
    """Rows, taps, dtype and files."""
    skipped: tuple[SkippedSample, ...]
    """Every sample of the tar that has no row, with the reason."""
    batch_size: int
    """Batch size of the run that made it; features do not depend on it beyond rounding."""
    labelling: str
    """How the writer read the labels, in its own words; labels read in another way are others."""
    digest: str
    """Sha256 of the commit, 64 hex digits."""

    @property
    def rows(self) -> int:
        """Number of samples n."""
        return self.contents.rows

    @property
    def taps(self) -> tuple[Tap, ...]:
        """Taps stored."""
        return self.contents.taps

    @property
    def dtype(self) -> StorageDtype:
        """Dtype of the features."""
        return self.contents.dtype

    @property
    def skipped_by_reason(self) -> Mapping[str, int]:
        """Number of skipped samples by reason."""
        return count_reasons(self.skipped)


@dataclass(frozen=True)
class PartRows:
    """Where the rows of one source tar lie in a sealed split."""

    shard: ShardFingerprint
    """Source tar."""
    row_start: int
    """First row."""
    rows: int
    """Number of rows."""
    skipped_by_reason: Mapping[str, int]
    """Samples of the tar that have no row, counted by reason."""


@dataclass(frozen=True)
class SplitCommit:
    """A sealed split."""

    dataset_id: str
    """Dataset, 64 hex digits."""
    split: str
    """Name of the split."""
    contents: UnitContents
    """Rows, taps, dtype and files."""
    parts: tuple[PartRows, ...]
    """Source tars in row order."""
    digest: str
    """Sha256 of the commit, 64 hex digits; the same rows always give the same digest."""


def count_reasons(skipped: tuple[SkippedSample, ...]) -> Mapping[str, int]:
    """Count skipped samples by reason, reasons in alphabetical order."""
    reasons = sorted(sample.reason for sample in skipped)
    return {reason: reasons.count(reason) for reason in dict.fromkeys(reasons)}


def part_commit_json(
    contents: UnitContents,
    shard: ShardFingerprint,
    skipped: tuple[SkippedSample, ...],
    batch_size: int,
    labelling: str,
) -> bytes:
    """Bytes of ``COMMIT.json`` of a part."""
    own: dict[str, JsonValue] = {
        "shard": asdict(shard),
        "skipped": [asdict(sample) for sample in skipped],
        "batch_size": batch_size,
        "labelling": labelling,
    }
    return _signed("part", contents, own)


def split_commit_json(
    contents: UnitContents, dataset_id: str, split: str, parts: tuple[PartRows, ...]
) -> bytes:
    """Bytes of ``COMMIT.json`` of a sealed split."""
    own: dict[str, JsonValue] = {
        "dataset_id": dataset_id,
        "split": split,
        "parts": [asdict(part) for part in parts],
    }
    return _signed("split", contents, own)


def _signed(kind: str, contents: UnitContents, own: Mapping[str, JsonValue]) -> bytes:
    head: dict[str, JsonValue] = {"format": FORMAT_NAME, "version": FORMAT_VERSION, "kind": kind}
    body = {**head, **asdict(contents), **own}
    return canonical_json({**body, "digest": digest_json(body)})


def read_part_commit(unit: Path) -> PartCommit:
    """Read and check the commit of a part.

    Raises
    ------
    IntegrityError : missing, damaged, or not of a part.
    MismatchError : written in another version of the format.
    """
    json = _read_signed(unit, "part")
    return PartCommit(
        shard=shard_from(json.object("shard")),
        contents=_contents_from(json),
        skipped=tuple(
            SkippedSample(s.text("key"), s.text("reason")) for s in json.objects("skipped")
        ),
        batch_size=json.integer("batch_size"),
        labelling=json.text("labelling"),
        digest=json.text("digest"),
    )


def read_split_commit(unit: Path) -> SplitCommit:
    """Read and check the commit of a sealed split.

    Raises
    ------
    IntegrityError : missing, damaged, or not of a split.
    MismatchError : written in another version of the format.
    """
    return split_commit_from(_read_signed(unit, "split"))


def split_commit_from(json: JsonObject) -> SplitCommit:
    """Commit of a sealed split from its JSON, whose digest is already checked."""
    return SplitCommit(
        dataset_id=json.text("dataset_id"),
        split=json.text("split"),
        contents=_contents_from(json),
        parts=tuple(_part_rows_from(part) for part in json.objects("parts")),
        digest=json.text("digest"),
    )


def check_signature(json: JsonObject, kind: str) -> None:
    """Check the format, version, kind and digest of a signed JSON object.

    Raises
    ------
    IntegrityError : damaged, or of another kind.
    MismatchError : written in another version of the format.
    """
    check_version(json.text("format"), json.integer("version"), json.place)
    expected = json.text("digest")
    found = digest_json({k: v for k, v in json.fields.items() if k != "digest"})
    if found != expected:
        raise IntegrityError(
            f"{json.place}: expected digest {expected[:12]}, found {found[:12]}", hint=REPAIR
        )
    json.one_of("kind", kind)


def check_version(name: str, version: int, place: str) -> None:
    """Refuse another format or another version of ours.

    Raises
    ------
    MismatchError : naming both.
    """
    if (name, version) != (FORMAT_NAME, FORMAT_VERSION):
        raise MismatchError(
            f"{place}: expected format {FORMAT_NAME} {FORMAT_VERSION}, found {name} {version}",
            hint="use the release of linprobe that wrote this store",
        )


def _read_signed(unit: Path, kind: str) -> JsonObject:
    json = read_json(unit / COMMIT_FILE)
    check_signature(json, kind)
    return json


def _contents_from(json: JsonObject) -> UnitContents:
    columns = json.get("n_label_columns")
    return UnitContents(
        encoder_id=json.text("encoder_id"),
        rows=json.integer("rows"),
        taps=taps_from(json),
        dtype=storage_dtype_from(json, "dtype"),
        n_label_columns=None if columns is None else json.integer("n_label_columns"),
        files=file_table_from(json),
    )


def _part_rows_from(json: JsonObject) -> PartRows:
    reasons = json.object("skipped_by_reason")
    return PartRows(
        shard=shard_from(json.object("shard")),
        row_start=json.integer("row_start"),
        rows=json.integer("rows"),
        skipped_by_reason={reason: reasons.integer(reason) for reason in reasons.fields},
    )
