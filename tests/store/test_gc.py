"""Cleaning takes what nobody will miss, and nothing else."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from store_factories import (
    block,
    dataset_of,
    dataset_spec,
    encoder_of,
    encoder_spec,
    fingerprint,
    register,
    sealed_split,
)

from linprobe import disk
from linprobe.disk import Staging
from linprobe.errors import NotFoundError, StoreError
from linprobe.terminal import Progress
from linprobe_store.care import remove
from linprobe_store.care.remove import find_damaged, find_leftovers, remove_leftovers
from linprobe_store.format.spec import DatasetNames, EncoderNames
from linprobe_store.handles.store import FeatureStore
from linprobe_store.handles.witness import Provenance


def test_gc_spares_a_writer_that_is_alive(tmp_path: Path) -> None:
    encoder = register(tmp_path)
    whole = block(encoder.spec, 4)
    with encoder.part_writer(fingerprint(0)) as writer:
        writer.append(whole)
        assert find_leftovers(FeatureStore(tmp_path), min_age_s=0) == ()
        assert writer.commit(skipped=[], batch_size=1, planned=4, labelling="cls").rows == 4


def test_gc_takes_what_a_killed_writer_left_and_nothing_else(tmp_path: Path) -> None:
    split, _ = sealed_split(tmp_path)
    parts = encoder_of(split).path / "parts"
    script = (
        f"from linprobe.disk import Staging; from pathlib import Path; import os\n"
        f"s = Staging(Path({str(parts)!r})); (s.path / 'x').write_bytes(b'12345')\n"
        f"os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -9
    (tmp_path / ".notes.txt").touch()
    (tmp_path / "enc-notes.txt").touch()
    (parts / "tmp-elsewhere-1-abc").mkdir()
    before = sorted(str(p) for p in tmp_path.rglob("*"))

    assert find_leftovers(FeatureStore(tmp_path)) == ()
    (leftover,) = find_leftovers(FeatureStore(tmp_path), min_age_s=0)
    remove_leftovers([leftover])

    assert (leftover.bytes, leftover.why) == (5, "its writer is gone")
    gone = set(before) - {str(p) for p in tmp_path.rglob("*")}
    assert gone == {str(leftover.path), str(leftover.path / "x")}
    foreign = find_leftovers(FeatureStore(tmp_path), min_age_s=0, foreign_age_s=0)
    assert [item.path.name for item in foreign] == ["tmp-elsewhere-1-abc"]


@pytest.mark.parametrize("level", ["enc-*", "enc-*/parts", "enc-*/sets", "enc-*/sets/ds-*"])
def test_gc_never_follows_a_link_out_of_the_store(tmp_path: Path, level: str) -> None:
    sealed_split(tmp_path / "store")
    (folder,) = (tmp_path / "store").glob(level)
    outside = tmp_path / "outside"
    folder.rename(outside)
    folder.symlink_to(outside)
    (outside / "tmp-elsewhere-1-abcdefabcdef").mkdir()
    (outside / ".names.json.abcdefabcdef").touch()
    for commit in outside.rglob("COMMIT.json"):
        commit.unlink()
    before = sorted(map(str, outside.rglob("*")))
    store, told = FeatureStore(tmp_path / "store"), list[str]()

    def watch(progress: Progress) -> None:
        told.append(progress.line)

    ages = {"min_age_s": 0.0, "foreign_age_s": 0.0}
    remove_leftovers(find_leftovers(store, **ages, watch=watch))
    remove_leftovers(find_damaged(store, deep=True, watch=watch))

    assert sorted(map(str, outside.rglob("*"))) == before
    assert folder.is_symlink()
    assert any("is a link" in line and str(folder) in line for line in told)


def test_gc_takes_a_left_over_link_and_not_what_it_leads_to(tmp_path: Path) -> None:
    encoder = register(tmp_path / "store")
    outside = tmp_path / "outside"
    outside.mkdir()
    (encoder.path / "tmp-x-1-abcdefabcdef").symlink_to(outside)
    (tmp_path / "store" / ".enc-0123456789ab").symlink_to(outside / "gone")

    store = FeatureStore(tmp_path / "store")
    remove_leftovers(find_leftovers(store, min_age_s=0, foreign_age_s=0))

    assert outside.is_dir()
    assert not (tmp_path / "store" / ".enc-0123456789ab").is_symlink()


@pytest.mark.parametrize("error", [FileNotFoundError, PermissionError])
def test_gc_goes_on_past_what_vanishes_or_may_not_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[OSError]
) -> None:
    parts = register(tmp_path).path / "parts"
    parts.mkdir()
    for name in ("a", "b"):
        (parts / f"tmp-{name}-1-abcdefabcdef").mkdir()
    known = disk.is_abandoned

    def is_abandoned(path: Path, *, min_age_s: float, foreign_age_s: float) -> bool:
        if path.name.startswith("tmp-a"):
            raise error(2, "gone", str(path))
        return known(path, min_age_s=min_age_s, foreign_age_s=foreign_age_s)

    monkeypatch.setattr(remove, "is_abandoned", is_abandoned)
    (leftover,) = find_leftovers(FeatureStore(tmp_path), min_age_s=0, foreign_age_s=0)

    assert leftover.path.name.startswith("tmp-b")


@pytest.mark.parametrize("level", ["enc-*", "enc-*/parts", "enc-*/sets", "enc-*/sets/ds-*"])
def test_nothing_is_written_through_a_link(tmp_path: Path, level: str) -> None:
    split, _ = sealed_split(tmp_path / "store")
    encoder, outside = encoder_of(split), tmp_path / "outside"
    (folder,) = (tmp_path / "store").glob(level)
    folder.rename(outside)
    folder.symlink_to(outside)
    before = sorted(map(str, outside.rglob("*")))
    whole = dataset_spec([fingerprint(0)], ("a", "b", "c", "d"))
    again = dataset_of(split).spec
    is_below = {"parts": level in ("enc-*", "enc-*/parts"), "sets": level != "enc-*/parts"}

    if is_below["parts"]:
        with pytest.raises(StoreError, match="is a link"):
            encoder.part_writer(fingerprint(9))
    if level in ("enc-*", "enc-*/sets"):
        with pytest.raises(StoreError, match="is a link"):
            encoder.seal(whole, "train", names=DatasetNames("new"))
    if is_below["sets"]:
        with pytest.raises(StoreError, match="is a link"):
            encoder.register_dataset(again, DatasetNames("Pets", "top1"))
    if level == "enc-*":
        with pytest.raises(StoreError, match="is a link"):
            encoder.check_canary({"embedding": np.ones((2, 5), "f2")})
        with pytest.raises(StoreError, match="is a link"):
            encoder.record_provenance(Provenance("now", "here", "cpu", (), {}, 1))

    assert sorted(map(str, outside.rglob("*"))) == before
    assert FeatureStore(tmp_path / "store").split("train").n == split.n


def test_a_link_that_names_a_folder_elsewhere_is_refused(tmp_path: Path) -> None:
    digits = encoder_spec().encoder_id[:12]
    register(tmp_path / "store", encoder_spec(weights="7"))
    (tmp_path / "store" / f".enc-{digits}").symlink_to(f"../enc-x-{digits}")

    with pytest.raises(StoreError, match="expected a link to a folder"):
        register(tmp_path / "store")

    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_a_writer_whose_link_was_removed_yields_to_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody removes the encoder while two writers make it under different names."""
    first = register(tmp_path)
    claim = tmp_path / f".enc-{first.short_id}"
    remove.remove_folder(first.path)
    assert not claim.is_symlink()
    publish, other = Staging.publish, f"enc-other-{first.short_id}"

    def publish_late(staging: Staging, final: Path) -> bool:
        if not claim.is_symlink() or claim.readlink().name != other:
            claim.unlink()
            claim.symlink_to(other)
        return publish(staging, final)

    monkeypatch.setattr(Staging, "publish", publish_late)
    second = register(tmp_path)

    assert second.path.name == other
    assert len(list(tmp_path.glob("enc-*"))) == 1


def test_a_removed_encoder_can_be_registered_again_under_another_name(tmp_path: Path) -> None:
    import shutil

    first = register(tmp_path)
    shutil.rmtree(first.path)

    second = FeatureStore(tmp_path).register_encoder(encoder_spec(), EncoderNames("b", "b"))

    assert second.names == EncoderNames("b", "b")
    assert FeatureStore(tmp_path).encoder("b") == second


def test_a_split_in_the_making_is_not_listed(tmp_path: Path) -> None:
    split, _ = sealed_split(tmp_path)
    for name in ("tmp-elsewhere-1-abc", ".hidden"):
        (split.path.parent / name).mkdir()
        with pytest.raises(NotFoundError, match="not sealed"):
            dataset_of(split).split(name)

    assert dataset_of(split).splits == ("train",)
