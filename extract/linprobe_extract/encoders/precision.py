"""The arithmetic of a forward pass: what ``auto`` means on a device, and towers cast to it.

Precision is part of an encoder's identity, so ``auto`` is a rule over facts and never a race of
timings: every process on a device, a dry run, a run and its repetition choose the same. What the
rule rests on was measured once; the table stands in ``extract/README.md``.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from linprobe_extract.encoders.family import Arithmetic, Precision

_BF16_UNITS = {"amx_bf16": "AMX", "avx512_bf16": "AVX512-BF16"}
"""Units that multiply in bf16, by their flag in ``torch.cpu.get_capabilities``; fastest first."""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_BatchNorm = nn.modules.batchnorm._BatchNorm  # noqa: SLF001 - the common base


@dataclass(frozen=True)
class DeviceFacts:
    """What a choice of precision has to know of a device."""

    kind: Literal["cpu", "cuda"]
    bf16_units: str | None = None
    """What a CPU multiplies bf16 with, such as ``AMX``; None without."""
    capability: tuple[int, int] = (0, 0)
    """Compute capability of a CUDA device."""


@dataclass(frozen=True)
class PrecisionPlan:
    """An arithmetic to compute in."""

    precision: Arithmetic
    reason: str
    """Why, in a few words for a person."""


def plan_precision(asked: Precision, facts: DeviceFacts, path: str) -> tuple[PrecisionPlan, ...]:
    """Choose the arithmetic of a tower: the first plan in which it computes finite features.

    Parameters
    ----------
    asked : what the person asked for; all but ``auto`` is the only plan.
    facts : of the device that it will run on.
    path : the preprocessing; who asks for ``exact`` wants the numbers of the model's own library,
        which computes in fp32.
    """
    if asked != "auto":
        return (PrecisionPlan(asked, "as asked"),)
    if path == "exact":
        return (PrecisionPlan("fp32", "--preprocess exact is for the numbers of the library"),)
    if facts.kind == "cpu" and facts.bf16_units is None:
        known = " or ".join(_BF16_UNITS.values())
        return (PrecisionPlan("fp32", f"torch {torch.__version__} sees no {known} in this CPU"),)
    if facts.kind == "cpu":
        bf16 = PrecisionPlan("bf16", f"this CPU multiplies in it, by {facts.bf16_units}")
        return bf16, PrecisionPlan("fp32", "the tower cannot compute in bf16")
    major, minor = facts.capability
    place = f"this GPU (compute capability {major}.{minor})"
    if major < 7:  # Volta was the first to multiply matrices in fp16
        return (PrecisionPlan("fp32", f"{place} has no units for fp16"),)
    fp16 = PrecisionPlan("fp16", f"{place} multiplies in it; it is finer than bf16 and as fast")
    if major < 8:  # and Ampere in bf16
        return fp16, PrecisionPlan("fp32", f"the tower overflows in fp16, {place} has no bf16")
    return fp16, PrecisionPlan("bf16", "the tower overflows in fp16")


def device_facts(device: torch.device) -> DeviceFacts:
    """Ask torch what a device computes in; an old torch knows nothing of a CPU's units."""
    if device.type == "cuda":
        return DeviceFacts("cuda", capability=torch.cuda.get_device_capability(device))
    flags = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    units = (name for flag, name in _BF16_UNITS.items() if flags.get(flag))
    return DeviceFacts("cpu", bf16_units=next(units, None))


def place_tower(
    tower: nn.Module, device: torch.device, precision: Arithmetic, path: str
) -> torch.memory_format:
    """Cast a float32 tower, in place, and put it on its device; tell the layout of its grids.

    Towers of convolutions have the channels of a point side by side, which is faster; but under
    ``exact`` they stay as the library has them, since the kernels for it round otherwise.
    """
    # fp32 is IEEE's float32: TF32 would round the operands of products to 10 bits of mantissa.
    torch.backends.cudnn.allow_tf32 = False
    torch.set_float32_matmul_precision("highest")
    tower.to(DTYPES[precision])
    for module in tower.modules():
        if precision != "fp32" and isinstance(module, _BatchNorm):
            module.float()  # takes rows of 16 bits as they are
        elif precision == "fp16" and _is_norm(module):
            _normalise_in_float32(module)
    is_last = path != "exact" and _is_convolutional(tower)
    layout = torch.channels_last if is_last else torch.contiguous_format
    tower.to(device)
    if is_last:
        tower.to(memory_format=layout)
    return layout


def _is_convolutional(tower: nn.Module) -> bool:
    """Whether most weights are in convolutions, as a ResNet's; ConvNeXt's are in products."""
    layers = (m for m in tower.modules() if isinstance(m, nn.modules.conv._ConvNd))  # noqa: SLF001
    in_layers = sum(layer.weight.numel() for layer in layers)
    return 2 * in_layers > sum(weight.numel() for weight in tower.parameters())


def _is_norm(module: nn.Module) -> bool:
    """Whether a module normalises with weights of its own; norms of libraries share no base."""
    has_weights = next(module.parameters(recurse=False), None) is not None
    return has_weights and any("norm" in base.__name__.lower() for base in type(module).__mro__)


def _normalise_in_float32(norm: nn.Module) -> None:
    """Compute a norm in float32 between layers in float16, as CLIP's own code does.

    What enters may be near the limit of float16, where a mean of squares is far beyond it.
    """

    def widen(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (inputs[0].float(), *inputs[1:])

    def narrow(_: nn.Module, __: object, output: torch.Tensor) -> torch.Tensor:
        return output.half()

    norm.float()
    norm.register_forward_pre_hook(widen)
    norm.register_forward_hook(narrow)
