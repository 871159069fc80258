"""What a person's words name: a source, or a known dataset that one of the sources reads.

A source is a module in ``pack/sources`` with the names of :class:`Source`; or, without a fork, an
entry point of the group ``linprobe.sources`` in a package of your own.
"""

import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Protocol, runtime_checkable

from linprobe.benchmarks import KnownDataset, find_known, known_datasets
from linprobe.errors import PackError
from linprobe.plugins import installed
from linprobe.terminal import command, pack_hint
from linprobe_extract.pack import sources as built_in
from linprobe_extract.pack.listing import Listing, PackOptions, dataset_slug, parse_arguments
from linprobe_extract.pack.sources import csv, folder, torchvision
from linprobe_extract.pack.splits import choose, limit_splits, split_per_class

GROUP = "linprobe.sources"
TABLE_NAME = "dataset.csv"
FOLDER = "imagefolder:FOLDER"


@runtime_checkable
class Source(Protocol):
    """A kind of source: a module, or an object, with these names."""

    NAME: str
    """What a person writes before the colon, such as ``csv``."""
    FORM: str
    """How it is written, such as ``csv:FILE``; without a colon it takes no words."""
    HELP: str
    """What it is, in one line of Markdown."""
    IS_PATH: bool
    """Whether its words are a path on this machine. What lies there is in the listing, so the
    same files are the same dataset wherever they lie."""
    NEVER_CHANGES: bool
    """Whether a finished dataset of the same words needs no new listing."""

    def list_samples(self, words: str, options: PackOptions) -> Listing:
        """List what ``words``, the text after the colon, name; PackError where that cannot be."""


@dataclass(frozen=True)
class NamedSource:
    """A source and the words that it was given; ``never_changes`` as of :class:`Source`."""

    request: str
    """What of the words decides which shards come out."""
    never_changes: bool
    path: Path | None
    """The file or folder that is read; None where the words are no path."""
    list_samples: Callable[[PackOptions], Listing]


def sources() -> Mapping[str, Source]:
    """Every source by its name, our own first; PackError where an entry point is none."""
    modules = sorted(module.name for module in pkgutil.iter_modules(built_in.__path__))
    ours = [(name, import_module(f"{built_in.__name__}.{name}")) for name in modules]
    others = [(entry.name, value) for entry, value in installed(GROUP)]
    by_name: dict[str, Source] = {}
    for place, source in [*ours, *others]:
        if not isinstance(source, Source):
            expected = f"expected {', '.join(Source.__annotations__)} and list_samples"
            hint = f"correct the entry point {GROUP} of its package, or uninstall it"
            raise PackError(f"{place} is no source: {expected}", hint=hint)
        if source.NAME in by_name:
            hint = f"rename it in its package, which names the entry point {GROUP}"
            raise PackError(f"two sources are called {source.NAME}, one of them {place}", hint=hint)
        by_name[source.NAME] = source
    return by_name


def forms() -> str:
    """How every source is written, for help and hints."""
    return " | ".join(source.FORM for source in sources().values())


def named_source(text: str) -> NamedSource:
    """What ``text`` names, such as ``csv:flowers.csv`` or ``cifar10``; PackError where nothing."""
    kind, colon, words = text.partition(":")
    source = sources().get(kind)
    if source is None or source.NAME == torchvision.NAME:
        name, _, arguments = words.partition(":") if source else (kind, colon, words)
        row = find_known(name)
        if row is not None:
            by_hand = row.torchvision is None
            return NamedSource(text, not by_hand, None, partial(list_known, row, arguments))
    if source is None or bool(words) != (":" in source.FORM):
        close = get_close_matches(text, names_without_words(), n=3)
        known = f"{forms()}, or a dataset that '{command('datasets')}' lists"
        hint = f"did you mean {' or '.join(close)}?" if close else known
        if Path(text).exists():
            shards = f"a folder of shards needs no packing: {command('extract', data=text)}"
            unpacked = f"unpack it into folders of classes first, then {command('pack', FOLDER)}"
            hint = pack_hint(Path(text)) or (shards if Path(text).is_dir() else unpacked)
        raise PackError(f"unknown source {text!r}", hint=hint)
    list_samples, never_changes = partial(source.list_samples, words), source.NEVER_CHANGES
    if source.IS_PATH:
        return NamedSource(kind, never_changes, Path(words).expanduser(), list_samples)
    return NamedSource(text, never_changes, None, list_samples)


