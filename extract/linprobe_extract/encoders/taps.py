"""Both taps of a tower in one forward pass: pixels (b, 3, s, s) to features (b, d) by tap.

``embedding`` is what the library's ``encode_image`` returns, bit for bit; ``pre_projection``, if
there is such a map, what enters the last linear one (the CLIP paper's appendix A.3 probes it).
"""

from typing import Any, Protocol

import torch
from torch import nn
from torch.nn import functional


class PooledTaps(nn.Module):
    """A timm model, whose feature is the pooled output before its classifier."""

    def __init__(self, model: Any) -> None:  # noqa: ANN401 - timm's models share no class
        super().__init__()
        self.model = model

    def forward(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Run the model up to its classifier."""
        grid = self.model.forward_features(pixels)
        return {"embedding": self.model.forward_head(grid, pre_logits=True)}


class ParameterTaps(nn.Module):
    """A tower that ends in ``pooled @ proj``, as open_clip's VisionTransformer does."""

    def __init__(self, visual: nn.Module, proj: nn.Parameter) -> None:
        super().__init__()
        self.visual = visual  # without its proj: it then returns the pooled features
        self.proj = proj

    def forward(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Pool, then project."""
        pooled = self.visual(pixels)
        return {"embedding": pooled @ self.proj, "pre_projection": pooled}


class LinearTaps(nn.Module):
    """A tower whose last module may be a linear layer: its input is kept as it passes."""

    def __init__(self, visual: nn.Module, projection: nn.Linear | None) -> None:
        super().__init__()
        self.visual = visual
        self._entering: torch.Tensor | None = None
        if projection is not None:
            projection.register_forward_pre_hook(self._keep)

    def _keep(self, _module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        self._entering = inputs[0]

    def forward(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Run the tower as it is."""
        taps = {"embedding": self.visual(pixels)}
        if self._entering is not None:
            taps["pre_projection"] = self._entering
        self._entering = None
        return taps


class AttentionPool(Protocol):
    """The parts of open_clip's ``AttentionPool2d``."""

    positional_embedding: torch.Tensor
    q_proj: nn.Linear
    k_proj: nn.Linear
    v_proj: nn.Linear
    c_proj: nn.Linear
    num_heads: int


class AttentionPoolTaps(nn.Module):
    """A ResNet of the CLIP paper, whose attention pooling ends in the projection ``c_proj``.

    This is open_clip's ``AttentionPool2d.forward``, opened up before ``c_proj``. All rows are
    computed, as there, though only the mean's is used: the sums are done in the same order.
    """

    def __init__(self, trunk: nn.Module, pool: AttentionPool) -> None:
        super().__init__()
        self.trunk = trunk  # an identity in place of its pooling: it returns grids (b, d, h, w)
        self.pool = pool

    def forward(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Pool by attention, then project."""
        tokens = self.trunk(pixels).flatten(2).permute(2, 0, 1)
        tokens = torch.cat([tokens.mean(dim=0, keepdim=True), tokens], dim=0)
        tokens = tokens + self.pool.positional_embedding[:, None, :].to(tokens.dtype)
        length, batch, dim = tokens.shape
        heads = []
        for layer in (self.pool.q_proj, self.pool.k_proj, self.pool.v_proj):
            split = layer(tokens).view(length, batch * self.pool.num_heads, -1).transpose(0, 1)
            heads.append(split.reshape(batch, self.pool.num_heads, length, -1))
        mixed = functional.scaled_dot_product_attention(*heads)
        rows = mixed.permute(2, 0, 1, 3).reshape(length * batch, dim)
        return {"embedding": self.pool.c_proj(rows)[:batch], "pre_projection": rows[:batch]}
