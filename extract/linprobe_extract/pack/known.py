"""The 27 datasets of the CLIP paper (Radford et al. 2021, Appendix A.1 and Table 9).

Sizes are those of the splits as packed here. Where Table 9 prints another size than the official
files have, the row says so in its note and the official size holds: for FER2013 and UCF101 the
paper's author confirms the misprint (openai/CLIP issue 45).

What is known of a standard dataset: one row of the table.

The 15 datasets that the CLIP paper adds to those of Kornblith et al.

The 12 datasets that the CLIP paper takes over from Kornblith et al. (2019).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from linprobe_extract.pack.splits import PerClassRule
from linprobe_extract.shards.card import HeadlineMetric

Argument: TypeAlias = str | int | bool
SplitArguments: TypeAlias = Mapping[str, Mapping[str, Argument]]

TRAIN_FLAG: SplitArguments = {"train": {"train": True}, "test": {"train": False}}
TRAIN_TEST: SplitArguments = {"train": {"split": "train"}, "test": {"split": "test"}}
TRAIN_VAL_TEST: SplitArguments = {
    "train": {"split": "train"},
    "val": {"split": "val"},
    "test": {"split": "test"},
}
UNSPLIT: SplitArguments = {"all": {}}
"""For a class without splits; a rule makes them."""


@dataclass(frozen=True)
class TorchvisionSource:
    """A class of ``torchvision.datasets`` and how it is called for each split."""

    name: str
    """Name of the class."""
    splits: SplitArguments
    """Arguments of the constructor by split, or by ``all`` where the class has none."""
    downloads: bool = True
    """Whether the class can download all that it needs."""


@dataclass(frozen=True)
class KnownDataset:
    """A dataset of the table: what to pack, what to expect, what to quote."""

    slug: str
    """Name on the command line, such as ``cifar10``."""
    title: str
    """Name in the paper's tables."""
    n_classes: int
    """Number of classes k."""
    metric: HeadlineMetric
    """The metric of Table 9."""
    sizes: Mapping[str, int] | None
    """Samples of each split as packed; None where no two copies have the same files."""
    paper_sizes: tuple[int, int]
    """Train (with val) and test as Table 9 prints them, misprints included."""
    split: str
    """Where the split comes from: ``official``, or the rule in words."""
    citation: str
    """Who made it, where it was published."""
    torchvision: TorchvisionSource | None = None
    """The class that reads its files; None where torchvision has none that fits."""
    rule: PerClassRule | None = None
    """How one unsplit set is split."""
    is_subset: bool = False
    """Whether ``sizes`` is a seeded choice from each official split."""
    files: str = ""
    """Where to get the files, where nothing downloads them."""
    note: str = ""
    """Misprints, and what differs from the paper."""

    @property
    def provider(self) -> str:
        """``download``, ``torchvision`` (files by hand, read by torchvision), or ``folder``."""
        if self.torchvision is None:
            return "folder"
        return "download" if self.torchvision.downloads else "torchvision"


