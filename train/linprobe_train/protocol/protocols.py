"""Named protocols: how a number is made, frozen, so that two numbers can be compared.

To add a protocol, add a row to :data:`ROWS`; a package of your own adds one without a fork through
the entry-point group ``linprobe.protocols``, whose entries name :class:`Row` objects.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Final, Literal
from typing import Protocol as Typed

import msgspec
import msgspec.structs

from linprobe.errors import OptionError
from linprobe.plugins import declared


class Values(Typed):
    """Says which values of C to try."""

    def next_values(self, scores: Mapping[float, float]) -> tuple[float, ...]:
        """Values to fit next, ascending, given the score of every C fitted so far; () when done."""
        ...


class Grid(msgspec.Struct, frozen=True, omit_defaults=True):
    """Values of C to try: a list, or a search that halves its steps around the peak.

    A search counts in eighths of a decade of log10 C, so that equal values are equal. JSON leaves
    out what is empty, so that the ids of questions depend on what a grid says alone.
    """

    values: tuple[float, ...] = ()
    """Each tried once, ascending."""
    first: tuple[int, ...] = ()
    """Where a search starts: -48 is C = 1e-6."""
    steps: tuple[int, ...] = ()
    """Distance from the peak to the two neighbours tried after each halving."""
    coarse_rows: int = 0
    """Rows, a stratified part, that are searched first, see :mod:`.coarse`. 0 for all rows."""

    def on_part(self, coarse_rows: int) -> "Grid":
        """The same values, tried on a part of the rows; for refusals see the protocol's."""
        if coarse_rows < 0 or (coarse_rows and len(self.values) == 1):
            why = (
                "expected 0 or more" if coarse_rows < 0 else "with a single C: nothing is searched"
            )
            hint = "leave --coarse-rows out, or give a number of rows to search on, such as 100000"
            raise OptionError(f"--coarse-rows {coarse_rows}; {why}", hint=hint)
        return msgspec.structs.replace(self, coarse_rows=coarse_rows)

    @property
    def places(self) -> dict[int, float]:
        """Every value that can be tried, ascending: of a list by place, else by log10 C eighths."""
        if self.values:
            return dict(enumerate(self.values))
        return {e: float(10 ** (e / 8)) for e in range(self.first[0], self.first[-1] + 1)}

    @property
    def count(self) -> int:
        """Most values that are tried."""
        return len(self.values) or len(self.first) + 2 * len(self.steps)

    def next_values(self, scores: Mapping[float, float]) -> tuple[float, ...]:
        """Values to fit next, ascending, given the score of every C fitted so far; () when done."""
        if self.values:
            return tuple(C for C in self.values if C not in scores)
        C_of, known = self.places, set(self.first)
        for step in (0, *self.steps):
            if step:
                peak = min(known, key=lambda e: (-scores[C_of[e]], e))
                known |= {peak - step, peak + step} & C_of.keys()
            missing = tuple(C_of[e] for e in sorted(known) if C_of[e] not in scores)
            if missing:
                return missing
        return ()


def list_grid(*values: float) -> Grid:
    """A grid of these values; ``OptionError`` for none, or one that is not positive and finite."""
    bad = [value for value in values if not 0 < value < float("inf")]
    if bad or not values:
        what = f"C = {bad[0]:g}" if bad else "no value of C"
        raise OptionError(f"{what}; expected positive numbers", hint="for example --C 0.316")
    return Grid(values=tuple(sorted(set(values))))


HALVING = Grid(first=tuple(range(-48, 49, 16)), steps=(8, 4, 2, 1))
"""The search of the CLIP paper, appendix A.3, read literally.

"a parametric binary search that starts with lambda = [1e-6, 1e-4, 1e-2, 1, 1e2, 1e4, 1e6] and
iteratively halves the interval around the peak until it reaches a resolution of 8 steps per
decade." Four halvings, both neighbours of the peak each time, no value fitted twice.
"""


def best_C(scores: Mapping[float, float]) -> float:
    """The C with the highest score; of several, the smallest."""
    return min(scores, key=lambda C: (-scores[C], C))


BAND_GRID = Grid(first=HALVING.first, steps=(8, 4))
"""The same down to half decades: loss over C is smooth, and eighths found nothing better."""

Rule = Literal["score", "nll-band-1"]
"""How C is chosen on held-out rows: the best score, or see :mod:`.band`."""
BAND: Final = "nll-band-1"
"""The rule of :mod:`.band`."""


