"""The commands print what was done, on stdout, and fail in two lines."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from pack_factories import write_image, write_image_folder

from linprobe_extract.pack_cli import datasets_table


def run_script(*words: object) -> subprocess.CompletedProcess[str]:
    """Run a command as the console script would."""
    return subprocess.run(  # our own script
        [sys.executable, "-m", "linprobe", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
    )


def test_pack_prints_splits_and_trouble_and_json_says_the_same(tmp_path: Path) -> None:
    root = write_image_folder(tmp_path / "pets")
    (root / "train/b/leak.jpg").write_bytes((root / "test/a/0.jpg").read_bytes())
    (root / "train/b/cut.jpg").write_bytes(b"\xff\xd8\xff")
    write_image(root / "train/a/more.jpg", 500)

    first = run_script("pack", f"imagefolder:{root}", "--out", tmp_path / "out")
    again = run_script("pack", f"imagefolder:{root}", "--out", tmp_path / "out", "--json")

    assert (first.returncode, first.stderr, again.returncode, again.stderr) == (0, "", 0, "")
    assert "1 unreadable image kept out: train/b/cut.jpg" in first.stdout
    assert "1 image leaks across splits" in first.stdout
    assert "test/a/0.jpg = train/b/leak.jpg" in first.stdout
    found = json.loads(again.stdout)
    assert found["splits"] == {"train": 8, "test": 6}
    assert (found["unreadable"], found["leaks"], found["packed_shards"]) == (1, 1, 0)


def test_an_expected_failure_is_two_lines_and_exit_code_1(tmp_path: Path) -> None:
    done = run_script("pack", "imagefolder:nowhere", "--out", tmp_path / "out")

    assert (done.returncode, done.stdout) == (1, "")
    assert [line.split(":")[0] for line in done.stderr.splitlines()] == ["error", "hint"]


def test_datasets_prints_the_table_and_its_json() -> None:
    text, as_json = run_script("datasets"), run_script("datasets", "--json")

    assert len(text.stdout.splitlines()) >= 28
    rows = json.loads(as_json.stdout)["datasets"]
    assert len(rows) == 27
    assert rows[1]["name"] == "cifar10"
    assert rows[1]["sizes"] == {"train": 50000, "test": 10000}


@pytest.mark.parametrize("source", ["digits", "imagefolder", "csv"])
def test_sources_that_need_no_torch_do_not_import_it(source: str, tmp_path: Path) -> None:
    root = write_image_folder(tmp_path / "pets")
    table = tmp_path / "t.csv"
    table.write_text("path,label\npets/train/a/0.jpg,a\npets/train/b/0.jpg,b\n")
    words = {"digits": "digits", "imagefolder": f"imagefolder:{root}", "csv": f"csv:{table}"}
    script = (
        "import sys; from pathlib import Path; import linprobe_extract.pack_cli\n"
        "from linprobe_extract.pack.pack import PackOptions, pack\n"
        "pack(sys.argv[1], Path(sys.argv[2]), PackOptions())\n"
        "print([name for name in ('torch', 'torchvision') if name in sys.modules])"
    )

    done = subprocess.run(  # our own script
        [sys.executable, "-c", script, words[source], str(tmp_path / "out")],
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout == "[]\n"


def test_the_page_on_datasets_shows_the_table_as_it_is_printed() -> None:
    page = Path(__file__).parents[2] / "extract" / "DATASETS.md"

    assert datasets_table() in page.read_text(encoding="utf-8")
