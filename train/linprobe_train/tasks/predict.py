"""A saved probe on new rows: the most probable classes, block by block.

Features come from the store, from an array on disk, or from image files through whatever encodes
images (:mod:`linprobe_store.image_encoder`).

What ``linprobe predict`` was asked, and the source of rows that it means.
"""

import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from linprobe.errors import DataError, OptionError, ResultError
from linprobe.machine import Device
from linprobe.records import read
from linprobe_store.format.layout import ENCODER_FILE
from linprobe_store.format.spec import EncoderSpec, SkippedSample
from linprobe_store.handles.encoder import StoredEncoder
from linprobe_store.handles.split import Split
from linprobe_store.handles.store import FeatureStore
from linprobe_store.image_encoder import ImageRequest, find_image_features
from linprobe_train.results.collect import collect
from linprobe_train.results.probe_file import SavedProbe, load_probe
from linprobe_train.solver.preparation import Float64
from linprobe_train.solver.rows import Features


@dataclass(frozen=True)
class Predicted:
    """The most probable classes of some rows."""

    keys: tuple[str, ...]
    """b names: sample keys, file names, or row numbers."""
    top: NDArray[np.int64]
    """(b, t) class ids, most probable first; of equal ones the smaller id."""
    probability: Float64
    """(b, t) their probabilities."""


@dataclass
class Skipped:
    """Images that became no features, collected while predictions are made."""

    samples: list[SkippedSample] = field(default_factory=list)
    """In order."""


def predict_split(saved: SavedProbe, split: Split, top: int) -> Iterator[Predicted]:
    """Classify a stored split.

    Raises
    ------
    DataError : the split is of another encoder; names both.
    """
    saved.check_encoder(split.encoder_id, split.encoder_names.model)
    keys = iter(split.keys)
    for p in saved.blocks(split):
        yield best_classes(p, tuple(islice(keys, len(p))), top)


def predict_array(saved: SavedProbe, features: Features, top: int) -> Iterator[Predicted]:
    """Classify an array (n, d); rows are named by their numbers."""
    start = 0
    for p in saved.blocks(features):
        yield best_classes(p, tuple(str(start + i) for i in range(len(p))), top)
        start += len(p)


def predict_images(
    saved: SavedProbe, request: ImageRequest, top: int, skipped: Skipped
) -> Iterator[Predicted]:
    """Classify image files, folders and shards; what does not decode goes to ``skipped``.

    Raises
    ------
    LinprobeError : no encoder of images is installed, or it is not the probe's; no image decodes.
    """
    n = 0
    for rows in find_image_features()(request):
        skipped.samples += rows.skipped
        n += len(rows.keys)
        if rows.keys:
            yield best_classes(saved.predict_proba(rows.features[saved.card.tap]), rows.keys, top)
    if n == 0:
        first = f"; the first is '{skipped.samples[0].key}': {skipped.samples[0].reason}"
        raise DataError(
            f"none of {len(skipped.samples)} images could be decoded{first}",
            hint="check that the files are whole images",
        )


def best_classes(p: Float64, keys: tuple[str, ...], top: int) -> Predicted:
    """Keep the best ``top`` classes of every row of p (b, k)."""
    order = np.argsort(-p, axis=1, kind="stable")[:, :top].astype(np.int64)
    return Predicted(keys, order, np.take_along_axis(p, order, axis=1))


def encoder_of(saved: SavedProbe, store: Path) -> EncoderSpec:
    """The encoder that a probe was trained on, from beside the probe or from the store.

    Raises
    ------
    ResultError : neither has it, or it is another one.
    """
    beside = saved.folder / ENCODER_FILE
    is_beside = beside.is_file()
    spec = read(EncoderSpec, beside) if is_beside else stored_encoder_of(saved, store).spec
    if spec.encoder_id != saved.card.encoder_id:
        raise ResultError(
            f"'{beside}' is encoder {spec.encoder_id[:12]}; the probe beside it takes "
            f"{saved.card.encoder_id[:12]}",
            hint="run linprobe probe again",
        )
    return spec