CLIP_ROWS: tuple[KnownDataset, ...] = (
    KnownDataset(
        slug="mnist",
        title="MNIST",
        n_classes=10,
        metric=HeadlineMetric.TOP1,
        sizes={"train": 60_000, "test": 10_000},
        paper_sizes=(60_000, 10_000),
        split="official",
        citation="LeCun, Cortes, Burges. The MNIST Database. 1998",
        torchvision=TorchvisionSource("MNIST", TRAIN_FLAG),
    ),
    KnownDataset(
        slug="fer2013",
        title="FER 2013",
        n_classes=7,
        metric=HeadlineMetric.TOP1,
        sizes={"train": 28_709, "val": 3_589, "test": 3_589},
        paper_sizes=(32_140, 3_574),
        split="official",
        citation="Goodfellow et al. Challenges in Representation Learning. ICONIP 2013",
        torchvision=TorchvisionSource(
            "FER2013",
            {"train": {"split": "train"}, "val": {"split": "test"}, "test": {"split": "test"}},
            downloads=False,
        ),
        files="fer2013.csv of the Kaggle challenge, at ROOT/fer2013/fer2013.csv",
        note="PublicTest is val, PrivateTest is test; Table 9 misprints sizes and classes (8)",
    ),
    KnownDataset(
        slug="stl10",
        title="STL-10",
        n_classes=10,
        metric=HeadlineMetric.TOP1,
        sizes={"train": 5_000, "test": 8_000},
        paper_sizes=(1_000, 8_000),
        split="official, all labelled",
        citation="Coates, Ng, Lee. AISTATS 2011",
        torchvision=TorchvisionSource("STL10", TRAIN_TEST),
        note="the paper's number is the mean over the folds stl10:folds=0 to stl10:folds=9",
    ),
    KnownDataset(
        slug="eurosat",
        title="EuroSAT",
        n_classes=10,
        metric=HeadlineMetric.TOP1,
        sizes={"train": 10_000, "test": 5_000},
        paper_sizes=(10_000, 5_000),
        split="1,000 per class train, 500 test",
        citation="Helber et al. EuroSAT. IEEE JSTARS 2019",
        torchvision=TorchvisionSource("EuroSAT", UNSPLIT),
        rule=PerClassRule(train=1_000, test=500),
        note="the paper gives the sizes, not the images",
    ),
    KnownDataset(
        slug="resisc45",
        title="RESISC45",
        n_classes=45,
        metric=HeadlineMetric.TOP1,
        sizes={"train": 3_150, "test": 25_200},
        paper_sizes=(3_150, 25_200),
        split="70 per class train, 560 test",
        citation="Cheng, Han, Lu. Proceedings of the IEEE 2017",
        rule=PerClassRule(train=70, test=560),
        files="NWPU-RESISC45 of the authors: a folder of 45 classes with 700 images each",
        note="the paper gives the sizes, not the images",
    ),
    KnownDataset(
        slug="gtsrb",
        title="GTSRB",
        n_classes=43,
        metric=HeadlineMetric.TOP1,
        sizes={"train": 26_640, "test": 12_630},
        paper_sizes=(26_640, 12_630),
        split="official, competition train",
        citation="Stallkamp et al. The German Traffic Sign Recognition Benchmark. IJCNN 2011",
        torchvision=TorchvisionSource("GTSRB", TRAIN_TEST),
    ),
    KnownDataset(
        slug="kitti_distance",
        title="KITTI Distance",
        n_classes=4,
        metric=HeadlineMetric.TOP1,
        sizes={"train": 6_770, "test": 711},
        paper_sizes=(6_770, 711),
        split="of VTAB",
        citation="Geiger et al. CVPR 2012; task of Zhai et al., VTAB, 2019",
        files="KITTI object images with VTAB's labels (distance to the nearest car, in 4 steps)",
    ),
    KnownDataset(
        slug="country211",
        title="Country211",
        n_classes=211,
        metric=HeadlineMetric.TOP1,
        sizes={"train": 31_650, "val": 10_550, "test": 21_100},
        paper_sizes=(43_200, 21_100),
        split="official",
        citation="Radford et al. Learning Transferable Visual Models. ICML 2021",
        torchvision=TorchvisionSource(
            "Country211",
            {
                "train": {"split": "train"},
                "val": {"split": "valid"},
                "test": {"split": "test"},
            },
        ),
        note="150 train, 50 val, 100 test images a class; Table 9 prints 43,200 for 42,200",
    ),
    KnownDataset(
        slug="pcam",
        title="PatchCamelyon",
        n_classes=2,
        metric=HeadlineMetric.TOP1,
        sizes={"train": 262_144, "val": 32_768, "test": 32_768},
        paper_sizes=(294_912, 32_768),
        split="official",
        citation="Veeling et al. Rotation Equivariant CNNs. MICCAI 2018",
        torchvision=TorchvisionSource("PCAM", TRAIN_VAL_TEST),
        note="needs the package h5py, and gdown for the download",
    ),
    KnownDataset(
        slug="ucf101",
        title="UCF101",
        n_classes=101,
        metric=HeadlineMetric.TOP1,
        sizes=None,
        paper_sizes=(9_537, 1_794),
        split="official, 3 folds",
        citation="Soomro, Zamir, Shah. UCF101. 2012",
        files="the middle frame of each video, as an image folder for each of the 3 splits",
        note="Table 9 misprints the sizes; the paper's number is the mean over the 3 splits",
    ),
    KnownDataset(
        slug="kinetics700",
        title="Kinetics-700",
        n_classes=700,
        metric=HeadlineMetric.MEAN_TOP1_TOP5,
        sizes=None,
        paper_sizes=(494_801, 31_669),
        split="official",
        citation="Carreira et al. A Short Note on the Kinetics-700 Dataset. 2019",
        files="the middle frame of each video, as an image folder",
        note="videos vanish, so copies differ",
    ),
    KnownDataset(
        slug="clevr_counts",
        title="CLEVR Counts",
        n_classes=8,
        metric=HeadlineMetric.TOP1,
        sizes={"train": 2_000, "test": 500},
        paper_sizes=(2_000, 500),
        split="2,000 of train, 500 of val",
        citation="Johnson et al. CLEVR. CVPR 2017",
        torchvision=TorchvisionSource(
            "CLEVRClassification", {"train": {"split": "train"}, "test": {"split": "val"}}
        ),
        is_subset=True,
        note="3 to 10 objects; the paper's choice of 2,500 is not published",
    ),
    KnownDataset(
        slug="hateful_memes",
        title="Hateful Memes",
        n_classes=2,
        metric=HeadlineMetric.ROC_AUC,
        sizes={"train": 8_500, "test": 500},
        paper_sizes=(8_500, 500),
        split="official train and dev",
        citation="Kiela et al. The Hateful Memes Challenge. NeurIPS 2020",
        files="the challenge's images and train.jsonl, dev_seen.jsonl, as a table dataset.csv",
    ),
    KnownDataset(
        slug="rendered_sst2",
        title="Rendered SST2",
        n_classes=2,
        metric=HeadlineMetric.TOP1,
        sizes={"train": 6_920, "val": 872, "test": 1_821},
        paper_sizes=(7_792, 1_821),
        split="official",
        citation="Radford et al. 2021, after Socher et al. EMNLP 2013",
        torchvision=TorchvisionSource("RenderedSST2", TRAIN_VAL_TEST),
    ),
    KnownDataset(
        slug="imagenet",
        title="ImageNet",
        n_classes=1_000,
        metric=HeadlineMetric.TOP1,
        sizes={"train": 1_281_167, "test": 50_000},
        paper_sizes=(1_281_167, 50_000),
        split="official train and val",
        citation="Russakovsky et al. IJCV 2015",
        torchvision=TorchvisionSource(
            "ImageNet", {"train": {"split": "train"}, "test": {"split": "val"}}, downloads=False
        ),
        files="ILSVRC2012_devkit_t12.tar.gz, _img_train.tar and _img_val.tar, put into ROOT",
    ),
)

