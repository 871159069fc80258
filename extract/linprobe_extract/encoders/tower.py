"""Vision towers: pixels (b, 3, s, s) to features (b, d) by tap, and all that identifies them.

``embedding`` is what ``encode_image`` returns, bit for bit; ``pre_projection``, if any, is what
enters the last linear map (the CLIP paper's appendix A.3 probes it). A transformer may have more,
see :mod:`.tokens`.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn import functional

from linprobe.errors import LinprobeError
from linprobe.records import JsonValue
from linprobe_extract.encoders.tokens import Tokens, TokenTaps, open_clip_tokens
from linprobe_extract.pixels.canary import ReferenceTransform
from linprobe_store.format.spec import PreprocessSpec
from linprobe_store.format.taps import expand_taps, is_block


@dataclass(frozen=True)
class LoadedTower:
    """A vision tower with its weights, on the CPU in float32, in evaluation mode."""

    taps: nn.Module
    """Maps normalised pixels to a dict of un-normalised features; the order of taps is fixed."""
    architecture: str
    """Library and kind, such as ``open_clip:VisionTransformer``."""
    config: Mapping[str, JsonValue]
    """Without the library's defaults: an upgrade that adds an option changes no identity."""
    activation: str
    """Effective activation, read off the modules (:func:`effective_activation`)."""
    weights_sha256: str
    """Digest of the whole tower as loaded (``weights.digest_weights``)."""
    preprocess: PreprocessSpec
    """As the model's configuration says; its path is ``exact`` and its canary empty."""
    reference: ReferenceTransform | None
    """The library's own transform, against which ours is checked; None where ``preprocess`` is an
    ``OwnPixels``, which is called as it is."""
    more: tuple[str, ...] = ()
    """Taps that ``taps``, a ``TokenTower``, can give beside its own."""
    n_blocks: int = 0
    """Blocks of a transformer, whose class tokens are taps; 0 for another tower."""
    may_cast: bool = True
    """Whether ``--precision auto`` may choose 16 bits: not for code that was not tried in them."""


def effective_activation(module: nn.Module) -> str:
    """Name the activations that a module really uses, sorted, such as ``quick_gelu``.

    An open_clip architecture and its ``-quickgelu`` twin have the same weights: only the modules
    tell. Activations are leaves without parameters out of an activation module of torch or timm.
    """
    names = set()
    for each in module.modules():
        kind = type(each)
        leaf = next(each.children(), None) is None and next(each.parameters(), None) is None
        if not leaf or isinstance(each, nn.Softmax):  # which is attention's
            continue
        if kind.__name__ == "QuickGELU":
            names.add("quick_gelu")
        elif "activation" in kind.__module__:
            tanh = kind.__name__ == "GELUTanh" or getattr(each, "approximate", "") == "tanh"
            names.add("gelu_tanh" if tanh else kind.__name__.lower())
    return "+".join(sorted(names)) or "none"