def stored_encoder_of(saved: SavedProbe, store: Path, query: str | None = None) -> StoredEncoder:
    """The encoder to predict with: the one asked for, which must be the probe's.

    Raises
    ------
    DataError : the one asked for is another; names both.
    NotFoundError : the store does not have it.
    """
    encoder = FeatureStore(store).encoder(query or saved.card.encoder_id or None)
    saved.check_encoder(encoder.encoder_id, encoder.names.model)
    return encoder


def load_array(path: Path) -> NDArray[np.generic]:
    """Read features from ``.npy``, or from ``.npz`` under ``features`` or as its only matrix.

    Raises
    ------
    DataError : the file is missing or holds no such array. Pickled objects are never loaded.
    """
    try:
        if path.suffix == ".npy":
            return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            found: NDArray[np.generic] = arrays[_matrix_name(arrays)]
    except (OSError, ValueError, TypeError, EOFError, BadZipFile, zlib.error) as error:
        raise DataError(
            f"'{path}' holds no matrix of features ({error})",
            hint="give a .npy file, or an .npz with an array called features",
        ) from error
    return found


def _matrix_name(arrays: Mapping[str, NDArray[np.generic]]) -> str:
    named = [name for name in ("features", "x", "X") if name in arrays]
    names = named or [name for name in arrays if arrays[name].ndim == 2]
    if len(names) != 1:
        raise ValueError(f"found arrays {', '.join(arrays) or 'none'}")
    return names[0]


def check_top(top: int, classes: int) -> int:
    """Refuse a number of classes below 1; more than there are means all.

    Raises
    ------
    OptionError : it is below 1.
    """
    if top < 1:
        raise OptionError(f"--top {top}; expected at least 1", hint="--top 5")
    return min(top, classes)


def told_skips(samples: Iterable[SkippedSample]) -> list[str]:
    """One line for every image that was skipped."""
    return [f"skipped: {one.key} ({one.reason})" for one in samples]


@dataclass(frozen=True)
class PredictRequest:
    """The options of ``linprobe predict``, as typed."""

    probe: Path | None
    """Folder of a result; None for the only one in ``out``."""
    out: Path
    """Folder of results."""
    store: Path
    """Feature store."""
    model: str | None
    """Encoder in the store; None for the probe's."""
    data: str | None
    """Dataset in the store; None for the probe's."""
    split: str
    """Split of that dataset."""
    features: Path | None
    """Array of features instead of the store."""
    images: tuple[Path, ...]
    """Images instead of features."""
    weights: Path | None
    """Checkpoint of the encoder of images."""
    device: Device
    """Where images are encoded."""
    top: int
    """Classes to give."""


@dataclass(frozen=True)
class Prediction:
    """Predictions in the making."""

    saved: SavedProbe
    """The probe."""
    blocks: Iterator[Predicted]
    """Made while they are read."""
    skipped: Skipped
    """Filled while the blocks are read."""
    top: int
    """Classes of every row."""


def start_prediction(request: PredictRequest) -> Prediction:
    """Find the probe and its rows; nothing is predicted before the blocks are read.

    Raises
    ------
    OptionError : options contradict each other or are out of range.
    ResultError : there is no probe, or several and none is named.
    DataError : the features are of another encoder; names both.
    """
    if request.images and request.features:
        raise OptionError("--images and --features contradict each other", hint="pass one of them")
    saved = load_probe(request.probe or _only_result(request.out))
    top = check_top(request.top, len(saved.classes))
    skipped = Skipped()
    return Prediction(saved, _blocks(request, saved, top, skipped), skipped, top)


def _blocks(
    request: PredictRequest, saved: SavedProbe, top: int, skipped: Skipped
) -> Iterator[Predicted]:
    if request.images:
        wanted = ImageRequest(
            encoder_of(saved, request.store),
            saved.card.encoder,
            request.weights,
            request.device,
            request.images,
        )
        return predict_images(saved, wanted, top, skipped)
    if request.features is not None:
        return predict_array(saved, load_array(request.features), top)
    encoder = stored_encoder_of(saved, request.store, request.model)
    dataset = encoder.dataset(request.data or saved.card.dataset)
    return predict_split(saved, dataset.split(request.split), top)


def _only_result(out: Path) -> Path:
    found = [one.folder for one in collect(out)]
    if len(found) > 1:
        raise ResultError(
            f"'{out}' holds {len(found)} probes; name one",
            hint=f"linprobe predict {found[0]} ...",
        )
    return found[0]
