"""Tiny datasets in the on-disk formats that torchvision reads: those that hold image files.

As in :mod:`torchvision_arrays`, each writer gives what must come out.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
import torchvision.datasets
from pack_factories import write_image
from torchvision_arrays import Expected, Writer, md5, write_text


def write_dtd(root: Path, patch: pytest.MonkeyPatch) -> Expected:
    """Split files of ``class/name``."""
    del patch
    base = root / "dtd" / "dtd"
    expected: Expected = {}
    for seed, split in enumerate(("train", "val", "test")):
        names = [f"{name}/{name}_{seed}.jpg" for name in ("banded", "woven")]
        write_text(base / "labels" / f"{split}1.txt", names)
        expected[split] = [
            ((label,), write_image(base / "images" / name, 10 * seed + label))
            for label, name in enumerate(names)
        ]
    return expected


def write_pets(root: Path, patch: pytest.MonkeyPatch) -> Expected:
    """Annotation lines ``name class species breed``."""
    del patch
    base = root / "oxford-iiit-pet"
    expected: Expected = {}
    for seed, (split, own) in enumerate((("train", "trainval"), ("test", "test"))):
        names = [f"Abyssinian_{seed}", f"yorkshire_terrier_{seed}"]
        lines = [f"{name} {number + 1} 1 1" for number, name in enumerate(names)]
        write_text(base / "annotations" / f"{own}.txt", lines)
        expected[split] = [
            ((label,), write_image(base / "images" / f"{name}.jpg", 10 * seed + label))
            for label, name in enumerate(names)
        ]
    return expected


def write_flowers(root: Path, patch: pytest.MonkeyPatch) -> Expected:
    """MATLAB files: labels from 1 for every image, and image numbers for every split."""
    kind = torchvision.datasets.Flowers102
    base = root / "flowers-102"
    images = {i: write_image(base / "jpg" / f"image_{i:05d}.jpg", i) for i in range(1, 9)}
    labels = [1, 2, 102, 1, 2, 5, 7, 9]
    numbers = {"trnid": [1, 5], "valid": [2, 8], "tstid": [3, 4, 6, 7]}
    scipy.io.savemat(base / "imagelabels.mat", {"labels": np.array(labels)})
    scipy.io.savemat(base / "setid.mat", {key: np.array(ids) for key, ids in numbers.items()})
    files = {
        key: (name, md5(base / name) if name.endswith(".mat") else digest)
        for key, (name, digest) in kind._file_dict.items()
    }
    patch.setattr(kind, "_file_dict", files)
    return {
        split: [((labels[i - 1] - 1,), images[i]) for i in numbers[key]]
        for split, key in (("train", "trnid"), ("val", "valid"), ("test", "tstid"))
    }


def write_food(root: Path, patch: pytest.MonkeyPatch) -> Expected:
    """JSON lists of image names by class."""
    del patch
    base = root / "food-101"
    expected: Expected = {}
    for seed, split in enumerate(("train", "test")):
        names = {name: [f"{name}/{seed}{i}" for i in range(2)] for name in ("pizza", "ramen")}
        write_text(base / "meta" / f"{split}.json", [json.dumps(names)])
        expected[split] = [
            ((label,), write_image(base / "images" / f"{name}.jpg", 100 * seed + 10 * label + i))
            for label, listed in enumerate(names.values())
            for i, name in enumerate(listed)
        ]
    return expected


def write_eurosat(root: Path, patch: pytest.MonkeyPatch) -> Expected:
    """One folder per class, no splits."""
    del patch
    return {
        "all": [
            ((label,), write_image(root / f"eurosat/2750/{name}/{name}_{i}.jpg", 10 * label + i))
            for label, name in enumerate(("Forest", "River"))
            for i in range(4)
        ]
    }


def write_aircraft(root: Path, patch: pytest.MonkeyPatch) -> Expected:
    """Lines ``image variant name``; variants with spaces."""
    del patch
    base = root / "fgvc-aircraft-2013b" / "data"
    names = ["707-320", "Spitfire Mk I"]
    write_text(base / "variants.txt", names)
    expected: Expected = {}
    for seed, split in enumerate(("train", "val", "test")):
        lines = [f"{seed}00{label} {name}" for label, name in enumerate(names)]
        write_text(base / f"images_variant_{split}.txt", lines)
        expected[split] = [
            ((label,), write_image(base / "images" / f"{seed}00{label}.jpg", 10 * seed + label))
            for label in range(2)
        ]
    return expected


def write_gtsrb(root: Path, patch: pytest.MonkeyPatch) -> Expected:
    """PPM files in numbered folders for train, a table for test."""
    del patch
    base = root / "gtsrb"
    table = ["Filename;Width;Height;ClassId", "00000.ppm;16;16;1", "00001.ppm;16;16;0"]
    write_text(base / "GT-final_test.csv", table)
    train, test = base / "GTSRB" / "Training", base / "GTSRB" / "Final_Test" / "Images"
    return {
        "train": [
            ((label,), write_image(train / f"{label:05d}" / "0.ppm", label, "PPM"))
            for label in range(2)
        ],
        "test": [
            ((label,), write_image(test / f"{i:05d}.ppm", 50 + i, "PPM"))
            for i, label in enumerate((1, 0))
        ],
    }


def _write_folders(
    root: Path, folders: dict[str, str], classes: tuple[str, ...], extension: str
) -> Expected:
    """``root/<folder>/<class>/0.<extension>`` for every split."""
    kind = "PNG" if extension == "png" else "JPEG"
    return {
        split: [
            (
                (label,),
                write_image(root / folder / name / f"0.{extension}", 10 * seed + label, kind),
            )
            for label, name in enumerate(classes)
        ]
        for seed, (split, folder) in enumerate(folders.items())
    }


def write_country(root: Path, patch: pytest.MonkeyPatch) -> Expected:
    """Folders train, valid and test of folders of two letters."""
    del patch
    folders = {"train": "train", "val": "valid", "test": "test"}
    return _write_folders(root / "country211", folders, ("AD", "ZW"), "jpg")


def write_sst2(root: Path, patch: pytest.MonkeyPatch) -> Expected:
    """Folders train, valid and test of negative and positive."""
    del patch
    folders = {"train": "train", "val": "valid", "test": "test"}
    return _write_folders(root / "rendered-sst2", folders, ("negative", "positive"), "png")


def write_imagenet(root: Path, patch: pytest.MonkeyPatch) -> Expected:
    """Folders of WordNet ids beside the file of names that torchvision makes of the devkit."""
    del patch
    root.mkdir(parents=True)
    names = {"n01": ("crane",), "n02": ("crane",), "n03": ("cat", "tabby")}
    torch.save((names, ["n01"]), root / "meta.bin")
    return _write_folders(root, {"train": "train", "test": "val"}, tuple(names), "JPEG")


def write_clevr(root: Path, patch: pytest.MonkeyPatch) -> Expected:
    """Scenes with their objects; the label is their number, from 3."""
    del patch
    base = root / "clevr" / "CLEVR_v1.0"
    expected: Expected = {}
    for seed, (split, own) in enumerate((("train", "train"), ("test", "val"))):
        counts = {f"CLEVR_{own}_{i:06d}.png": 3 + 7 * i for i in range(2)}
        scenes = [{"image_filename": n, "objects": [{}] * count} for n, count in counts.items()]
        write_text(base / "scenes" / f"CLEVR_{own}_scenes.json", [json.dumps({"scenes": scenes})])
        expected[split] = [
            ((count - 3,), write_image(base / "images" / own / name, 20 * seed + count, "PNG"))
            for name, count in counts.items()
        ]
    return expected


def write_caltech(root: Path, patch: pytest.MonkeyPatch) -> Expected:
    """One folder per category, the background among them, and a stray file."""
    del patch
    base = root / "caltech101" / "101_ObjectCategories"
    write_text(base / "BACKGROUND_Google" / "tmp", ["not an image"])
    return {
        "all": [
            ((label,), write_image(base / name / f"image_{i + 1:04d}.jpg", 10 * label + i))
            for label, name in enumerate(("BACKGROUND_Google", "Faces", "accordion"))
            for i in range(3)
        ]
    }


def write_voc(root: Path, patch: pytest.MonkeyPatch) -> Expected:
    """XML annotations: several objects and classes an image, difficult ones, parts of objects."""
    del patch
    base = root / "VOCdevkit" / "VOC2007"
    expected: Expected = {}
    for seed, split in enumerate(("train", "val", "test")):
        names = [f"00000{seed}", f"00010{seed}"]
        write_text(base / "ImageSets" / "Main" / f"{split}.txt", names)
        for name, objects in zip(names, (("person", "dog", "dog"), ("tvmonitor",)), strict=True):
            inside = "".join(
                f"<object><name>{one}</name><difficult>{i}</difficult>"
                "<part><name>head</name></part></object>"
                for i, one in enumerate(objects)
            )
            xml = f"<annotation><filename>{name}.jpg</filename>{inside}</annotation>"
            write_text(base / "Annotations" / f"{name}.xml", [xml])
        expected[split] = [
            (labels, write_image(base / "JPEGImages" / f"{name}.jpg", 10 * seed + i))
            for i, (labels, name) in enumerate(zip(((11, 14), (19,)), names, strict=True))
        ]
    return expected


def write_sun(root: Path, patch: pytest.MonkeyPatch) -> Expected:
    """Folders by first letter, class names with a slash in them, lists of a partition."""
    del patch
    base = root / "SUN397"
    classes = ["/a/abbey", "/b/bow_window/indoor"]
    write_text(base / "ClassName.txt", classes)
    names = [f"{one}/sun_{i}.jpg" for one in classes for i in range(3)]
    images = {name: write_image(base / name[1:], seed) for seed, name in enumerate(names)}
    write_text(root / "Partitions" / "Training_01.txt", [names[0], names[4]])
    write_text(root / "Partitions" / "Testing_01.txt", [names[1], names[3]])
    return {
        "train": [((0,), images[names[0]]), ((1,), images[names[4]])],
        "test": [((0,), images[names[1]]), ((1,), images[names[3]])],
    }


def write_cars(root: Path, patch: pytest.MonkeyPatch) -> Expected:
    """MATLAB structs of file name and class from 1."""
    del patch
    base = root / "stanford_cars"
    devkit = base / "devkit"
    devkit.mkdir(parents=True)
    names = np.array(["AM General Hummer", "Audi TT"], dtype=object)
    scipy.io.savemat(devkit / "cars_meta.mat", {"class_names": names})
    tables = {
        "train": devkit / "cars_train_annos.mat",
        "test": base / "cars_test_annos_withlabels.mat",
    }
    expected: Expected = {}
    for seed, (split, table) in enumerate(tables.items()):
        files = [f"{seed}{label}.jpg" for label in range(2)]
        records = np.array(
            [(name, label + 1) for label, name in enumerate(files)],
            dtype=[("fname", object), ("class", object)],
        )
        scipy.io.savemat(table, {"annotations": records})
        expected[split] = [
            ((label,), write_image(base / f"cars_{split}" / name, 10 * seed + label))
            for label, name in enumerate(files)
        ]
    return expected


FILE_WRITERS: dict[str, Writer] = {
    "caltech101": write_caltech,
    "clevr_counts": write_clevr,
    "country211": write_country,
    "dtd": write_dtd,
    "eurosat": write_eurosat,
    "fgvc_aircraft": write_aircraft,
    "flowers102": write_flowers,
    "food101": write_food,
    "gtsrb": write_gtsrb,
    "imagenet": write_imagenet,
    "oxford_pets": write_pets,
    "rendered_sst2": write_sst2,
    "stanford_cars": write_cars,
    "sun397": write_sun,
    "voc2007": write_voc,
}
"""By slug."""
