"""Cleaning takes what nobody will miss, and nothing else."""

import subprocess
import sys
from pathlib import Path

import pytest
from store_factories import (
    block,
    dataset_of,
    encoder_of,
    encoder_spec,
    fingerprint,
    register,
    sealed_split,
)

from linprobe.errors import NotFoundError
from linprobe_store.care.remove import find_leftovers, remove_leftovers
from linprobe_store.format.spec import EncoderNames
from linprobe_store.handles.store import FeatureStore


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
