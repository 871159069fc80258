"""The benchmark of the CUDA path runs, here at toy size on the CPU."""

import json
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.filterwarnings("ignore:The image decoding:DeprecationWarning")


def test_every_section_of_the_gpu_benchmark_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "bench"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    import bench_gpu

    assert bench_gpu.main(["--smoke", "--out", str(tmp_path)]) == 0

    lines = (tmp_path / "bench_gpu.jsonl").read_text().splitlines()
    results = [json.loads(line) for line in lines]
    by_check = {result["check"]: result for result in results}
    assert by_check["done"]["failed"] == []
    assert by_check["against fp32 on the CPU"]["least_cosine"] > 0.999
    assert by_check["order"]["wrong"] == 0
    assert by_check["processes"]["rows"] == 6
    assert by_check["nvJPEG against exact"]["max_gray"] <= 8
    assert "does not fit the memory" in by_check["page-locked memory"]["failed_as"]


def test_without_packages_it_says_which_and_how_to_bring_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "bench"))
    import bench_gpu

    assert bench_gpu.missing_packages() == []
    monkeypatch.setattr(bench_gpu, "missing_packages", lambda: ["simplejpeg"])

    assert bench_gpu.main(["--smoke"]) == 2
    assert "pip download --no-deps -d .wheels simplejpeg" in capsys.readouterr().out
