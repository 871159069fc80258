"""What cannot be exported is told before work, and a killed export leaves nothing for long."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from store_factories import root_of, sealed_split

from linprobe.disk import make_folders
from linprobe.errors import MismatchError, StoreError
from linprobe_store.care import export
from linprobe_store.care.export import export_split
from linprobe_store.handles.split import Split


@pytest.fixture
def whole(tmp_path: Path) -> Split:
    """A sealed split."""
    return sealed_split(tmp_path / "store")[0]


@pytest.fixture
def idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Breaks the test where anything is written."""

    def refuse(*_: object) -> None:
        raise AssertionError("work was begun")

    for name in ("_write_npz", "_write_npy", "_write_parquet"):
        monkeypatch.setattr(export, name, refuse)


@pytest.mark.usefixtures("idle")
@pytest.mark.parametrize("suffix", ["npz", "npy", "parquet"])
def test_what_can_be_known_is_told_before_work(whole: Split, tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"there.{suffix}").touch()
    (tmp_path / f"link.{suffix}").symlink_to(tmp_path / "nowhere")
    for name, told in (
        (f"there.{suffix}", "is there already"),
        (f"link.{suffix}", "is there already"),
        (f"{'x' * 300}.{suffix}", "File name too long"),
        (f"there.{suffix}/x.{suffix}", "Not a directory"),
    ):
        with pytest.raises(StoreError, match=told):
            export_split(whole, "embedding", tmp_path / name)
    assert not list(tmp_path.glob("tmp-*"))


@pytest.mark.usefixtures("idle")
def test_a_table_beside_it_that_is_there_is_told_before_work(whole: Split, tmp_path: Path) -> None:
    (tmp_path / "a.csv").touch()
    with pytest.raises(StoreError, match=r"a.csv: is there already"):
        export_split(whole, "embedding", tmp_path / "a.npy")


@pytest.mark.usefixtures("idle")
def test_a_folder_that_cannot_be_written_and_a_full_disk_are_told_before_work(
    whole: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", refuse)
        with pytest.raises(StoreError, match="Permission denied") as caught:
            export_split(whole, "embedding", tmp_path / "a.npz")
        assert "may write to" in caught.value.hint
    monkeypatch.setattr("shutil.disk_usage", lambda _: _Full())
    with pytest.raises(StoreError, match="MB of the disk"):
        export_split(whole, "embedding", tmp_path / "a.npz")


class _Full:
    """Of a disk."""

    total = 1
    free = 0


def test_what_a_killed_export_left_goes_with_the_next(whole: Split, tmp_path: Path) -> None:
    out = tmp_path / "out"
    make_folders(out)
    script = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from linprobe_store.care import export\n"
        "from linprobe_store.handles.store import FeatureStore\n"
        "export.sync_tree = lambda _: os.kill(os.getpid(), signal.SIGKILL)\n"
        "split = FeatureStore(sys.argv[1]).split('train')\n"
        "export.export_split(split, 'embedding', Path(sys.argv[2]))\n"
    )
    command = [sys.executable, "-c", script, str(root_of(whole)), str(out / "a.npy")]

    killed = subprocess.run(command, check=False)  # our own script
    assert killed.returncode == -signal.SIGKILL
    assert len(list(out.iterdir())) == 1
    export_split(whole, "embedding", out / "a.npy")

    assert sorted(path.name for path in out.iterdir()) == ["a.csv", "a.npy"]


@pytest.mark.parametrize("what", ["key", "class name"])
def test_a_long_text_is_no_room_for_every_row_of_an_npz(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    long = "x" * 5000
    split = sealed_split(tmp_path / "store")[0]
    texts = [long, *list(split.keys)[1:]] if what == "key" else [*split.classes[1:], long]
    vars(split).pop("keys", None)
    monkeypatch.setattr(Split, "keys" if what == "key" else "classes", texts)

    with pytest.raises(MismatchError, match=f"a {what} has 5,000 characters"):
        export_split(split, "embedding", tmp_path / "a.npz")
    assert export_split(split, "embedding", tmp_path / "a.npy")
    assert not (tmp_path / "a.npz").exists()
