"""A known dataset, or any other class of torchvision, as a listing."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from linprobe_extract.dataset_card import HeadlineMetric
from linprobe_extract.dataset_row import (
    TRAIN_FLAG,
    TRAIN_TEST,
    Argument,
    KnownDataset,
    SplitArguments,
    TorchvisionSource,
)
from linprobe_extract.pack_csv import list_csv
from linprobe_extract.pack_folder import list_image_folder
from linprobe_extract.pack_listing import Listing, PackError, SourceSample, dataset_slug
from linprobe_extract.pack_plan import PackOptions
from linprobe_extract.pack_split import choose, split_per_class

OTHER_CLASSES: Mapping[str, SplitArguments] = {
    "FashionMNIST": TRAIN_FLAG,
    "KMNIST": TRAIN_FLAG,
    "USPS": TRAIN_FLAG,
    "SVHN": TRAIN_TEST,
    "Imagenette": {"train": {"split": "train"}, "test": {"split": "val"}},
}
"""Classes of torchvision beyond the table whose splits are known."""
TABLE_NAME = "dataset.csv"


def list_known(row: KnownDataset, arguments: str, out: Path, options: PackOptions) -> Listing:
    """List a dataset of the table.

    Parameters
    ----------
    arguments : ``key=value,...`` passed to the torchvision class, such as ``folds=3``; with any,
        sizes are no longer expected to be those of the table.

    Raises
    ------
    PackError : its files are not there or not as expected, or have other classes.
    """
    if row.torchvision is None:
        listing = _list_by_hand(row, options)
    else:
        root = options.root or out.with_name(f"{out.name}.source")
        listing = _list_class(row.torchvision, parse_arguments(arguments), root, options)
    if options.check_counts and len(listing.classes) != row.n_classes:
        raise PackError(
            f"{row.slug}: expected {row.n_classes} classes, found {len(listing.classes)}",
            hint="get the files again; or pass --any-counts to pack what is there",
        )
    splits, notes = _apply_rule(row, listing.splits, options)
    return replace(
        listing,
        name=row.slug,
        splits=splits,
        is_multi_label=row.metric is HeadlineMetric.MAP_11_POINT,
        headline_metric=row.metric,
        notes=(*notes, *([row.note] if row.note else [])),
        expected=None if arguments else row.sizes,
    )


def list_other_class(name: str, arguments: str, out: Path, options: PackOptions) -> Listing:
    """List a class of torchvision that is not in the table.

    Raises
    ------
    PackError : its splits are not known here, or its files are not there.
    """
    if name not in OTHER_CLASSES:
        raise PackError(
            f"unknown torchvision dataset {name!r}",
            hint=f"linprobe-extract datasets lists the known ones; also {', '.join(OTHER_CLASSES)}",
        )
    root = options.root or out.with_name(f"{out.name}.source")
    source = TorchvisionSource(name, OTHER_CLASSES[name])
    listing = _list_class(source, parse_arguments(arguments), root, options)
    return replace(listing, name=dataset_slug(name), notes=("official split",))


def parse_arguments(text: str) -> dict[str, Argument]:
    """Constructor arguments from ``key=value,...``; whole numbers and true/false are such.

    Raises
    ------
    PackError : a part without ``=``.
    """
    arguments: dict[str, Argument] = {}
    for part in text.split(",") if text else ():
        key, equals, value = part.partition("=")
        if not equals or not key.isidentifier():
            raise PackError(
                f"expected key=value, found {part!r}", hint="for example torchvision:STL10:folds=3"
            )
        truth: dict[str, Argument] = {"true": True, "false": False}
        arguments[key] = int(value) if value.isdecimal() else truth.get(value.lower(), value)
    return arguments


def _list_class(
    source: TorchvisionSource,
    arguments: Mapping[str, Argument],
    root: Path,
    options: PackOptions,
) -> Listing:
    """List every split of a torchvision class; the class names are those of train."""
    from linprobe_extract.pack_torchvision import list_torchvision

    classes: tuple[str, ...] = ()
    splits: dict[str, list[SourceSample]] = {}
    for split, own in source.splits.items():
        found, samples = list_torchvision(
            source.name,
            {**own, **arguments},
            root,
            split=split,
            download=options.download and source.downloads,
        )
        classes = classes or found
        splits[split] = samples
    return Listing(source.name, classes, splits)


def _list_by_hand(row: KnownDataset, options: PackOptions) -> Listing:
    """List the folder or table that the user made of a dataset that nothing downloads."""
    if options.root is None:
        raise PackError(
            f"{row.slug} cannot be downloaded: get {row.files}",
            hint=f"linprobe-extract pack {row.slug} --root DIR, where DIR holds train/CLASS/IMAGE "
            f"and test/CLASS/IMAGE{' or CLASS/IMAGE' if row.rule else ''}, or {TABLE_NAME} "
            "(path,label,split)",
        )
    table = options.root / TABLE_NAME
    return list_csv(table, options) if table.exists() else _list_folder(row, options.root, options)


def _list_folder(row: KnownDataset, root: Path, options: PackOptions) -> Listing:
    """An image folder; where a rule is to split it, all of its images as one split."""
    listing = list_image_folder(root, options)
    if row.rule is None:
        return listing
    everything = [sample for samples in listing.splits.values() for sample in samples]
    return replace(listing, splits={"all": sorted(everything, key=lambda sample: sample.name)})


def _apply_rule(
    row: KnownDataset, splits: Mapping[str, Sequence[SourceSample]], options: PackOptions
) -> tuple[Mapping[str, Sequence[SourceSample]], list[str]]:
    """Make the splits that the table promises, and say how."""
    if row.rule is not None and "all" in splits:
        rule = row.rule
        return split_per_class(splits["all"], rule, options.seed), [rule.describe(options.seed)]
    if row.is_subset and row.sizes is not None:
        chosen = {
            split: choose(samples, row.sizes[split], options.seed)
            for split, samples in splits.items()
        }
        return chosen, [f"{row.split}, chosen by seed {options.seed}"]
    return splits, [f"split: {row.split}"]
