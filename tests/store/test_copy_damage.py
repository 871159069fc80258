"""What was cut, emptied or forged at a copy's target or source is seen, and told."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

import fsspec
import numpy as np
import pytest
from numpy.typing import NDArray
from store_factories import dataset_of, encoder_of, encoder_spec, root_of, sealed_split

from linprobe.errors import IntegrityError, LinprobeError, MismatchError, StoreError
from linprobe.records import canonical_json, digest_json
from linprobe.terminal import Progress
from linprobe_store.care import packed_array
from linprobe_store.care.copy import copy_store
from linprobe_store.care.packed import pack_split, unpack_split
from linprobe_store.care.place import Place
from linprobe_store.care.verify import verify_store
from linprobe_store.format.checksums import digest_bytes
from linprobe_store.format.names import sign_names
from linprobe_store.format.spec import DatasetNames
from linprobe_store.handles.split import Split
from linprobe_store.handles.store import FeatureStore


@pytest.fixture
def whole(tmp_path: Path) -> Split:
    """A sealed split of several chunks, with canaries and a run beside its encoder."""
    split, _ = sealed_split(tmp_path / "source", (700, 10), encoder_spec(4, 3))
    encoder = encoder_of(split)
    encoder.check_canary({"embedding": np.ones((2, 4), "f2")})
    (encoder.path / "provenance.jsonl").write_text(
        '{"argv":[],"batch_size":1,"device":"cpu","host":"h","time":"t","versions":{}}\n'
    )
    return split


def copy(source: Path | str, target: Path | str, *, pack: bool = False) -> tuple[str, list[str]]:
    """Outcome of the one split, and the lines told."""
    lines: list[str] = []

    def watch(progress: Progress) -> None:
        lines.append(progress.line)

    (copied,) = copy_store(str(source), str(target), pack=pack, watch=watch)
    return copied.outcome, lines


def tree(root: Path) -> dict[str, bytes]:
    """Every file below a folder, but parts and the links that claim an id."""
    paths = (path for path in root.rglob("*") if path.is_file() and "/parts/" not in str(path))
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}


def assert_whole(root: Path, expected: dict[str, bytes]) -> None:
    assert tree(root) == expected
    assert [
        unit.problem for unit in verify_store(FeatureStore(root), deep=True) if unit.problem
    ] == []


SMALL = (
    "FORMAT",
    "enc-*/encoder.json",
    "enc-*/names.json",
    "enc-*/canary/canary.npz",
    "enc-*/sets/ds-*/dataset.json",
    "enc-*/sets/ds-*/names.json",
    "enc-*/sets/ds-*/train/PACKED.json",
    "enc-*/sets/ds-*/train/COMMIT.json",
)


@pytest.mark.parametrize("n_bytes", [0, 7])
@pytest.mark.parametrize("pack", [False, True])
def test_a_small_file_that_was_cut_at_a_local_target_is_written_again_and_told(
    whole: Split, tmp_path: Path, pack: bool, n_bytes: int
) -> None:
    target = tmp_path / "b"
    copy(root_of(whole), target, pack=pack)
    expected = tree(target)
    for pattern in SMALL:
        for path in target.glob(pattern):
            os.truncate(path, n_bytes)

            _, lines = copy(root_of(whole), target, pack=pack)

            assert_whole(target, expected)
            assert path.name == "FORMAT" or any("copied again" in line for line in lines), pattern


@pytest.mark.parametrize("n_bytes", [0, 7])
@pytest.mark.parametrize("pack", [False, True])
def test_a_small_file_that_was_cut_behind_a_url_is_written_again(
    whole: Split, tmp_path: Path, pack: bool, n_bytes: int
) -> None:
    url, files = f"memory://{tmp_path.name}", fsspec.filesystem("memory")
    try:
        copy(root_of(whole), url, pack=pack)
        expected = {name: files.cat_file(name) for name in files.find("/")}
        for name in expected:
            if name.endswith((".json", "FORMAT", ".npz")):
                files.pipe_file(name, expected[name][:n_bytes])

                copy(root_of(whole), url, pack=pack)

                assert {name: files.cat_file(name) for name in files.find("/")} == expected, name
    finally:
        files.store.clear()


def test_a_damaged_split_at_the_target_is_replaced_and_another_one_is_not(
    whole: Split, tmp_path: Path
) -> None:
    target = tmp_path / "b"
    copy(root_of(whole), target)
    expected = tree(target)
    (labels,) = target.glob("enc-*/sets/ds-*/train/data.zarr/labels/c/0")
    os.truncate(labels, 10)

    outcome, lines = copy(root_of(whole), target)

    assert outcome == "copied"
    assert "labels/c/0" in lines[0]
    assert_whole(target, expected)
    shutil.rmtree(labels.parents[3])
    labels.parents[3].mkdir()
    copy(root_of(whole), target)
    assert_whole(target, expected)
    sealed_split(tmp_path / "other", (10, 700), encoder_spec(4, 3))
    with pytest.raises(MismatchError, match="expected digest"):
        copy(tmp_path / "other", target)
    assert_whole(target, expected)


@pytest.mark.parametrize("target", ["folder", "memory://"])
def test_a_metric_that_the_target_lacks_is_completed_and_told(
    whole: Split, tmp_path: Path, target: str
) -> None:
    place = f"memory://{tmp_path.name}" if target == "memory://" else str(tmp_path / "b")
    copy(root_of(whole), place)
    names = DatasetNames("Pets", "mean_per_class")
    (dataset_of(whole).path / "names.json").write_bytes(sign_names(names, whole.dataset_id))
    try:
        assert copy(root_of(whole), place) == (
            "there already",
            ["Pets: its metric at the target is now mean_per_class, as in the source"],
        )
        assert copy(root_of(whole), place) == ("there already", [])
        path = f"enc-*/sets/{whole.path.parent.name}/names.json"
        if target == "folder":
            (file,) = (tmp_path / "b").glob(path)
            assert file.read_bytes() == sign_names(names, whole.dataset_id)
    finally:
        fsspec.filesystem("memory").store.clear()


def test_a_file_url_is_the_folder_that_it_names(whole: Split, tmp_path: Path) -> None:
    copy(root_of(whole), f"file://{tmp_path}/b", pack=True)
    copy(f"file://{tmp_path}/b", f"file://{tmp_path}/c")
    copy(root_of(whole), tmp_path / "d")

    assert_whole(tmp_path / "c", tree(tmp_path / "d"))


def count_encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Chunks that were compressed, as they come."""
    monkeypatch.setattr(packed_array, "_CHUNK_BYTES", 512)
    encode, chunks = packed_array.PackedArray.encode, []

    def counted(self: packed_array.PackedArray, i: int, rows: NDArray[np.generic]) -> bytes:
        chunks.append(i)
        return encode(self, i, rows)

    monkeypatch.setattr(packed_array.PackedArray, "encode", counted)
    return chunks


