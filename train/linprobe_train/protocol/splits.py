"""Stored splits as rows; test rows come only from ``open_test``, after C is chosen."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, wraps
from itertools import combinations, combinations_with_replacement
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from linprobe.errors import DataError, LinprobeError, NotFoundError, OptionError
from linprobe.terminal import Progress, Watch, command, ignore
from linprobe_store.format.taps import joined_taps
from linprobe_store.handles.dataset import StoredDataset
from linprobe_store.handles.encoder import StoredEncoder
from linprobe_store.handles.newest import newest
from linprobe_store.handles.same_images import same_images
from linprobe_store.handles.split import Split
from linprobe_store.handles.store import FeatureStore
from linprobe_store.handles.verification import Verification
from linprobe_train.scores.metrics import metric_of_labels, score_names
from linprobe_train.solver.rows import Rows, rows_of_split

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class StoredSplits:
    """The splits of one dataset by one encoder."""

    encoder: StoredEncoder
    """Whose features."""
    dataset: StoredDataset
    """Which images."""
    tap: str
    """Which point of the encoder."""
    train: Split
    """Rows to fit."""
    val: Split | None
    """The official val split, where there is one."""
    test: Split
    """Rows to score, once: only its name, digest and facts before :meth:`open_test`."""

    @property
    def all(self) -> tuple[Split, ...]:
        """Every split used: train, val where there is one, test."""
        return tuple(split for split in (self.train, self.val, self.test) if split is not None)

    def rows(self, split: Split) -> Rows:
        """View a split through the memory map; ``DataError``: empty, or labels out of range."""
        return rows_of_split(split, self.tap)

    def open_test(self) -> Rows:
        """Rows of the test split. Called once, after the final fit."""
        return self.rows(self.test)

    def verify(self) -> None:
        """Verify every split before a fit: damage is told at once, test's too, unseen as it is.

        ``IntegrityError``: a file, a row, a label or a key is not what was committed.
        """
        for split in self.all:
            split.verify(self.tap)

    def verified(self) -> dict[str, Verification]:
        """What of each split was verified, to be asked after the last pass over rows.

        ``IntegrityError``: a file that was verified has changed since.
        """
        for split in self.all:
            split.check_unchanged()
        return {split.name: split.verification() for split in self.all}

    @property
    def identity(self) -> tuple[str, str, tuple[tuple[str, str], ...]]:
        """Ids of the encoder and the dataset; name and digest of every split used, sorted."""
        splits = tuple(sorted((split.name, split.digest) for split in self.all))
        return self.encoder.encoder_id, self.dataset.dataset_id, splits

    @cached_property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics that the labels have, the usual headline first."""
        return score_names(len(self.train.classes), multi_label=self.train.labels.ndim == 2)

    def metric(self, wanted: str | None = None) -> str:
        """What C is chosen by: the metric asked for, the dataset's, or the usual of its labels.

        ``OptionError``: the labels do not have the metric asked for.
        """
        multi_label, declared = self.train.labels.ndim == 2, self.dataset.metric
        if wanted is not None:
            return metric_of_labels(wanted, len(self.train.classes), multi_label=multi_label).name
        return declared if declared in self.metrics else self.metrics[0]

    def warnings(self, metric: str) -> tuple[str, ...]:
        """What is odd about the splits, for a result in ``metric``."""
        declared, lines = self.dataset.metric, []
        if declared is not None and declared not in self.metrics:
            lines.append(
                f"{self.dataset.name} declares the metric {declared!r}, which its labels do not "
                f"have: this result is in {metric!r}; name another with --metric"
            )
        for first, second in combinations(self.all, 2):
            # Keys are unique within a split; the set is of the smaller one, for its memory.
            small, large = sorted((first, second), key=lambda split: split.n)
            known = set(small.keys)
            count = sum(key in known for key in large.keys)
            if count:
                lines.append(f"{count} keys of {second.name} are also in {first.name}")
        for first, second in combinations_with_replacement(self.all, 2):
            if len(rows := same_images(first, second)):
                keys = first.keys[int(rows[0, 0])], second.keys[int(rows[0, 1])]
                where = "come in it before" if first is second else f"are also in {first.name}"
                lines.append(
                    f"{len(rows)} images of {second.name} {where}, byte for byte: "
                    f"{keys[1]!r} is {keys[0]!r}"
                )
        return tuple(lines)


