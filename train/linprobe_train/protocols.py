"""Named protocols: how a number is made, frozen, so that two numbers can be compared."""

from dataclasses import dataclass

from linprobe_train.errors import OptionError
from linprobe_train.grids import Grid, HalvingGrid, ListGrid


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
            hint="linprobe-train probe --protocol default",
        )
    return PROTOCOLS[name]