@pytest.mark.parametrize("url", [False, True])
def test_packing_goes_on_where_it_stopped_and_uses_no_temporary_folder(
    whole: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: bool
) -> None:
    chunks = count_encoded(monkeypatch)
    target = f"memory://{tmp_path.name}" if url else str(tmp_path / "b")
    writing, calls = Place.writing, []

    def failing(place: Place, name: str) -> AbstractContextManager[BinaryIO]:
        calls.append(name)
        if "c/" in name and len([name for name in calls if "c/" in name]) == 30:
            raise OSError(28, "No space left on device")
        return writing(place, name)

    monkeypatch.setenv("TMPDIR", str(tmp_path / "none"))
    monkeypatch.setattr("tempfile.tempdir", None)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(Place, "writing", failing)
            with pytest.raises(StoreError, match="No space left"):
                copy(root_of(whole), target, pack=True)
        assert len(chunks) == 30
        assert copy(root_of(whole), target, pack=True)[0] == "copied"
        done = len(chunks)
        copy(root_of(whole), tmp_path / "again", pack=True)
        assert done - 1 == len(chunks) - done > 60

        copy(target, tmp_path / "c")
        copy(root_of(whole), tmp_path / "d")
        assert_whole(tmp_path / "c", tree(tmp_path / "d"))
    finally:
        fsspec.filesystem("memory").store.clear()
    assert not list(tmp_path.rglob("tmp-*"))


def packed_of(split: Split, folder: Path) -> dict[str, Any]:
    """A packed form, and the fields of its marker."""
    folder.mkdir()
    pack_split(split, Place(str(folder)), "")
    fields: dict[str, Any] = json.loads((folder / "PACKED.json").read_bytes())
    del fields["digest"]
    return fields