def telling_changes(
    task: Callable[Concatenate[StoredSplits, P], T],
) -> Callable[Concatenate[StoredSplits, P], T]:
    """Let a task on splits whose files change meanwhile fail by that, whatever came of it."""

    @wraps(task)
    def checked(splits: StoredSplits, /, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return task(splits, *args, **kwargs)
        except Exception:
            splits.verified()
            raise

    return checked


def check_tap(encoder: StoredEncoder, tap: str) -> None:
    """Refuse, by an ``OptionError``, a tap that an encoder does not have."""
    try:
        joined_taps(tap, encoder.spec)
    except NotFoundError as error:
        what = f"{encoder.names.model}: {error.message}; {error.hint}"
        hint = f"pass --tap {encoder.spec.taps[0].name}, or store more taps with "
        hint += command("extract", model=encoder.names.model, taps="TAP,TAP")
        raise OptionError(what, hint=hint) from None


def open_splits(
    encoder: StoredEncoder, dataset: str | None, tap: str, watch: Watch = ignore
) -> StoredSplits:
    """Find train, val and test of a dataset, by name or id; None means the only one.

    ``watch`` sees a line for every dataset that cannot be opened.
    ``NotFoundError``: no such dataset; ``DataError``: it has no train or no test split;
    ``OptionError``: the encoder has no such tap.
    """
    check_tap(encoder, tap)
    stored = encoder.dataset(dataset, watch)
    for name in ("train", "test"):
        if name not in stored.splits:
            known = ", ".join(stored.splits) or "none"
            hint = f"add it with {command('extract', split=name)}"
            raise DataError(f"{stored.name} has no {name} split; it has {known}", hint=hint)
    val = stored.split("val") if "val" in stored.splits else None
    return StoredSplits(encoder, stored, tap, stored.split("train"), val, stored.split("test"))


def find_one(
    store: Path, model: str | None, data: str | None, tap: str, watch: Watch = ignore
) -> StoredSplits:
    """Find the splits of one dataset by one encoder, by name or id; None means the only one.

    Of several encoders of a name it is the one that has the dataset. Raises as
    :meth:`FeatureStore.encoder` and :func:`open_splits` do.
    """
    wanted = () if data is None else (data,)
    encoder = FeatureStore(store).encoder(model, watch, tap=tap, data=wanted)
    return open_splits(encoder, data, tap, watch)


def find_splits(
    store: Path, model: str | None, data: tuple[str, ...], tap: str, watch: Watch = ignore
) -> list[StoredSplits]:
    """Open the splits of some datasets of an encoder.

    ``data`` are their names, each of which finds its encoder; () means every one that can be
    opened, of which it has some, and of each name the newest. ``watch`` sees a line for every
    encoder and dataset that cannot.
    """
    if data:
        first = find_one(store, model, data[0], tap, watch)  # tells what is broken, once
        return [first, *(find_one(store, model, name, tap) for name in data[1:])]
    encoder = FeatureStore(store).encoder(model, watch, tap=tap)
    listing = encoder.listing()
    listing.tell(watch)
    meant = newest(listing.sound, watch)
    if not meant:
        hint = f"add one with {command('extract', model=encoder.names.model)}"
        raise DataError(f"{store} holds no dataset for {encoder.names.model}", hint=hint)
    opened, failures = [], []
    for dataset in meant:
        try:
            opened.append(open_splits(encoder, dataset.dataset_id, tap))
        except LinprobeError as error:
            failures.append(error)
    if failures and not opened:
        raise failures[0]
    for failure in failures:
        line = f"left out: {failure.message}; {failure.hint}"
        watch(Progress(0, None, "datasets", line=line))
    return opened
