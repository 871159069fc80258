"""Tokens of transformers as taps, by the APIs that libraries have for them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from torch import nn

from linprobe_store.format.taps import is_block


@dataclass(frozen=True)
class Tokens:
    """What one forward pass of a transformer gives."""

    taps: Mapping[str, torch.Tensor]
    """The tower's own."""
    cls: torch.Tensor | None
    """(b, d) class tokens after the final norm; None where the tower has none."""
    patches: torch.Tensor | None
    """(b, p, d) patch tokens after the final norm; None where none passes it."""
    blocks: Sequence[torch.Tensor]
    """(b, d) class tokens as they leave the blocks that were asked for, in order."""


class TokenTower(Protocol):
    """A module of taps that also shows its tokens."""

    def tokens(self, pixels: torch.Tensor, blocks: Sequence[int]) -> Tokens:
        """Run the tower once; ``blocks`` are counted from 0, ascending, at least one."""


def token_taps(n_blocks: int, *, has_class: bool, has_norm: bool = True) -> tuple[str, ...]:
    """Names of the taps of the tokens of a tower, in their fixed order."""
    cls = ("cls",) if has_class and has_norm else ()
    blocks = [f"block-{i}" for i in range(1, n_blocks + 1)] if has_class else []
    return (*cls, *(["patch_mean"] if has_norm else []), *blocks)


class TokenTaps(nn.Module):
    """The taps of a tower and further ones of its tokens, from one forward pass.

    ``cls`` and ``patch_mean`` are the class token, and the mean of the patch tokens, after the
    final norm; ``block-N`` is the class token as it leaves block N, counted from 1, not normed:
    transformers' ``hidden_states[N]``, and number N - 1 of timm's ``forward_intermediates``.
    """

    def __init__(self, base: nn.Module, names: Sequence[str], n_blocks: int) -> None:
        super().__init__()
        self.base = base
        self._names = tuple(names)
        blocks = [int(name.removeprefix("block-")) - 1 for name in names if is_block(name)]
        self._blocks = blocks or [n_blocks - 1]

    def forward(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Run the tower once."""
        tokens = cast("TokenTower", self.base).tokens(pixels, self._blocks)
        blocks = iter(tokens.blocks)
        taps = dict(tokens.taps)
        for name in self._names:
            if is_block(name):
                taps[name] = next(blocks)
            elif name == "cls" and tokens.cls is not None:
                taps[name] = tokens.cls
            elif name == "patch_mean" and tokens.patches is not None:
                taps[name] = tokens.patches.mean(dim=1)
        return taps


def taps_of_timm(model: Any) -> tuple[tuple[str, ...], int]:  # noqa: ANN401 - timm's share no class
    """Further taps of a timm model, and its blocks; none where it is no plain transformer."""
    kinds = {base.__name__ for base in type(model).__mro__}
    if kinds.isdisjoint(("VisionTransformer", "Eva", "Beit")):
        return (), 0
    # Some pool before the norm: then no token has passed it.
    has_norm = not isinstance(model.norm, nn.Identity)
    n_blocks, has_class = len(model.blocks), model.cls_token is not None
    return token_taps(n_blocks, has_class=has_class, has_norm=has_norm), n_blocks


def open_clip_tokens(visual: Any, pixels: torch.Tensor, blocks: Sequence[int]) -> Any:  # noqa: ANN401
    """Class tokens, patch tokens (b, p, d) of some blocks, ascending, and the pooled features."""
    return visual.forward_intermediates(
        pixels, indices=sorted(set(blocks)), output_fmt="NLC", output_extra_tokens=True
    )