KORNBLITH_ROWS: tuple[KnownDataset, ...] = (
    KnownDataset(
        slug="food101",
        title="Food-101",
        n_classes=101,
        metric=HeadlineMetric.TOP1,
        sizes={"train": 75_750, "test": 25_250},
        paper_sizes=(75_750, 25_250),
        split="official",
        citation="Bossard, Guillaumin, Van Gool. Food-101. ECCV 2014",
        torchvision=TorchvisionSource("Food101", TRAIN_TEST),
        note="Table 9 prints 102 classes; there are 101",
    ),
    KnownDataset(
        slug="cifar10",
        title="CIFAR-10",
        n_classes=10,
        metric=HeadlineMetric.TOP1,
        sizes={"train": 50_000, "test": 10_000},
        paper_sizes=(50_000, 10_000),
        split="official",
        citation="Krizhevsky. Learning Multiple Layers of Features from Tiny Images. 2009",
        torchvision=TorchvisionSource("CIFAR10", TRAIN_FLAG),
    ),
    KnownDataset(
        slug="cifar100",
        title="CIFAR-100",
        n_classes=100,
        metric=HeadlineMetric.TOP1,
        sizes={"train": 50_000, "test": 10_000},
        paper_sizes=(50_000, 10_000),
        split="official",
        citation="Krizhevsky. Learning Multiple Layers of Features from Tiny Images. 2009",
        torchvision=TorchvisionSource("CIFAR100", TRAIN_FLAG),
    ),
    KnownDataset(
        slug="birdsnap",
        title="Birdsnap",
        n_classes=500,
        metric=HeadlineMetric.TOP1,
        sizes=None,
        paper_sizes=(42_283, 2_149),
        split="official",
        citation="Berg et al. Birdsnap. CVPR 2014",
        files="the image URLs and test_images.txt of the Birdsnap project page (Columbia)",
        note="links die, so copies differ; the paper had 42,283 and 2,149 images",
    ),
    KnownDataset(
        slug="sun397",
        title="SUN397",
        n_classes=397,
        metric=HeadlineMetric.TOP1,
        sizes={"train": 19_850, "test": 19_850},
        paper_sizes=(19_850, 19_850),
        split="official partition 1",
        citation="Xiao et al. SUN Database. CVPR 2010",
        torchvision=TorchvisionSource("SUN397", {"train": {}, "test": {}}),
        note="split by Training_01.txt and Testing_01.txt of the project's Partitions.zip",
    ),
    KnownDataset(
        slug="stanford_cars",
        title="Stanford Cars",
        n_classes=196,
        metric=HeadlineMetric.TOP1,
        sizes={"train": 8_144, "test": 8_041},
        paper_sizes=(8_144, 8_041),
        split="official",
        citation="Krause et al. 3D Object Representations. 3dRR 2013",
        torchvision=TorchvisionSource("StanfordCars", TRAIN_TEST, downloads=False),
        files="the official address is gone; torchvision issue 7545 lists mirrors",
    ),
    KnownDataset(
        slug="fgvc_aircraft",
        title="FGVC Aircraft",
        n_classes=100,
        metric=HeadlineMetric.MEAN_PER_CLASS,
        sizes={"train": 3_334, "val": 3_333, "test": 3_333},
        paper_sizes=(6_667, 3_333),
        split="official",
        citation="Maji et al. Fine-Grained Visual Classification of Aircraft. 2013",
        torchvision=TorchvisionSource("FGVCAircraft", TRAIN_VAL_TEST),
    ),
    KnownDataset(
        slug="voc2007",
        title="PASCAL VOC 2007",
        n_classes=20,
        metric=HeadlineMetric.MAP_11_POINT,
        sizes={"train": 2_501, "val": 2_510, "test": 4_952},
        paper_sizes=(5_011, 4_952),
        split="official",
        citation="Everingham et al. The PASCAL Visual Object Classes Challenge. IJCV 2010",
        torchvision=TorchvisionSource(
            "VOCDetection",
            {
                "train": {"year": "2007", "image_set": "train"},
                "val": {"year": "2007", "image_set": "val"},
                "test": {"year": "2007", "image_set": "test"},
            },
        ),
        note="multi-label; a class is present where any object of it is, difficult ones included",
    ),
    KnownDataset(
        slug="dtd",
        title="Describable Textures",
        n_classes=47,
        metric=HeadlineMetric.TOP1,
        sizes={"train": 1_880, "val": 1_880, "test": 1_880},
        paper_sizes=(3_760, 1_880),
        split="official partition 1",
        citation="Cimpoi et al. Describing Textures in the Wild. CVPR 2014",
        torchvision=TorchvisionSource("DTD", TRAIN_VAL_TEST),
    ),
    KnownDataset(
        slug="oxford_pets",
        title="Oxford-IIIT Pets",
        n_classes=37,
        metric=HeadlineMetric.MEAN_PER_CLASS,
        sizes={"train": 3_680, "test": 3_669},
        paper_sizes=(3_680, 3_669),
        split="official",
        citation="Parkhi et al. Cats and Dogs. CVPR 2012",
        torchvision=TorchvisionSource(
            "OxfordIIITPet", {"train": {"split": "trainval"}, "test": {"split": "test"}}
        ),
    ),
    KnownDataset(
        slug="caltech101",
        title="Caltech-101",
        n_classes=102,
        metric=HeadlineMetric.MEAN_PER_CLASS,
        sizes={"train": 3_060, "test": 6_084},
        paper_sizes=(3_060, 6_085),
        split="30 per class train, rest test",
        citation="Fei-Fei, Fergus, Perona. CVPR Workshops 2004",
        torchvision=TorchvisionSource("Caltech101", UNSPLIT),
        rule=PerClassRule(train=30, test=None),
        note="BACKGROUND_Google is the 102nd class; the files hold 9,144 images, Table 9 sums to "
        "9,145; the paper's choice of 30 is not published",
    ),
    KnownDataset(
        slug="flowers102",
        title="Oxford Flowers 102",
        n_classes=102,
        metric=HeadlineMetric.MEAN_PER_CLASS,
        sizes={"train": 1_020, "val": 1_020, "test": 6_149},
        paper_sizes=(2_040, 6_149),
        split="official",
        citation="Nilsback, Zisserman. ICVGIP 2008",
        torchvision=TorchvisionSource("Flowers102", TRAIN_VAL_TEST),
    ),
)

KNOWN_DATASETS: tuple[KnownDataset, ...] = KORNBLITH_ROWS + CLIP_ROWS
"""All rows, in the order of Table 9."""


def find_known(name: str) -> KnownDataset | None:
    """The row of this slug, or of this torchvision class; None where there is none."""
    for row in KNOWN_DATASETS:
        if row.slug == name or (row.torchvision and row.torchvision.name == name):
            return row
    return None


def table_text() -> str:
    """The table as the command ``datasets`` prints it."""
    header = ("name", "classes", "train", "val", "test", "metric", "files", "split")
    rows = [header, *(_cells(row) for row in KNOWN_DATASETS)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    numbers = {1, 2, 3, 4}
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column in numbers else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def _cells(row: KnownDataset) -> tuple[str, ...]:
    """One line of the table."""
    sizes = row.sizes or {}
    counts = (f"{sizes[split]:,}" if split in sizes else "-" for split in ("train", "val", "test"))
    return (row.slug, str(row.n_classes), *counts, row.metric.value, row.provider, row.split)
