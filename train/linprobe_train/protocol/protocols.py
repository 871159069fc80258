"""Named protocols: how a number is made, frozen, so that two numbers can be compared.

Which values of C a sweep tries: pure plans over the scores known so far.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from linprobe.errors import OptionError

EIGHTHS_PER_DECADE = 8
"""The finest step of the CLIP paper's search (appendix A.3): 8 values a decade."""


@dataclass(frozen=True)
class ListGrid:
    """Every value, once."""

    values: tuple[float, ...]
    """Values of C, ascending, all positive."""


@dataclass(frozen=True)
class HalvingGrid:
    """The search of the CLIP paper, appendix A.3, read literally.

    "a parametric binary search that starts with lambda = [1e-6, 1e-4, 1e-2, 1, 1e2, 1e4, 1e6] and
    iteratively halves the interval around the peak until it reaches a resolution of 8 steps per
    decade." Four halvings, both neighbours of the peak each time, no value fitted twice.

    All numbers are eighths of a decade of log10 C, so that equal values are equal.
    """

    first: tuple[int, ...] = tuple(range(-48, 49, 16))
    """Where the search starts: -48 is C = 1e-6."""
    steps: tuple[int, ...] = (8, 4, 2, 1)
    """Distance to the neighbours tried after each halving."""


Grid = ListGrid | HalvingGrid


def list_grid(values: tuple[float, ...]) -> ListGrid:
    """Check and sort values of C.

    Raises
    ------
    OptionError : no value, or one that is not positive and finite.
    """
    bad = [value for value in values if not 0 < value < float("inf")]
    if bad or not values:
        found = f"C = {bad[0]:g}" if bad else "no value of C"
        raise OptionError(f"{found}; expected positive numbers", hint="for example --C 0.316")
    return ListGrid(tuple(sorted(set(values))))


def best_C(scores: Mapping[float, float]) -> float:
    """The C with the highest score; of several, the smallest."""
    return min(scores, key=lambda C: (-scores[C], C))


def next_values(grid: Grid, scores: Mapping[float, float]) -> tuple[float, ...]:
    """Values to fit next, ascending, given the score of every C fitted so far; () when done."""
    if isinstance(grid, ListGrid):
        return tuple(C for C in grid.values if C not in scores)
    known = set(grid.first)
    low, high = min(known), max(known)
    missing = _missing(known, scores)
    for step in grid.steps:
        if missing:
            break
        peak = min(known, key=lambda e: (-scores[_value(e)], e))
        known |= {e for e in (peak - step, peak + step) if low <= e <= high}
        missing = _missing(known, scores)
    return missing


def _missing(known: set[int], scores: Mapping[float, float]) -> tuple[float, ...]:
    return tuple(_value(e) for e in sorted(known) if _value(e) not in scores)


def _value(eighths: int) -> float:
    return float(10 ** (eighths / EIGHTHS_PER_DECADE))


@dataclass(frozen=True)
class Protocol:
    """Everything that decides a result besides the features and the seed."""

    name: str
    """``default``, ``clip-paper``, ``clip-readme``, ``dino``, or ``custom`` once changed."""
    tap: str
    """Where features are taken from: ``embedding`` or ``pre_projection``."""
    normalize: bool
    """Whether rows are divided by their L2 norm."""
    standardize: bool
    """Whether features are then standardised with the training rows' mean and deviation."""
    grid: Grid
    """Values of C; one value means no sweep."""


DEFAULT = Protocol("default", "embedding", True, False, HalvingGrid())
"""The ``embedding`` tap, L2-normalised, the search of the CLIP paper."""

CLIP_PAPER = Protocol("clip-paper", "pre_projection", False, False, HalvingGrid())
"""Radford et al. 2021, appendix A.3: features before the projection, not normalised, 7 values of C
then halvings to 8 a decade, at most 1,000 iterations, train and val joined for the final fit."""

CLIP_README = Protocol("clip-readme", "embedding", False, False, ListGrid((0.316,)))
"""The example of the openai/CLIP README: ``encode_image`` as it comes, C = 0.316, no sweep."""

DINO = Protocol(
    "dino", "embedding", False, False, ListGrid(tuple(10 ** (-6 + 0.25 * i) for i in range(45)))
)
"""DINOv2's and SimCLR's (appendix B.8) 45 values of C, 1e-6 to 1e5, four a decade, all of them."""

PROTOCOLS = {p.name: p for p in (DEFAULT, CLIP_PAPER, CLIP_README, DINO)}


def protocol_named(name: str) -> Protocol:
    """Look a protocol up.

    Raises
    ------
    OptionError : no such protocol.
    """
    if name not in PROTOCOLS:
        raise OptionError(
            f"no protocol {name!r}; known: {', '.join(PROTOCOLS)}",
            hint="linprobe probe --protocol default",
        )
    return PROTOCOLS[name]
