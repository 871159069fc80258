"""The report: what it shows is what the predictions say, in one file that needs nothing else."""

import base64
import gzip
import io
import json
import os
import re
import sys
import tarfile
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from result_factories import CLASSES, command, probed, signed_again, some_splits
from sklearn.calibration import calibration_curve
from sklearn.metrics import average_precision_score, confusion_matrix
from tar_factories import image_bytes, tar_bytes
from train_factories import SplitData, features, stored_dataset

from linprobe.door import main
from linprobe.errors import OptionError
from linprobe.names import IMAGE_EXTENSIONS
from linprobe_train.protocol.scoring import Likelihood, SweepPoint
from linprobe_train.protocol.search import Sweep
from linprobe_train.results.result import Facts
from linprobe_train.scores.calibration import ECE_BINS
from linprobe_train.show import plots
from linprobe_train.show.facts import report_facts
from linprobe_train.show.report import Places, report_html

NOWHERE = Places(None, None)


class Elements(HTMLParser):
    """Names and attributes of all elements, and proof that they are closed in order."""

    VOID = frozenset(("meta", "br", "img", "link", "input", "hr"))

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def many_classes(k: int) -> dict[str, SplitData]:
    X, y = features(4 * k, 12, k, noise=0.8)
    return {"train": SplitData(X[: 2 * k], y[: 2 * k]), "test": SplitData(X[2 * k :], y[2 * k :])}


def test_the_facts_are_those_of_scikit_learn(tmp_path: Path) -> None:
    collected = probed(tmp_path, "one", some_splits(noise=3))
    rows = collected.predictions()
    facts = report_facts(collected.result, rows)
    assert facts.confusion is not None
    right = rows.top[:, 0] == rows.labels

    expected = confusion_matrix(rows.labels, rows.top[:, 0], labels=range(len(CLASSES)))
    np.testing.assert_array_equal(facts.confusion.counts, expected)
    accuracy = {c.name: c.value for c in facts.classes}
    for i, name in enumerate(CLASSES):
        assert accuracy[name] == pytest.approx(expected[i, i] / expected[i].sum())
    share, confidence = calibration_curve(right, rows.probability[:, 0], n_bins=ECE_BINS)
    np.testing.assert_allclose(facts.calibration.accuracy, share)
    np.testing.assert_allclose(facts.calibration.confidence, confidence, rtol=1e-5)
    wrong = np.flatnonzero(~right)
    sure = sorted(rows.probability[wrong, 0].tolist(), reverse=True)[:24]
    assert [m.probability for m in facts.mistakes] == pytest.approx(sure)
    assert all(m.truth != m.said for m in facts.mistakes)
    assert facts.confusion.pairs(3)[0].rows == (expected - np.diag(np.diag(expected))).max()


def test_multi_label_rows_have_precision_by_class_and_no_confusion(tmp_path: Path) -> None:
    X, y = features(160, 6, 3, noise=2)
    hot = np.eye(4, dtype=np.uint8)[y]
    hot[:, 1] |= X[:, 0] > 0.5
    splits = {"train": SplitData(X[:80], hot[:80]), "test": SplitData(X[80:], hot[80:])}
    collected = probed(tmp_path, "one", splits, classes=("a", "b", "c", "d"))
    rows = collected.predictions()
    facts = report_facts(collected.result, rows)

    assert facts.confusion is None
    assert [c.name for c in sorted(facts.classes, key=lambda c: c.name)] == ["a", "b", "c"]
    for score in facts.classes:
        j = "abcd".index(score.name)
        expected = average_precision_score(hot[80:, j], rows.label_probability[:, j])
        assert score.value == pytest.approx(expected)
    assert "Average precision by class" in report_html(collected, NOWHERE)


@pytest.mark.parametrize("k", [2, 6, 150])
def test_the_page_is_whole_and_asks_nothing_of_the_network(tmp_path: Path, k: int) -> None:
    classes = tuple(f"<class & {i}> </script>" for i in range(k))
    collected = probed(tmp_path, "one", many_classes(k), classes=classes)
    text = report_html(collected, NOWHERE)
    page = Elements(text)

    assert page.open == []
    for _, attributes in page.elements:
        for name in ("src", "href", "xlink:href", "data", "srcset"):
            assert (attributes.get(name) or "#").startswith(("data:", "#"))
    assert "url(http" not in text
    assert "@import" not in text
    tags = [tag for tag, _ in page.elements]
    assert tags.count("script") == (2 if k > 40 else 0)
    assert f"{100 * collected.result.headline.value:.2f} %" in text
    assert "prefers-color-scheme: dark" in text
    assert "@media print" in text
    assert 'name="viewport"' in text
    assert "#010101" not in text


