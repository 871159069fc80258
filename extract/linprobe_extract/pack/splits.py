"""Split rules for sources without an official split: seeded, and the same everywhere.

Ranks in a class are the sha256 of seed and name, not a random generator's: they depend on no
library and no order of listing, and adding images moves few of the old ones across.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest
from typing import TypeAlias

from linprobe.benchmarks import PerClassRule
from linprobe.errors import PackError
from linprobe_extract.pack.listing import PackOptions, SourceSample

_Splits: TypeAlias = Mapping[str, list[SourceSample]]


def split_by_options(samples: Sequence[SourceSample], options: PackOptions) -> tuple[_Splits, str]:
    """Split each class by the shares of the options, rounded; the splits, and the rule in words.

    Every class has at least one sample in train; one of two or more has at least one in test,
    where test has a share at all. Multi-label samples are split as a whole, not stratified.
    PackError where the shares are no shares.
    """
    test, val, seed = options.test_fraction, options.val_fraction, options.seed
    if min(test, val) < 0 or test + val >= 1:
        raise PackError(
            f"expected shares from 0 that sum to less than 1, found test {test} and val {val}",
            hint="for example --test-fraction 0.2 --val-fraction 0.1",
        )
    chosen: dict[str, str] = {}
    for names in _ranked_classes(samples, seed).values():
        n = len(names)
        n_test = min(max(round(n * test), 1 if test else 0), n - 1)
        n_val = min(round(n * val), n - 1 - n_test)
        chosen |= dict.fromkeys(names, "train")
        chosen |= dict.fromkeys(names[:n_test], "test")
        chosen |= dict.fromkeys(names[n_test : n_test + n_val], "val")
    shares = f"{test:.0%} test, {val:.0%} val" if val else f"{test:.0%} test"
    return _gather(samples, chosen), f"split by seed {seed}, stratified: {shares}, the rest train"


def split_per_class(
    samples: Sequence[SourceSample], rule: PerClassRule, seed: int
) -> tuple[_Splits, str]:
    """Take the same number of every class for train, then for test, or PackError; and the rule."""
    needed = rule.train + (1 if rule.test is None else rule.test)
    chosen: dict[str, str] = {}
    for labels, names in _ranked_classes(samples, seed).items():
        if len(names) < needed:
            what = f"expected at least {needed} images, found {len(names)}"
            hint = "the source is not complete; get its files again"
            raise PackError(f"class {labels}: {what}", hint=hint)
        end = None if rule.test is None else needed
        chosen |= dict.fromkeys(names[: rule.train], "train")
        chosen |= dict.fromkeys(names[rule.train : end], "test")
    test = "the rest" if rule.test is None else rule.test
    note = f"split by seed {seed}: {rule.train} of each class train, {test} test"
    return _gather(samples, chosen), note


def limit_splits(
    splits: Mapping[str, Sequence[SourceSample]], limit: int, seed: int
) -> Mapping[str, list[SourceSample]]:
    """At most so many images in all, each split by its share, of each class as many as can be."""
    total = sum(map(len, splits.values()))
    limited = {}
    for split, samples in splits.items():
        ranked = _ranked_classes(samples, seed).values()
        in_turn = [name for names in zip_longest(*ranked) for name in names if name is not None]
        kept = set(in_turn[: max(limit * len(samples) // total, 1)])
        limited[split] = [sample for sample in samples if sample.name in kept]
    return limited


def choose(samples: Sequence[SourceSample], n: int, seed: int) -> list[SourceSample]:
    """A seeded choice of ``n`` samples (all where there are fewer), in their order."""
    names = set(_ranked(samples, seed)[:n])
    return [sample for sample in samples if sample.name in names]


def _ranked(samples: Iterable[SourceSample], seed: int) -> list[str]:
    names = (sample.name for sample in samples)
    return sorted(names, key=lambda name: hashlib.sha256(f"{seed}/{name}".encode()).digest())


def _ranked_classes(samples: Sequence[SourceSample], seed: int) -> dict[tuple[int, ...], list[str]]:
    """Ranked names by their one label; all together where any sample is multi-label."""
    is_multi_label = any(len(sample.labels) != 1 for sample in samples)
    classes: dict[tuple[int, ...], list[SourceSample]] = defaultdict(list)
    for sample in samples:
        classes[() if is_multi_label else sample.labels].append(sample)
    return {labels: _ranked(members, seed) for labels, members in classes.items()}


def _gather(samples: Sequence[SourceSample], chosen: Mapping[str, str]) -> _Splits:
    """The samples of each split, in their order; those with no split are left out."""
    splits: dict[str, list[SourceSample]] = {}
    for sample in samples:
        if sample.name in chosen:
            splits.setdefault(chosen[sample.name], []).append(sample)
    return splits
