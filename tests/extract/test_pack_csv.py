"""A table of paths and labels is listed as it says, and refused where it says too little."""

import csv
from dataclasses import replace
from pathlib import Path

import pytest
from pack_factories import labels_of, sizes, write_image

from linprobe.errors import PackError
from linprobe_extract.pack.listing import PackOptions
from linprobe_extract.pack.pack import pack
from linprobe_extract.shards.card import DatasetCard

OPTIONS = PackOptions(jobs=1)


def pack_csv(path: Path, text: str, options: PackOptions = OPTIONS) -> DatasetCard:
    """Write a table and pack it."""
    path.write_text(text, encoding="utf-8")
    return pack(f"csv:{path}", path.with_name("out"), options).card


def write_table_images(folder: Path, n: int = 6) -> list[str]:
    """Images ``img/<i>.jpg`` beside a table; their paths as the table writes them."""
    for index in range(n):
        write_image(folder / "img" / f"{index}.jpg", index)
    return [f"img/{index}.jpg" for index in range(n)]


def test_a_table_gives_labels_and_splits(tmp_path: Path) -> None:
    paths = write_table_images(tmp_path)
    rows = [
        f"{path},{'ab'[i % 2]},{'train' if i < 4 else 'Test'}\n" for i, path in enumerate(paths)
    ]

    card = pack_csv(tmp_path / "My Table.csv", "\ufeffpath,label,split\n" + "".join(rows))

    assert (card.name, card.classes, sizes(card)) == (
        "my-table",
        ("a", "b"),
        {"train": 4, "test": 2},
    )
    assert labels_of(tmp_path / "out", "test") == {"img_4": b"0", "img_5": b"1"}


def test_a_table_without_splits_is_split_by_the_rule(tmp_path: Path) -> None:
    paths = write_table_images(tmp_path, 20)
    rows = [f"{path}\t{i % 2 * 10}\n" for i, path in enumerate(paths)]

    card = pack_csv(tmp_path / "t.tsv", "path\tlabel\n" + "".join(rows))

    assert (card.classes, sizes(card)) == (("0", "10"), {"train": 16, "test": 4})


def test_whole_numbers_are_classes_in_the_order_of_numbers(tmp_path: Path) -> None:
    paths = write_table_images(tmp_path)
    rows = [f"{path},{number}\n" for path, number in zip(paths, (10, 9, 2, 10, 9, 2), strict=True)]

    assert pack_csv(tmp_path / "t.csv", "path,label\n" + "".join(rows)).classes == ("2", "9", "10")


def test_several_labels_make_a_multi_label_dataset(tmp_path: Path) -> None:
    write_table_images(tmp_path, 4)
    text = (
        "path,label,split\nimg/0.jpg,cat; dog,train\nimg/1.jpg,,train\n"
        "img/2.jpg,dog;dog,test\nimg/3.jpg,owl,test\n"
    )

    card = pack_csv(tmp_path / "t.csv", text, replace(OPTIONS, label_separator=";"))

    assert card.label_source == "json:labels"
    assert card.headline_metric == "map_11_point"
    assert labels_of(tmp_path / "out", "train") == {
        "img_0": b'{"labels": [0, 1]}',
        "img_1": b'{"labels": []}',
    }
    assert labels_of(tmp_path / "out", "test")["img_2"] == b'{"labels": [1]}'


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "found nothing"),
        ("path,label\n", "has no rows"),
        ("file,label\nimg/0.jpg,a\n", "expected the columns path and label, found file, label"),
        ("path,label\nimg/0.jpg,\n", r"line 2: img/0\.jpg has no label"),
        ("path,label\nimg/0.jpg\n", r"line 2: img/0\.jpg has no label"),
        ("path,label\n,a\n", "line 2: no path"),
        ("path,label\nimg/0.jpg,a\nimg/8.jpg,b\n", r"1 files are not there: img/8\.jpg \(line 3\)"),
        ("path,label\nimg/0.jpg,a\nimg/0.jpg,b\n", "named twice, in lines 2 and 3"),
        ("path,label,split\nimg/0.jpg,a,train\nimg/1.jpg,b,dev\n", "found 'dev'"),
        ("path,label,split\nimg/0.jpg,a,train\nimg/1.jpg,b,\n", "found ''"),
        ("path,label\nimg/0.jpg,caf\u00e9\nimg/1.jpg,cafe\u0301\n", "occurs 2 times"),
        ("path,label,split\nimg/0.jpg,a,test\nimg/1.jpg,b,test\n", "no images for the train"),
        ("path,label\nt.csv,a\n", r"t\.csv is not named like an image"),
    ],
)
def test_a_table_that_does_not_say_enough_is_refused(tmp_path: Path, text: str, told: str) -> None:
    write_table_images(tmp_path)

    with pytest.raises(PackError, match=told):
        pack_csv(tmp_path / "t.csv", text)

    assert not (tmp_path / "out").exists()


def test_a_table_that_is_not_there_or_no_text_is_told(tmp_path: Path) -> None:
    with pytest.raises(PackError, match="cannot be read as a table"):
        pack(f"csv:{tmp_path / 'none.csv'}", tmp_path / "out", OPTIONS)
    (tmp_path / "b.csv").write_bytes(b"path,label\n\xff\xfe,a\n")
    with pytest.raises(PackError, match="cannot be read as a table"):
        pack(f"csv:{tmp_path / 'b.csv'}", tmp_path / "out", OPTIONS)


@pytest.mark.parametrize("guard", [True, False])
def test_names_that_spreadsheets_would_run_are_guarded_in_the_table(
    tmp_path: Path, guard: bool
) -> None:
    names = [f"=1+{i}.jpg" for i in range(6)]
    for index, name in enumerate(names):
        write_image(tmp_path / name, index)
    text = "path,label\n" + "".join(f"{name},{'ab'[i % 2]}\n" for i, name in enumerate(names))
    pack_csv(tmp_path / "t.csv", text, replace(OPTIONS, csv_guard=guard))
    rows = csv.DictReader((tmp_path / "out/train/samples.csv").read_text().splitlines())

    mark = "'" if guard else ""
    sources = [row["source"] for row in rows]
    assert sources
    assert all(source.startswith(f"{mark}=1+") for source in sources)