def test_a_thousand_classes_stay_readable_and_small(tmp_path: Path) -> None:
    collected = probed(tmp_path, "one", many_classes(1000), classes=tuple(map(str, range(1000))))
    text = report_html(collected, NOWHERE)
    facts = report_facts(collected.result, collected.predictions())
    assert facts.confusion is not None
    script = re.search(r'id="confusion">(.*?)</script>', text, re.DOTALL)
    assert script is not None
    cells = json.loads(script[1])["counts"]

    for i, line in cells.items():
        for j, n in line.items():
            assert facts.confusion.counts[int(i), int(j)] == n
    assert sum(n for line in cells.values() for n in line.values()) == collected.result.test.n
    assert "<details>" in text
    assert len(text) < 1_000_000
    assert "taken for" in text


def test_the_curve_and_the_pictures_are_in_the_page(tmp_path: Path) -> None:
    splits = some_splits(noise=3)
    stored_dataset(tmp_path / "features", splits, classes=CLASSES)
    where: list[str | Path] = ["--store", tmp_path / "features", "--out", tmp_path / "results"]
    command("probe", *where, "--threads", "1")
    shards = tmp_path / "data" / "test"
    shards.mkdir(parents=True)
    members = [(f"test-{i}.jpg", image_bytes(i)) for i in range(0, 120, 2)]
    (shards / "0.tar").write_bytes(tar_bytes(members))
    (shards / "1.tar").write_bytes(b"not a tar")
    (path,) = command("report", *where, "--shards", tmp_path / "data").splitlines()
    text = Path(path).read_text()

    svgs = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert len(svgs) == 2
    for svg in svgs:
        assert "currentColor" in svg
        assert "#ffffff" not in svg
        assert ET.fromstring(svg).tag.endswith("svg")
    pictures = re.findall(r'src="data:image/jpeg;base64,([^"]*)"', text)
    shown = re.findall(r"<figure>(<img|<div)", text)
    assert 0 < len(pictures) < len(shown)
    assert f"{len(shown) - len(pictures)} without a picture" in text
    with Image.open(io.BytesIO(base64.b64decode(pictures[0]))) as image:
        assert max(image.size) <= plots.THUMBNAIL
    assert Path(path).parent.parent == tmp_path / "results"


def test_the_curve_tells_the_band_and_what_is_undecided() -> None:
    def drawn(*points: SweepPoint) -> dict[str, int]:
        root = ET.fromstring(plots.curve_svg(Sweep("top1", points, 1.0), "top-1"))
        groups = {group.get("id"): group for group in root.iter("{http://www.w3.org/2000/svg}g")}
        return {
            name: sum(not drawing.tag.endswith(("g", "defs")) for drawing in groups[name])
            + sum(len(list(part)) for part in groups[name] if part.tag.endswith("g"))
            for name in ("inside", "outside", "undecided")
        }

    band = (SweepPoint(10.0**i, 0.8, (), likelihood=Likelihood(0.5, 0.0, i < 2)) for i in range(5))
    assert drawn(*band) == {"inside": 2, "outside": 3, "undecided": 0}
    known = SweepPoint(1.0, 0.8, (), 0.8, 0.8)
    beaten = SweepPoint(10.0, 0.7, (), 0.65, 0.75, undecided=7)
    assert drawn(known, beaten) == {"inside": 2, "outside": 0, "undecided": 1}


def test_a_report_is_the_same_each_time(tmp_path: Path) -> None:
    collected = probed(tmp_path, "one", some_splits())
    assert report_html(collected, NOWHERE) == report_html(collected, NOWHERE)


def test_a_store_that_changed_since_is_told_at_the_top(tmp_path: Path) -> None:
    collected = probed(tmp_path, "one", some_splits())
    path = collected.folder / "result.json"
    stored = json.loads(path.read_text())
    stored["question"]["splits"][1][1] = "f" * 64
    path.write_bytes(signed_again(stored))
    where: list[str | Path] = ["--store", tmp_path / "features", "--out", tmp_path / "results"]
    text = Path(command("report", *where).strip()).read_text()

    assert "train of toys has changed in the store since: ffffffffffff then" in text


