"""Split rules for sources without an official split: seeded, and the same everywhere.

A rule ranks the samples of a class by the sha256 of seed and name, not by a random generator: the
ranking does not depend on any library's stream, on the order of listing, or on the other samples,
so adding images to a class moves few of the old ones across.
"""

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from linprobe.benchmarks import PerClassRule
from linprobe.errors import PackError
from linprobe_extract.pack.listing import PackOptions, SourceSample


@dataclass(frozen=True)
class FractionRule:
    """Stratified shares: a part of every class goes to val and to test, the rest to train."""

    test: float
    """Share of each class for test, in [0, 1)."""
    val: float = 0.0
    """Share of each class for val, in [0, 1); the shares sum to less than 1."""


def describe_rule(rule: FractionRule | PerClassRule, seed: int) -> str:
    """A rule in words, for the notes of a card."""
    if isinstance(rule, PerClassRule):
        test = "the rest" if rule.test is None else f"{rule.test}"
        return f"split by seed {seed}: {rule.train} of each class train, {test} test"
    val = f", {rule.val:.0%} val" if rule.val else ""
    return f"split by seed {seed}, stratified: {rule.test:.0%} test{val}, the rest train"


def split_by_options(
    samples: Sequence[SourceSample], options: PackOptions
) -> tuple[Mapping[str, list[SourceSample]], str]:
    """Split a source without splits by the shares of the options; the splits and the rule."""
    rule = FractionRule(options.test_fraction, options.val_fraction)
    return split_by_fraction(samples, rule, options.seed), describe_rule(rule, options.seed)


def split_by_fraction(
    samples: Sequence[SourceSample], rule: FractionRule, seed: int
) -> Mapping[str, list[SourceSample]]:
    """Split each class by shares, rounded; a class of one sample goes to train.

    Multi-label samples have no one class: they are split as a whole, not stratified.

    Raises
    ------
    PackError : shares outside [0, 1), or summing to 1 or more.
    """
    if min(rule.test, rule.val) < 0 or rule.test + rule.val >= 1:
        raise PackError(
            f"expected shares of 0 or more that sum to less than 1, found test {rule.test} and "
            f"val {rule.val}",
            hint="for example --test-fraction 0.2 --val-fraction 0.1",
        )
    chosen: dict[str, str] = {}
    for group in _by_class(samples).values():
        ranked = _ranked(group, seed)
        n_test, n_val = _shares(len(ranked), rule)
        chosen |= dict.fromkeys((s.name for s in ranked[:n_test]), "test")
        chosen |= dict.fromkeys((s.name for s in ranked[n_test : n_test + n_val]), "val")
    return _gather(samples, chosen, default="train")


def split_per_class(
    samples: Sequence[SourceSample], rule: PerClassRule, seed: int
) -> Mapping[str, list[SourceSample]]:
    """Take the same number of every class for train, then for test.

    Raises
    ------
    PackError : a class has too few samples.
    """
    needed = rule.train + (1 if rule.test is None else rule.test)
    chosen: dict[str, str] = {}
    for labels, group in _by_class(samples).items():
        if len(group) < needed:
            raise PackError(
                f"class {labels}: expected at least {needed} images, found {len(group)}",
                hint="the source is not complete; get its files again",
            )
        ranked = [sample.name for sample in _ranked(group, seed)]
        n_test = len(ranked) - rule.train if rule.test is None else rule.test
        chosen |= dict.fromkeys(ranked[: rule.train], "train")
        chosen |= dict.fromkeys(ranked[rule.train : rule.train + n_test], "test")
    return _gather(samples, chosen, default=None)


def choose(samples: Sequence[SourceSample], n: int, seed: int) -> list[SourceSample]:
    """A seeded choice of ``n`` samples (all where there are fewer), in their order."""
    names = {sample.name for sample in _ranked(samples, seed)[:n]}
    return [sample for sample in samples if sample.name in names]


def _by_class(samples: Sequence[SourceSample]) -> Mapping[tuple[int, ...], list[SourceSample]]:
    """Samples by their one label; all together where any is multi-label."""
    if any(len(sample.labels) != 1 for sample in samples):
        return {(): list(samples)}
    groups: dict[tuple[int, ...], list[SourceSample]] = defaultdict(list)
    for sample in samples:
        groups[sample.labels].append(sample)
    return groups


def _ranked(samples: Sequence[SourceSample], seed: int) -> list[SourceSample]:
    """Samples in the order of the sha256 of seed and name."""

    def rank(sample: SourceSample) -> bytes:
        return hashlib.sha256(f"{seed}/{sample.name}".encode()).digest()

    return sorted(samples, key=rank)


def _shares(n: int, rule: FractionRule) -> tuple[int, int]:
    """How many of ``n`` go to test and to val.

    A class of two or more has at least one in test, where test has a share at all; every class
    has at least one in train.
    """
    if n < 2:
        return 0, 0
    n_test = min(max(round(n * rule.test), 1 if rule.test else 0), n - 1)
    n_val = min(round(n * rule.val), n - 1 - n_test)
    return n_test, n_val


def _gather(
    samples: Sequence[SourceSample], chosen: Mapping[str, str], default: str | None
) -> Mapping[str, list[SourceSample]]:
    """The samples of each split, in their order; those with no split are left out."""
    splits: dict[str, list[SourceSample]] = {}
    for sample in samples:
        split = chosen.get(sample.name, default)
        if split is not None:
            splits.setdefault(split, []).append(sample)
    return splits
