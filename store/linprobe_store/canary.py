"""Canary features: what an encoder gives for the built-in images, kept to compare machines by.

Features of one encoder are not bit-equal between devices, so they cannot be hashed; their
direction must agree all the same. The first machine stores its canary features and every later
one compares its own with them.
"""

import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from linprobe_store.checksums import REPAIR
from linprobe_store.errors import IntegrityError, MismatchError
from linprobe_store.layout import CANARY_FOLDER
from linprobe_store.records import FeatureArray
from linprobe_store.staging import Staging, told_as_store_error

_FILE = "canary.npz"


def read_canary(encoder_path: Path) -> Mapping[str, FeatureArray] | None:
    """Stored canary features (m, d) by tap; None before the first machine stored them.

    Raises
    ------
    IntegrityError : the file is damaged (it carries the checksums of the zip format).
    """
    folder = encoder_path / CANARY_FOLDER
    if not folder.exists():
        return None
    try:
        with np.load(folder / _FILE, allow_pickle=False) as arrays:
            return {tap: arrays[tap] for tap in arrays.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zipfile.LargeZipFile) as error:
        raise IntegrityError(f"{folder / _FILE}: {error}", hint=REPAIR) from error


def write_canary(encoder_path: Path, features: Mapping[str, FeatureArray]) -> bool:
    """Store canary features; False if another machine was first."""
    with told_as_store_error(encoder_path), Staging(encoder_path) as staging:
        # The keys are taps, never one of savez's own parameters: those are not valid tap names.
        np.savez(staging.path / _FILE, **dict(features))  # type: ignore[arg-type]
        return staging.publish(encoder_path / CANARY_FOLDER)


def compare_canary(
    stored: Mapping[str, FeatureArray],
    features: Mapping[str, FeatureArray],
    *,
    min_cosine: float,
    place: Path,
) -> None:
    """Compare canary features row by row.

    Raises
    ------
    MismatchError : other taps or shapes, or a cosine below ``min_cosine``.
    """
    expected = {tap: x.shape for tap, x in stored.items()}
    found = {tap: x.shape for tap, x in features.items()}
    if expected != found:
        raise MismatchError(
            f"{place}: expected canary features {expected}, found {found}",
            hint="the same encoder gives the same shapes: compare the versions in provenance.jsonl",
        )
    for tap, reference in stored.items():
        cosines = _row_cosines(reference, features[tap])
        worst = int(cosines.argmin()) if len(cosines) else 0
        if len(cosines) and not cosines[worst] >= min_cosine:
            raise MismatchError(
                f"{place}: canary image {worst}, {tap}: expected a cosine of at least "
                f"{min_cosine} with the stored features, found {cosines[worst]:.6f}",
                hint="this machine computes other features for the same encoder: compare the "
                "library versions in provenance.jsonl, or extract into another store",
            )


def _row_cosines(x: FeatureArray, y: FeatureArray) -> NDArray[np.float64]:
    """Cosine of each row of x (m, d) with the same row of y (m, d), in float64."""
    a, b = x.astype(np.float64), y.astype(np.float64)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.asarray(np.einsum("ij,ij->i", a, b) / norms)