def names_without_words() -> tuple[str, ...]:
    """The names that need nothing more: sources without words, and the known datasets."""
    alone = (source.NAME for source in sources().values() if ":" not in source.FORM)
    return (*alone, *(row.slug for row in known_datasets()))


def list_source(source: NamedSource, out: Path, options: PackOptions) -> Listing:
    """List what is to be packed into ``out``; PackError also where ``out`` lies among it."""
    root = options.root or out.with_name(f"{out.name}.source")
    for packed in (source.path, root):
        if packed is not None and out.resolve().is_relative_to(packed.resolve()):
            raise PackError(
                f"{out} lies inside {packed}, which is packed: the next run would list the shards",
                hint="choose an --out folder outside the source",
            )
    listing = source.list_samples(replace(options, root=root))
    expected = listing.expected if options.check_counts else None
    name = dataset_slug(options.name or listing.name)
    if not options.name and listing.name in names_without_words():
        name = listing.name  # the slug of a known dataset, as its file writes it
    listing = replace(listing, name=name, expected=expected)
    return listing if options.limit is None else _limited(listing, options.limit, options.seed)


def _limited(listing: Listing, limit: int, seed: int) -> Listing:
    """A part of a listing, for a try, whose name says so."""
    n = sum(map(len, listing.splits.values()))
    if n <= limit:
        return listing
    return replace(
        listing,
        name=f"{listing.name}-limit-{limit}",
        splits=limit_splits(listing.splits, limit, seed),
        notes=(*listing.notes, f"for a try: at most {limit} of {n} images, chosen by seed {seed}"),
        expected=None,
    )


def list_known(row: KnownDataset, arguments: str, options: PackOptions) -> Listing:
    """List a known dataset; PackError where its files or classes are not as expected.

    ``arguments``, such as ``folds=3``, go to the torchvision class; with any, sizes are no longer
    expected to be those of the table.
    """
    if row.torchvision is None:
        listing = _list_by_hand(row, options)
    else:
        listing = torchvision.list_class(row.torchvision, parse_arguments(arguments), options)
    if options.check_counts and len(listing.classes) != row.n_classes:
        what = f"expected {row.n_classes} classes, found {len(listing.classes)}"
        hint = "get the files again; or pass --any-counts to pack what is there"
        raise PackError(f"{row.slug}: {what}", hint=hint)
    splits, note, seed = listing.splits, f"split: {row.split}", options.seed
    if row.rule is not None and "all" in splits:
        splits, note = split_per_class(splits["all"], row.rule, seed)
    elif row.is_subset and row.sizes is not None:
        sizes, note = row.sizes, f"{row.split}, chosen by seed {seed}"
        splits = {split: choose(samples, sizes[split], seed) for split, samples in splits.items()}
    return replace(
        listing,
        name=row.slug,
        splits=splits,
        is_multi_label=row.is_multi_label,
        metric=row.metric,
        notes=(note, row.note) if row.note else (note,),
        expected=None if arguments else row.sizes,
    )


def _list_by_hand(row: KnownDataset, options: PackOptions) -> Listing:
    root = options.root or Path()
    if not root.exists():
        raise PackError(
            f"{row.slug} cannot be downloaded: get {row.files}; {root} is not there",
            hint=f"{command('pack', row.slug)} --root DIR, where DIR holds train/CLASS/IMAGE and "
            f"test/CLASS/IMAGE{' or CLASS/IMAGE' if row.rule else ''}, or {TABLE_NAME} "
            "(path,label,split)",
        )
    if (root / TABLE_NAME).exists():
        return csv.list_samples(str(root / TABLE_NAME), options)
    listing = folder.list_samples(str(root), options)
    if row.rule is None:
        return listing
    everything = [sample for samples in listing.splits.values() for sample in samples]
    return replace(listing, splits={"all": sorted(everything, key=lambda sample: sample.name)})
