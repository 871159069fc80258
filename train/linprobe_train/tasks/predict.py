"""A saved probe on new rows, of the store, an array or images: the most probable classes."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from linprobe.errors import DataError
from linprobe.names import first_few, short_id
from linprobe_store.format.npy import map_npy, open_npz, read_npz
from linprobe_store.format.spec import SkippedSample
from linprobe_store.format.taps import join_features
from linprobe_store.handles.split import Split
from linprobe_store.image_encoder import ImageRequest, find_image_features
from linprobe_train.results.answers import read_result
from linprobe_train.results.saved_probe import SavedProbe
from linprobe_train.scores.predictions import best_classes
from linprobe_train.solver.memory import available_bytes
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


def predict_rows(saved: SavedProbe, features: Features, top: int) -> Iterator[Predicted]:
    """Classify a stored split, or an array (n, d) whose rows are named by their numbers.

    ``DataError``: the split is of another encoder (names both), or a row cannot be classified.
    """
    keys = iter(features.keys) if isinstance(features, Split) else map(str, count())
    for p in saved.blocks(features):
        yield _predicted(p, tuple(islice(keys, len(p))), top)


def predict_file(saved: SavedProbe, path: Path, top: int) -> Iterator[Predicted]:
    """Classify the rows of a file of features; ``DataError`` as :func:`load_array`, or a row."""
    features = load_array(path)
    try:
        yield from predict_rows(saved, features, top)
    except DataError as error:
        raise DataError(f"'{path}': {error.message}", hint=error.hint) from error


def predict_images(
    saved: SavedProbe,
    request: ImageRequest,
    top: int,
    skipped: list[SkippedSample],
    notes: Counter[str],
) -> Iterator[Predicted]:
    """Classify image files, folders and shards.

    What does not decode is added to ``skipped``, remarks on the others to ``notes``.

    ``LinprobeError``: no encoder of images is installed, or it is not the probe's; nothing decodes.
    """
    has_rows = False
    for rows in find_image_features()(request):
        skipped += rows.skipped
        notes.update(rows.notes)
        if rows.keys:
            has_rows = True
            features = join_features(rows.features, saved.card.tap, request.encoder)
            yield _predicted(saved.predict_proba(features), rows.keys, top)
    if not has_rows:
        first = f"; the first is '{skipped[0].key}': {skipped[0].reason}" if skipped else ""
        raise DataError(
            f"none of {len(skipped)} images could be decoded{first}",
            hint="check that the files are whole images",
        )


def _predicted(p: Float64, keys: tuple[str, ...], top: int) -> Predicted:
    order = best_classes(p, top)
    return Predicted(keys, order, np.take_along_axis(p, order, axis=1))


def dataset_of(saved: SavedProbe) -> str:
    """What a probe was trained on: the id that its result has, or the name where it has none."""
    result = read_result(saved.folder)
    return saved.card.dataset if result is None else short_id(result.question.dataset_id)


def load_array(path: Path) -> NDArray[np.generic]:
    """Read features from ``.npy``, or from ``.npz`` under ``features`` or as its only matrix.

    ``DataError``: the file is missing or holds no such array. Pickled objects are never loaded.
    """
    hint = "give a .npy file, or an .npz with an array called features"
    if path.suffix == ".npy":
        return map_npy(path, str(path), error=DataError, hint=hint)
    with open_npz(path, error=DataError, hint=hint) as archive:
        usual: tuple[str, ...] = ("features", "x", "X")
        names = [name for name in usual if name in archive.names]
        names = names or [n for n in archive.names if len(archive.member(n).header.shape) == 2]
    if len(names) != 1:
        held = first_few(archive.names) or "no array"
        raise DataError(f"'{path}' holds no matrix of features, but {held}", hint=hint)
    limit = available_bytes()
    return read_npz(path, limit=limit, only=names, error=DataError, hint=hint)[names[0]]