def sign_again(folder: Path, fields: dict[str, Any]) -> None:
    """Sign a marker, and the commit in it, as a stranger may."""
    commit = {name: value for name, value in fields["commit"].items() if name != "digest"}
    fields["commit"] = {**commit, "digest": digest_json(commit)}
    data = canonical_json({**fields, "digest": digest_json(fields)})
    (folder / "PACKED.json").write_bytes(data)


HOSTILE = ("/tmp/evil", "../evil", "data.zarr/../../evil", "data.zarr//x", ".", "", "a\0b", "c:\\x",
           "data.zarr/labels/c/1", "\ud800x")  # fmt: skip


@pytest.mark.parametrize("table", ["files", "metadata", "commit"])
def test_a_packed_marker_names_its_own_files_alone(
    whole: Split, tmp_path: Path, table: str
) -> None:
    fields = packed_of(whole, tmp_path / "packed")
    digest = asdict(digest_bytes(b"{}", strong=True))
    for name in HOSTILE:
        forged = json.loads(json.dumps(fields))
        if table == "metadata":
            forged["metadata"][name] = "{}"
        elif table == "files":
            forged["files"][name] = digest
        else:
            forged["commit"]["files"][name] = digest
        try:
            sign_again(tmp_path / "packed", forged)
        except UnicodeEncodeError:
            continue
        (tmp_path / "unpacked").mkdir(exist_ok=True)

        with pytest.raises(IntegrityError):
            unpack_split(tmp_path / "packed", tmp_path / "unpacked")

        assert not list((tmp_path / "unpacked").rglob("*"))
        assert not list(tmp_path.rglob("evil"))
        assert not Path("/tmp/evil").exists()


def forge_shape(metadata: dict[str, Any]) -> None:
    metadata["shape"][0] = 10**15


def forge_chunks(metadata: dict[str, Any]) -> None:
    metadata["chunk_grid"]["configuration"]["chunk_shape"][0] = 2**31


def forge_codec(metadata: dict[str, Any]) -> None:
    metadata["codecs"] = [metadata["codecs"][0], {"name": "gzip", "configuration": {"level": 5}}]


def forge_codec_name(metadata: dict[str, Any]) -> None:
    metadata["codecs"][1]["configuration"]["cname"] = "lz4"


def forge_separator(metadata: dict[str, Any]) -> None:
    metadata["chunk_key_encoding"]["configuration"]["separator"] = "/../../x/"


@pytest.mark.parametrize(
    "forge", [forge_shape, forge_chunks, forge_codec, forge_codec_name, forge_separator]
)
def test_a_packed_array_is_laid_out_as_we_do_it_or_not_decoded(
    whole: Split, tmp_path: Path, forge: Callable[[dict[str, Any]], None]
) -> None:
    packed = tmp_path / "packed"
    fields = packed_of(whole, packed)
    path = packed / "data.zarr/labels/zarr.json"
    metadata = json.loads(path.read_bytes())
    forge(metadata)
    path.write_bytes(canonical_json(metadata))
    digest = asdict(digest_bytes(path.read_bytes(), strong=True))
    fields["files"]["data.zarr/labels/zarr.json"] = digest
    sign_again(packed, fields)
    (tmp_path / "unpacked").mkdir()

    with pytest.raises(IntegrityError, match=r"labels/zarr.json: expected"):
        unpack_split(packed, tmp_path / "unpacked")


def test_sealed_metadata_that_lies_about_shapes_is_refused_before_memory_is_taken(
    whole: Split, tmp_path: Path
) -> None:
    packed, name = tmp_path / "packed", "data.zarr/labels/zarr.json"
    fields = packed_of(whole, packed)
    for shape in ([10**18], [10**9, 10**9], [True], [1.5], ["x"], [-1], [], None, [711]):
        metadata = json.loads(fields["metadata"][name])
        forged = json.loads(json.dumps(fields))
        metadata["shape"] = shape
        forged["metadata"][name] = canonical_json(metadata).decode()
        digest = asdict(digest_bytes(forged["metadata"][name].encode(), strong=True))
        forged["commit"]["files"][name] = digest
        sign_again(packed, forged)
        (tmp_path / "unpacked").mkdir(exist_ok=True)

        with pytest.raises(IntegrityError):
            unpack_split(packed, tmp_path / "unpacked")