@pytest.mark.parametrize("library", ["jinja2", "matplotlib"])
def test_without_its_libraries_a_report_names_the_extra(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    library: str,
) -> None:
    collected = probed(tmp_path, "one", some_splits())
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.setattr(sys, "argv", ["linprobe", "report", str(collected.folder)])
    with pytest.raises(SystemExit) as ended:
        main()

    assert ended.value.code == 1
    printed = capsys.readouterr().err
    assert f"this needs the package {library}" in printed
    assert "linprobe[report]" in printed
    assert not (collected.folder / "report.html").exists()


def test_a_template_of_ones_own_adds_a_section_and_is_escaped(tmp_path: Path) -> None:
    classes = tuple(f"<{name}>" for name in CLASSES)
    collected = probed(tmp_path, "one", some_splits(), classes=classes)
    template = tmp_path / "mine.html.j2"
    template.write_text(
        '{% extends "report.html.j2" %}{% block more %}<section><h2>Mine</h2>'
        "{{ result.classes[0] }}: {{ rows.keys | length }} rows</section>{% endblock %}"
    )
    where: list[str | Path] = ["--out", tmp_path / "results", "--template", template]
    text = Path(command("report", *where).strip()).read_text()

    assert "<h2>Mine</h2>&lt;ant&gt;: 120 rows</section>" in text
    assert Elements(text).open == []
    assert "<h2>Provenance</h2>" in text
    without = report_html(collected, NOWHERE)
    assert text.replace("<section><h2>Mine</h2>&lt;ant&gt;: 120 rows</section>", "") == without


@pytest.mark.parametrize("words", ["{{ nothing }}", "{% block", "{% extends 'no.html' %}", None])
def test_a_template_that_cannot_be_filled_is_refused_by_name(
    tmp_path: Path, words: str | None
) -> None:
    collected = probed(tmp_path, "one", some_splits())
    template = tmp_path / "mine.html.j2"
    if words is not None:
        template.write_text(words)
    with pytest.raises(OptionError, match="cannot be filled"):
        report_html(collected, Places(None, None, template))


def test_images_of_every_type_that_is_packed_are_shown(tmp_path: Path) -> None:
    members = [(f"a{i}.{kind}", image_bytes(i)) for i, kind in enumerate(sorted(IMAGE_EXTENSIONS))]
    (tmp_path / "test-0.tar").write_bytes(tar_bytes(members))
    keys = [f"a{i}" for i in range(len(members))]

    assert sorted(plots.thumbnails(tmp_path, "test", keys)) == sorted(keys)


def test_pictures_of_hostile_tars_are_left_out_and_the_others_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plots, "LARGEST_IMAGE", 100_000)
    end = bytes(1024)
    long_name, link = tarfile.TarInfo("x"), tarfile.TarInfo("k.jpg")
    long_name.type, long_name.size = tarfile.GNUTYPE_LONGNAME, 2 << 30
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    os.mkfifo(tmp_path / "test-0.tar")
    (tmp_path / "test-1.tar").write_bytes(long_name.tobuf() + end)
    (tmp_path / "test-2.tar").write_bytes(link.tobuf() + end)
    (tmp_path / "test-3.tar.gz").write_bytes(gzip.compress(bytes(1 << 28)))
    (tmp_path / "test-4.tar").write_bytes(tar_bytes([("k.jpg", bytes(100_001))]))
    (tmp_path / "test-5.tar").write_bytes(tar_bytes([("k.jpg", image_bytes(0))]))
    (tmp_path / "test-pipe:touch RUN;.tar").write_bytes(tar_bytes([("n.jpg", image_bytes(0))]))

    assert sorted(plots.thumbnails(tmp_path, "test", ["k", "n"])) == ["k", "n"]


@pytest.mark.parametrize(
    ("facts", "lines"),
    [
        (Facts("cls", "top1"), ["top-1, the dataset&#39;s own metric", "cls"]),
        (Facts("cls", None), ["top-1, as the dataset declares none"]),
        (Facts("cls", "macro_f1"), ["asked for; the dataset&#39;s own metric is macro F1"]),
        (
            Facts("cls", "top1", {"test": {"no label": 1}, "train": {"no image": 1, "cut": 2}}),
            ["<td>skipped</td>", "test: 1 no label; train: 1 no image, 2 cut"],
        ),
    ],
)
def test_what_the_store_knew_of_the_data_is_told(
    tmp_path: Path, facts: Facts, lines: list[str]
) -> None:
    collected = probed(tmp_path, "one", some_splits())
    text = report_html(replace(collected, result=replace(collected.result, facts=facts)), NOWHERE)

    assert all(line in text for line in lines)
    assert ("<td>skipped</td>" in text) == bool(facts.skipped)