class ChosenTaps(nn.Module):
    """Some of the taps of a tower; ``more`` says what else it has, for a refusal."""

    def __init__(self, base: nn.Module, names: Collection[str], more: str) -> None:
        super().__init__()
        self.base = base
        self._names = frozenset(names)
        self._more = more

    def forward(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Run the tower, and keep its order; a LinprobeError for a tap that it does not give."""
        taps = self.base(pixels)
        if missing := sorted(self._names - taps.keys()):
            hint = f"it has {', '.join(taps)}{self._more}"
            raise LinprobeError(f"this encoder has no tap {missing[0]!r}", hint=hint)
        return {name: features for name, features in taps.items() if name in self._names}


def choose_taps(tower: LoadedTower, asked: Sequence[str]) -> nn.Module:
    """Give the module of the taps that are asked for, or of the tower's own where none is.

    It raises a LinprobeError for one that the tower does not have, when it runs.
    """
    if not asked:
        return tower.taps
    names = expand_taps(asked, tower.n_blocks)
    more = [name for name in tower.more if name in names]
    others = [name for name in tower.more if not is_block(name) and name not in names]
    if tower.n_blocks:
        others.append(f"block-1 to block-{tower.n_blocks}")
    taps = TokenTaps(tower.taps, more, tower.n_blocks) if more else tower.taps
    return ChosenTaps(taps, names, "".join(f", {name}" for name in others))


class PooledTaps(nn.Module):
    """A timm model, whose feature is the pooled output before its classifier."""

    def __init__(self, model: Any) -> None:  # noqa: ANN401 - timm's models share no class
        super().__init__()
        self.model = model

    def forward(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Run the model up to its classifier."""
        grid = self.model.forward_features(pixels)
        return {"embedding": self.model.forward_head(grid, pre_logits=True)}

    def tokens(self, pixels: torch.Tensor, blocks: Sequence[int]) -> Tokens:
        """Run the model by timm's API for it; a class token is the first of the prefix."""
        n_prefix = self.model.num_prefix_tokens
        normed, inside = self.model.forward_intermediates(
            pixels, indices=[*blocks], return_prefix_tokens=n_prefix > 0, output_fmt="NLC"
        )
        return Tokens(
            {"embedding": self.model.forward_head(normed, pre_logits=True)},
            normed[:, 0] if n_prefix else None,
            normed[:, n_prefix:],
            [prefix[:, 0] for _, prefix in inside] if n_prefix else (),
        )


class OwnTaps(nn.Module):
    """A module of one's own, which gives features, or a dict of them by tap."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Run the module; a LinprobeError where it gives no tensors."""
        out = self.module(pixels)
        taps = out if isinstance(out, dict) else {"embedding": out}
        for name, features in taps.items():
            if not isinstance(features, torch.Tensor):
                problem = f"the module gives a {type(features).__name__} as {name!r}"
                hint = "it returns features (b, d), or a dict of them by the names of taps"
                raise LinprobeError(f"{problem}, expected a tensor", hint=hint)
        return taps


class ParameterTaps(nn.Module):
    """A tower that ends in ``pooled @ proj``, as open_clip's VisionTransformer does."""

    def __init__(self, visual: Any, proj: nn.Parameter) -> None:  # noqa: ANN401 - untyped
        super().__init__()
        self.visual = visual  # without its proj: it then returns the pooled features
        self.proj = proj

    def forward(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Pool, then project."""
        pooled = self.visual(pixels)
        return {"embedding": pooled @ self.proj, "pre_projection": pooled}

    def tokens(self, pixels: torch.Tensor, blocks: Sequence[int]) -> Tokens:
        """Run the tower by open_clip's API for it."""
        last = self.visual.transformer.layers - 1
        inside = open_clip_tokens(self.visual, pixels, [*blocks, last])
        pooled, norm = inside["image_features"], self.visual.ln_post
        prefixes = [prefix[:, 0] for prefix in inside["image_intermediates_prefix"]]
        # Attention pools before the norm, to other dimensions: those are no tokens of images.
        has_norm = self.visual.attn_pool is None
        return Tokens(
            {"embedding": pooled @ self.proj, "pre_projection": pooled},
            norm(prefixes[-1]) if has_norm else None,
            norm(inside["image_intermediates"][-1]) if has_norm else None,
            prefixes,
        )


class LinearTaps(nn.Module):
    """A tower whose last module may be a linear layer: its input is kept as it passes."""

    def __init__(self, visual: Any, projection: nn.Linear | None) -> None:  # noqa: ANN401 - untyped
        super().__init__()
        self.visual = visual
        self._entering: torch.Tensor | None = None
        if projection is not None:
            projection.register_forward_pre_hook(self._keep)

    def _keep(self, _module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        self._entering = inputs[0]

    def forward(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Run the tower as it is."""
        return self._with_entering(self.visual(pixels))

    def tokens(self, pixels: torch.Tensor, blocks: Sequence[int]) -> Tokens:
        """Run a tower with a trunk of timm by open_clip's API for it."""
        trunk = self.visual.trunk
        inside = open_clip_tokens(self.visual, pixels, [*blocks, len(trunk.blocks) - 1])
        prefixes = [prefix[:, 0] for prefix in inside.get("image_intermediates_prefix", ())]
        return Tokens(
            self._with_entering(inside["image_features"]),
            trunk.norm(prefixes[-1]) if prefixes else None,
            trunk.norm(inside["image_intermediates"][-1]),
            prefixes,
        )

    def _with_entering(self, embedding: torch.Tensor) -> dict[str, torch.Tensor]:
        taps = {"embedding": embedding}
        if self._entering is not None:
            taps["pre_projection"] = self._entering
        self._entering = None
        return taps


class _AttentionPool(Protocol):
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

    def __init__(self, trunk: nn.Module, pool: _AttentionPool) -> None:
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