def test_a_chunk_that_says_it_is_large_is_not_decoded(whole: Split, tmp_path: Path) -> None:
    packed = tmp_path / "packed"
    fields = packed_of(whole, packed)
    path = packed / "data.zarr/labels/c/0"
    chunk = bytearray(path.read_bytes())
    chunk[4:8] = (2**31 - 1).to_bytes(4, "little")
    path.write_bytes(chunk)
    fields["files"]["data.zarr/labels/c/0"] = asdict(digest_bytes(bytes(chunk), strong=True))
    sign_again(packed, fields)
    (tmp_path / "unpacked").mkdir()

    with pytest.raises(IntegrityError, match=r"labels: cannot be unpacked: chunk 0: expected"):
        unpack_split(packed, tmp_path / "unpacked")


def test_links_in_a_folder_to_resume_are_not_followed(whole: Split, tmp_path: Path) -> None:
    target = tmp_path / "b"
    copy(root_of(whole), target)
    expected = tree(target)
    (split,) = target.glob("enc-*/sets/ds-*/train")
    shutil.rmtree(split)
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "zarr.json").write_text("mine")
    staging = split.with_name(f"tmp-copy-train-{whole.digest[:12]}.copy")
    (staging / "data.zarr").mkdir(parents=True)
    (staging / "data.zarr" / "labels").symlink_to(victim)
    (staging / "data.zarr" / "zarr.json").symlink_to(victim / "zarr.json")
    (staging / ".zarr.json.0123456789ab").write_text("left")
    os.mkfifo(staging / "COMMIT.json")

    copy(root_of(whole), target)

    assert_whole(target, expected)
    assert tree(victim) == {"zarr.json": b"mine"}
    shutil.rmtree(split)
    staging.symlink_to(victim)
    with pytest.raises(StoreError):
        copy(root_of(whole), target)
    assert tree(victim) == {"zarr.json": b"mine"}


