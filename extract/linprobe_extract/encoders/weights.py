"""Checkpoints: downloaded, read from disk, checked against a module, and given an identity."""

import hashlib
import pickle
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from linprobe.errors import LinprobeError
from linprobe.names import first_few
from linprobe_extract.encoders import torchscript
from linprobe_extract.hub import cache_alone_if_unreachable

_MOST_CODE = 64 << 20
"""Most bytes that the source in a TorchScript archive unpacks to beyond the archive's own."""
_PICKLE = b"\x80"
"""First byte of a pickle."""
_MOST_SHARED = 16
"""How often the bytes of a checkpoint may stand in its tensors, which can share them."""


def read_checkpoint(path: Path) -> dict[str, torch.Tensor]:
    """Read the state dict of a checkpoint to the CPU, without running code that is in it.

    Takes ``.safetensors``, a pickled state dict (plain or under ``state_dict``), and a TorchScript
    archive (OpenAI's files), else raises a LinprobeError. The prefix ``module.`` of data-parallel
    training is removed.
    """
    try:
        state = _read_state(path)
    except Exception as error:  # what the readers raise for bytes that are no checkpoint: anything
        why = first_line(error)
        if "weights only" in why.lower():  # followed by how to run what is in it
            why = "it holds more than tensors, and what it would run is not run"
        raise LinprobeError(
            f"{path} is not a readable checkpoint: {why}",
            hint="save the state dict alone, best with safetensors.torch.save_file",
        ) from error
    if state and all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    return state


def _read_state(path: Path) -> dict[str, torch.Tensor]:
    """Read any kind, and refuse tensors far larger than the file: views that repeat its bytes."""
    if not path.is_file():  # a pipe would be waited for
        raise OSError("not a file")
    state = load_file(path) if path.suffix == ".safetensors" else _read_pickle(path)
    total, n_bytes = sum(t.numel() * t.element_size() for t in state.values()), path.stat().st_size
    if total > _MOST_SHARED * n_bytes:
        raise ValueError(f"its tensors would take {total} bytes, and the file has {n_bytes}")
    return state


def _read_pickle(path: Path) -> dict[str, torch.Tensor]:
    """Read a checkpoint of ``torch.save``, or ``torch.jit.save``, which alone writes constants."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
            if unpacked > path.stat().st_size + _MOST_CODE:  # only code is compressed
                raise ValueError(f"it would unpack to {unpacked} bytes")
            if any(name.endswith(torchscript.MARKER) for name in archive.namelist()):
                return torchscript.read_torchscript(archive)
    else:
        with path.open("rb") as file:
            if file.read(1) != _PICKLE:
                raise ValueError("neither a zip archive nor a pickle, as torch.save writes them")
    content: object = torch.load(path, map_location="cpu", weights_only=True)
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping):
        raise pickle.UnpicklingError(f"a {type(content).__name__} is not a state dict")
    return {str(name): t for name, t in content.items() if isinstance(t, torch.Tensor)}


def load_weights(module: nn.Module, state: Mapping[str, torch.Tensor], source: str) -> None:
    """Put a state dict into a module, which may be on the meta device; floats become float32.

    A LinprobeError names ``source`` and the keys that are missing, left over or of another shape.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    shared = expected.keys() & state.keys()
    problems = {
        "missing": expected.keys() - shared,
        "unexpected": state.keys() - shared,
        "of another shape": [
            f"{name} is {tuple(state[name].shape)} in the file and {expected[name]} in the model"
            for name in shared
            if tuple(state[name].shape) != expected[name]
        ],
    }
    if any(problems.values()):
        listed = [f"{what}: {first_few(sorted(k), 3)}" for what, k in problems.items() if k]
        raise LinprobeError(
            f"{source} does not fit the model: {'; '.join(listed)}",
            hint="--model must name the architecture that the checkpoint was trained with",
        )
    # A copy, because kernels round by the alignment of their operands, and a mapped file has none:
    # the same weights would give other last bits from .pt than from .safetensors.
    copies = {
        name: tensor.to(torch.float32 if tensor.is_floating_point() else tensor.dtype, copy=True)
        for name, tensor in state.items()
    }
    module.load_state_dict(copies, assign=True)


def digest_weights(module: nn.Module) -> str:
    """Sha256 over the sorted (name, dtype, shape, bytes) of a module's state, as 64 hex digits."""
    return digest_tensors(sorted(module.state_dict().items()))


def digest_tensors(named: Iterable[tuple[str, torch.Tensor]]) -> str:
    """Sha256 over the (name, dtype, shape, bytes) of tensors in their order, as 64 hex digits."""
    digest = hashlib.sha256()
    for name, tensor in named:
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def find_checkpoint(folder: Path) -> Path:
    """Find the checkpoint of a model folder; names that open_clip writes come first.

    A LinprobeError is raised if there is none, or several and none of them has such a name.
    """
    written = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
    for pattern in (*written, "*.safetensors", "*.bin", "*.pt", "*.pth"):
        files = sorted(folder.glob(pattern))
        if len(files) == 1:
            return files[0]
        if files:
            problem = f"{folder} holds {len(files)} checkpoints"
            raise LinprobeError(problem, hint=f"--weights {files[0]}")
    raise LinprobeError(f"{folder} holds no checkpoint", hint="--weights FILE")


@contextmanager
def downloading(what: str, *, hint: str = "") -> Iterator[None]:
    """Inside, something is downloaded, from the hub's cache alone if the hub does not answer.

    A LinprobeError says that it failed; ``hint`` is another way than ``--weights FILE``.
    """
    try:
        with cache_alone_if_unreachable():
            yield
    except LinprobeError:
        raise
    except Exception as error:  # the many errors of hub, urllib and libraries all mean: no file
        raise LinprobeError(
            f"cannot download {what}: {first_line(error)}",
            hint=hint or "without a network, get the file elsewhere and pass it: --weights FILE",
        ) from error


def first_line(error: Exception) -> str:
    """The first line of an error's message, or its kind if it has none."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
