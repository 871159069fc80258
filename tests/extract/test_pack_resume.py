"""An interrupted packing shows nothing, and goes on to the same bytes."""

import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from pack_factories import PowerCut, folder_source, raising, tree_bytes

from linprobe.errors import PackError
from linprobe.terminal import Progress
from linprobe_extract.pack import pack as pack_module
from linprobe_extract.pack.listing import PackOptions
from linprobe_extract.pack.pack import pack
from linprobe_extract.pack.shard import write_shard

SMALL = PackOptions(shard_samples=2, jobs=2)


def test_an_interrupted_run_shows_nothing_and_goes_on_to_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = folder_source(tmp_path)
    pack(source, tmp_path / "whole", SMALL)
    written: list[str] = []

    def cut(path: Path, *arguments: object, **options: object) -> object:
        if len(written) == 4:
            path.with_name(f".{path.name}.partial").write_bytes(b"half")
            raise PowerCut
        written.append(path.name)
        return write_shard(path, *arguments, **options)  # type: ignore[arg-type] # passed through

    monkeypatch.setattr(pack_module, "write_shard", cut)
    with pytest.raises(PowerCut):
        pack(source, tmp_path / "out", replace(SMALL, jobs=1))
    assert not (tmp_path / "out").exists()
    monkeypatch.undo()

    report = pack(source, tmp_path / "out", SMALL)

    assert (report.n_packed, report.n_kept) == (2, 4)
    assert tree_bytes(tmp_path / "out") == tree_bytes(tmp_path / "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "pets", "whole"]


def test_a_kill_leaves_nothing_that_a_second_run_cannot_finish(tmp_path: Path) -> None:
    """SIGKILL between two shards of a real process: no clean-up code runs at all."""
    source = folder_source(tmp_path)
    pack(source, tmp_path / "whole", SMALL)
    script = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from linprobe_extract.pack.pack import pack\n"
        "from linprobe_extract.pack.listing import PackOptions\n"
        "def watch(progress):\n"
        "    if progress.done == 5:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "pack(sys.argv[1], Path(sys.argv[2]), PackOptions(shard_samples=2, jobs=1), watch)\n"
    )
    command = [sys.executable, "-c", script, source, str(tmp_path / "out")]

    killed = subprocess.run(command, check=False)  # our own script
    report = pack(source, tmp_path / "out", SMALL)

    assert killed.returncode == -9
    assert report.n_kept == 2
    assert tree_bytes(tmp_path / "out") == tree_bytes(tmp_path / "whole")


def test_the_unfinished_packing_of_another_source_is_refused_until_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = folder_source(tmp_path)
    monkeypatch.setattr(pack_module, "write_tree", raising(PowerCut()))
    with pytest.raises(PowerCut):
        pack(source, tmp_path / "out", SMALL)
    monkeypatch.undo()
    other = replace(SMALL, seed=1)

    with pytest.raises(PackError, match="unfinished packing of another source"):
        pack(source, tmp_path / "out", other)

    assert pack(source, tmp_path / "out", replace(other, overwrite=True)).n_packed == 6


def test_progress_counts_every_sample_once_those_of_an_earlier_run_included(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = folder_source(tmp_path)
    seen: list[tuple[int, int | None]] = []
    monkeypatch.setattr(pack_module, "write_tree", raising(PowerCut()))
    with pytest.raises(PowerCut):
        pack(source, tmp_path / "out", SMALL, lambda p: seen.append((p.done, p.total)))
    monkeypatch.undo()
    (tmp_path / "tmp-out.pack/tars/train-1.tar").unlink()
    again: list[tuple[int, int | None]] = []

    pack(source, tmp_path / "out", SMALL, lambda p: again.append((p.done, p.total)))

    assert sorted(set(seen) - {(0, 12)}) == [(done, 12) for done in range(1, 13)]
    assert again[-1] == (12, 12)
    assert (10, 12) in again


def test_a_tar_that_is_not_as_recorded_is_packed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = folder_source(tmp_path)
    pack(source, tmp_path / "whole", SMALL)
    monkeypatch.setattr(pack_module, "write_tree", raising(PowerCut()))
    with pytest.raises(PowerCut):
        pack(source, tmp_path / "out", SMALL)
    monkeypatch.undo()
    tars = tmp_path / "tmp-out.pack" / "tars"
    (tars / "train-0.tar").write_bytes(b"cut")
    (tars / "train-1.tar").unlink()

    assert pack(source, tmp_path / "out", SMALL).n_packed == 2
    assert tree_bytes(tmp_path / "out") == tree_bytes(tmp_path / "whole")


def test_two_packers_of_one_folder_do_not_mix(tmp_path: Path) -> None:
    source = folder_source(tmp_path)
    errors: list[PackError] = []
    tried = threading.Event()

    def second(progress: Progress) -> None:
        if progress.done == 1 and not tried.is_set():
            tried.set()
            with pytest.raises(PackError, match="another process is writing it") as caught:
                pack(source, tmp_path / "out", SMALL)
            errors.append(caught.value)

    pack(source, tmp_path / "out", replace(SMALL, jobs=1), second)

    assert len(errors) == 1


def test_as_many_threads_pack_as_there_are_cores_to_use(tmp_path: Path) -> None:
    """Bound to one core, as by taskset or a cluster's scheduler."""
    script = (
        "import os, sys, threading\n"
        "from pathlib import Path\n"
        "from linprobe_extract.pack.listing import PackOptions\n"
        "from linprobe_extract.pack.pack import pack\n"
        "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "threads = set()\n"
        "def watch(progress):\n"
        "    threads.add(threading.current_thread().name)\n"
        "pack(sys.argv[1], Path(sys.argv[2]), PackOptions(shard_samples=1), watch)\n"
        "print(len([name for name in threads if name.startswith('pack')]))\n"
    )
    command = [sys.executable, "-c", script, folder_source(tmp_path), str(tmp_path / "out")]

    done = subprocess.run(command, check=True, capture_output=True, text=True)  # our own script

    assert done.stdout == "1\n"


@pytest.mark.parametrize("method", ["publish", "drop"])
def test_a_kill_while_another_dataset_is_replaced_is_mended_by_the_next_run(
    tmp_path: Path, method: str
) -> None:
    """SIGKILL just before the new dataset shows, and just after."""
    source = folder_source(tmp_path)
    pack(source, tmp_path / "whole", SMALL)
    pack(source, tmp_path / "out", replace(SMALL, seed=1))
    script = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from linprobe.disk import Staging\n"
        "from linprobe_extract.pack.listing import PackOptions\n"
        "from linprobe_extract.pack.pack import pack\n"
        f"Staging.{method} = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "options = PackOptions(shard_samples=2, jobs=1, overwrite=True)\n"
        "pack(sys.argv[1], Path(sys.argv[2]), options)\n"
    )
    command = [sys.executable, "-c", script, source, str(tmp_path / "out")]

    killed = subprocess.run(command, check=False)  # our own script
    report = pack(source, tmp_path / "out", SMALL)

    assert killed.returncode == -9
    assert report.n_packed == 0
    assert tree_bytes(tmp_path / "out") == tree_bytes(tmp_path / "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "pets", "whole"]