class TestRemoteSource:
    """A source behind a URL may say anything."""

    @pytest.fixture
    def url(self, whole: Split, tmp_path: Path) -> Iterator[str]:
        """A source behind a URL."""
        copy(root_of(whole), f"memory://{tmp_path.name}/s")
        yield f"memory://{tmp_path.name}/s"
        fsspec.filesystem("memory").store.clear()

    def test_small_files_are_read_up_to_a_size(
        self, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Place, "size", lambda *_: 1 << 40)
        with pytest.raises(IntegrityError, match=r"FORMAT: expected at most .* found 1,099"):
            copy(url, tmp_path / "b")

    @pytest.mark.parametrize(("lie", "told"), [(3, "found more"), (100, "found 17")])
    def test_a_size_that_is_not_so_is_told(
        self, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lie: int, told: str
    ) -> None:
        monkeypatch.setattr(Place, "size", lambda *_: lie)
        with pytest.raises(IntegrityError, match=f"FORMAT: expected {lie} bytes .* {told}"):
            copy(url, tmp_path / "b")

    def test_a_file_that_never_ends_is_left(
        self, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Endless:
            """A stream that goes on; it breaks the test where more than 100 MB are read."""

            left = 25

            def __enter__(self) -> "Endless":
                return self

            def __exit__(self, *_: object) -> None:
                pass

            def read(self, size: int) -> bytes:
                self.left -= 1
                assert self.left
                return bytes(size)

        open_read = Place.open_read

        def opened(place: Place, name: str) -> object:
            return Endless() if name.endswith("labels/c/0") else open_read(place, name)

        monkeypatch.setattr(Place, "open_read", opened)
        with pytest.raises(IntegrityError, match=r"labels/c/0: expected size"):
            copy(url, tmp_path / "b")

    @pytest.mark.parametrize("name", ["enc-x\n\x1b[2J-0123456789ab", "enc-../../x", "enc- "])
    def test_names_of_a_listing_are_checked(
        self, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        monkeypatch.setattr(Place, "folders", lambda *_: (name,))
        with pytest.raises(LinprobeError, match="cannot be called"):
            copy(url, tmp_path / "b")

    @pytest.mark.parametrize("name", ["tr\nain", "train x", "..", "-rf"])
    def test_names_of_splits_are_checked(
        self, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        folders = Place.folders

        def listed(place: Place, parent: str) -> tuple[str, ...]:
            return (name,) if "/ds-" in parent else folders(place, parent)

        monkeypatch.setattr(Place, "folders", listed)
        with pytest.raises(LinprobeError):
            copy(url, tmp_path / "b")

    def test_a_split_of_another_origin_is_refused_before_it_is_copied(
        self, whole: Split, tmp_path: Path
    ) -> None:
        root = root_of(whole)
        whole.path.rename(whole.path.with_name("test"))
        with pytest.raises(MismatchError, match="expected split test, found train"):
            copy(root, tmp_path / "b")

    def test_a_commit_with_other_files_is_refused(self, whole: Split, tmp_path: Path) -> None:
        marker = whole.path / "COMMIT.json"
        fields = json.loads(marker.read_bytes())
        del fields["digest"]
        for name in ("COMMIT.json", "a", "data.zarr/a b", "data.zarr/\x1b/0", ".x"):
            files = {**fields["files"], name: {"bytes": 0, "crc32c": "0" * 8, "sha256": "0" * 64}}
            forged = {**fields, "files": files}
            marker.write_bytes(canonical_json({**forged, "digest": digest_json(forged)}))
            with pytest.raises(IntegrityError, match="bad path"):
                copy(root_of(whole), tmp_path / "b")

    def test_a_commit_that_lists_too_little_never_shows(self, whole: Split, tmp_path: Path) -> None:
        marker = whole.path / "COMMIT.json"
        fields = json.loads(marker.read_bytes())
        del fields["digest"]
        forged = {**fields, "files": {}}
        marker.write_bytes(canonical_json({**forged, "digest": digest_json(forged)}))
        with pytest.raises(StoreError):
            copy(root_of(whole), tmp_path / "b")
        assert not list((tmp_path / "b").glob("enc-*/sets/ds-*/train"))


def test_a_damaged_canary_of_the_source_is_left_out_and_told(whole: Split, tmp_path: Path) -> None:
    (root_of(whole) / whole.path.parents[2].name / "canary" / "canary.npz").write_bytes(b"PK")

    outcome, lines = copy(root_of(whole), tmp_path / "b")

    assert outcome == "copied"
    assert "canary.npz: damaged, left out" in lines[0]
    assert encoder_of(FeatureStore(tmp_path / "b").split("train")).canary() is None


def test_a_disk_with_too_little_room_is_told_before_anything_is_fetched(
    whole: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9, 9, 100))
    with pytest.raises(StoreError, match=r"MB of the disk, 0\.0 free"):
        copy(root_of(whole), tmp_path / "b")
    assert not list((tmp_path / "b").rglob("data.zarr"))


@pytest.mark.parametrize("where", ["source", "target"])
def test_a_version_of_many_digits_is_another_version(
    whole: Split, tmp_path: Path, where: str
) -> None:
    (tmp_path / where).mkdir(exist_ok=True)
    (tmp_path / where / "FORMAT").write_text(f"linprobe-store {'9' * 5000}\n")

    with pytest.raises(LinprobeError, match="FORMAT: expected"):
        copy(root_of(whole), tmp_path / "target")


def test_very_many_runs_are_copied_at_once_and_once(whole: Split, tmp_path: Path) -> None:
    runs = encoder_of(whole).path / "provenance.jsonl"
    first = json.loads(runs.read_text())
    lines = [canonical_json({**first, "time": str(i)}).decode() for i in range(20_000)]
    runs.write_text("".join(f"{line}\n" for line in lines))

    for _ in range(2):  # a flush a line, or a look at every line for each, would take minutes
        copy(root_of(whole), tmp_path / "target")

    (copied,) = (tmp_path / "target").glob("enc-*/provenance.jsonl")
    assert copied.read_text() == runs.read_text()


def test_a_packed_split_in_the_folder_of_another_is_told(whole: Split, tmp_path: Path) -> None:
    copy(root_of(whole), tmp_path / "packed", pack=True)
    (path,) = (tmp_path / "packed").glob("enc-*/sets/ds-*/train")
    path.rename(path.with_name("test"))

    problems = [unit.problem for unit in verify_store(FeatureStore(tmp_path / "packed"), deep=True)]

    assert problems[-1] == f"{path.with_name('test')}: expected split test, found train"