@dataclass(frozen=True)
class Protocol:
    """Everything that decides a result besides the features and the seed.

    Examples
    --------
    >>> from linprobe import PROTOCOLS
    >>> paper = PROTOCOLS["clip-paper"].changed(tap="embedding")
    >>> paper.name, paper.tap, paper.grid.count    # at most so many values of C
    ('clip-paper-custom', 'embedding', 15)
    """

    name: str
    """As in ``--protocol``; ends in ``-custom`` once changed."""
    tap: str
    """Where features are taken from: ``embedding`` or ``pre_projection``."""
    normalize: bool
    """Whether rows are divided by their L2 norm."""
    standardize: bool
    """Whether features are then standardised with the training rows' mean and deviation."""
    grid: Grid
    """Values of C; one value means no sweep."""
    rule: Rule = "score"
    """How C is chosen among them, and on which rows: ``score`` takes the best score on val, or on a
    tenth of train."""

    def asked(self, metric: str | None, folds: int) -> "Protocol":
        """The protocol where somebody names a metric to choose C by, or folds: the best score."""
        return self if metric is None and not folds else self.changed(rule="score")

    def changed(
        self,
        *,
        tap: str | None = None,
        normalize: bool | None = None,
        standardize: bool | None = None,
        grid: Grid | None = None,
        rule: Rule | None = None,
        coarse_rows: int | None = None,
    ) -> "Protocol":
        """The parts that are not None instead, under the name of what it is not any more.

        Values of C that somebody names are searched by score. ``OptionError``: coarse rows below 0,
        or where nothing is searched.
        """
        named: Rule = self.rule if grid is None else "score"
        if coarse_rows is not None:
            grid = (self.grid if grid is None else grid).on_part(coarse_rows)
        new = replace(
            self,
            tap=self.tap if tap is None else tap,
            normalize=self.normalize if normalize is None else normalize,
            standardize=self.standardize if standardize is None else standardize,
            grid=self.grid if grid is None else grid,
            rule=named if rule is None else rule,
        )
        return new if new == self else replace(new, name=f"{self.name}-custom")


@dataclass(frozen=True)
class Row:
    """A protocol that can be named."""

    protocol: Protocol
    """What it does."""
    summary: str
    """The same in one line, with its source: what ``--help`` prints."""


DEFAULT = Protocol("default", "embedding", True, False, BAND_GRID, BAND)
DINO_GRID = list_grid(*(10 ** (-6 + 0.25 * i) for i in range(45)))
ROWS = (
    Row(
        DEFAULT,
        "embedding, L2-normalised, C by held-out likelihood: on val of 100 rows and more, else on "
        "5 folds, of 10,000 rows and more on a tenth",
    ),
    Row(
        Protocol("clip-paper", "pre_projection", False, False, HALVING),
        "pre_projection as it is, C from 1e-6 to 1e6 by halving to 8 values a decade: Radford et "
        "al. 2021, appendix A.3",
    ),
    Row(
        Protocol("clip-readme", "embedding", False, False, list_grid(0.316)),
        "embedding as it is, C = 0.316 without a sweep: the README of openai/CLIP",
    ),
    Row(
        Protocol("dino", "embedding", False, False, DINO_GRID),
        "embedding as it is, all 45 values of C from 1e-6 to 1e5: DINOv2, and SimCLR's appendix "
        "B.8",
    ),
)
"""Ours, in the order of ``--help``."""
PROTOCOLS: Mapping[str, Protocol] = {row.protocol.name: row.protocol for row in ROWS}
"""Ours, by name."""


@cache
def all_protocols() -> Mapping[str, Row]:
    """Every protocol by name: ours, then those of installed packages."""
    return {row.protocol.name: row for row in (*ROWS, *declared("linprobe.protocols", Row))}


def protocol_named(name: str) -> Protocol:
    """Look a protocol up; ``OptionError`` lists those there are."""
    known = all_protocols()
    if name not in known:
        what = f"no protocol {name!r}; known: {', '.join(known)}"
        raise OptionError(what, hint="--protocol default")
    return known[name].protocol


def protocols_help() -> str:
    """What ``--help`` says of our protocols."""
    return "; ".join(f"{row.protocol.name} ({row.summary})" for row in ROWS) + "."


def parse_grid(C: float | None, grid: str | None) -> Grid | None:
    """Read ``--C`` or ``--grid``, None for neither; ``OptionError`` for both or no numbers."""
    if C is not None and grid is not None:
        raise OptionError("--C and --grid contradict each other", hint="pass one of them")
    if grid is None:
        return None if C is None else list_grid(C)
    try:
        return list_grid(*(float(value) for value in grid.split(",")))
    except ValueError as error:
        what = f"--grid {grid!r} is not a list of numbers"
        raise OptionError(what, hint="for example --grid 0.1,1,10") from error
