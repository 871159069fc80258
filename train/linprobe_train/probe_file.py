"""A probe on disk: ``probe.safetensors`` for the arrays, ``probe.json`` for what they mean."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from linprobe_train.codec import decode
from linprobe_train.errors import ResultError
from linprobe_train.losses import Loss
from linprobe_train.probe import Probe

FORMAT: Literal[1] = 1
"""Version of the pair of files."""


@dataclass(frozen=True)
class ProbeCard:
    """The content of ``probe.json``: what the arrays are for."""

    encoder_id: str
    """The one encoder whose features the probe takes; "" for plain arrays."""
    encoder: str
    """Its model name."""
    dataset: str
    """What it was trained on."""
    tap: str
    """The point of the encoder."""
    normalize: bool
    """Whether rows are divided by their L2 norm first."""
    loss: Loss
    """``softmax`` or ``sigmoid``."""
    multi_label: bool
    """Whether classes are independent."""
    classes: tuple[str, ...]
    """Class names by label, k entries."""
    C: float
    """Inverse L2 strength of the fit."""
    format: Literal[1] = FORMAT
    """Version of the files."""


def save_probe(folder: Path, probe: Probe, card: ProbeCard) -> None:
    """Write both files into an existing folder."""
    arrays = {"coef": probe.coef, "intercept": probe.intercept, "fitted": probe.fitted}
    save_file({k: np.ascontiguousarray(v) for k, v in arrays.items()}, folder / "probe.safetensors")
    (folder / "probe.json").write_text(
        json.dumps(asdict(card), indent=2, ensure_ascii=False) + "\n"
    )


def read_probe(folder: Path) -> tuple[Probe, ProbeCard]:
    """Read a probe back, from a result folder.

    Raises
    ------
    ResultError : a file is missing, damaged, of another version, or the two disagree.
    """
    try:
        card = decode(ProbeCard, json.loads((folder / "probe.json").read_text()))
        arrays = load_file(folder / "probe.safetensors")
        probe = Probe(
            arrays["coef"],
            arrays["intercept"],
            card.loss,
            card.normalize,
            arrays["fitted"],
            len(card.classes),
            card.multi_label,
        )
        _check(probe)
    except (OSError, ValueError, TypeError, KeyError, SafetensorError) as error:
        raise ResultError(
            f"{folder} does not hold a probe ({error})",
            hint="pass the folder of a result, or run linprobe-train probe again",
        ) from error
    return probe, card


def _check(probe: Probe) -> None:
    fitted = len(probe.fitted)
    m = 1 if fitted == 2 and not probe.multi_label else fitted
    if probe.coef.ndim != 2 or len(probe.coef) != m or probe.intercept.shape != (m,):
        raise ValueError(
            f"coef {probe.coef.shape} and intercept {probe.intercept.shape} for {fitted} classes"
        )
    if not (np.isfinite(probe.coef).all() and np.isfinite(probe.intercept).all()):
        raise ValueError("weights are not finite")
    if probe.fitted.dtype != np.int64 or (np.diff(probe.fitted, prepend=-1) < 1).any():
        raise ValueError(f"fitted classes {probe.fitted[:5]}... are not ascending class ids")
    if probe.fitted.max(initial=0) >= probe.n_classes:
        raise ValueError(f"class {probe.fitted.max()} of {probe.n_classes}")
