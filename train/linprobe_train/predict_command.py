"""What ``linprobe-train predict`` was asked, and the source of rows that it means."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from linprobe_store.image_features import ImageRequest
from linprobe_train.collected import collect
from linprobe_train.errors import OptionError, ResultError
from linprobe_train.predict import (
    Predicted,
    Skipped,
    check_top,
    encoder_of,
    load_array,
    predict_array,
    predict_images,
    predict_split,
    stored_encoder_of,
)
from linprobe_train.saved_probe import SavedProbe, load_probe


@dataclass(frozen=True)
class PredictRequest:
    """The options of ``linprobe-train predict``, as typed."""

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
    device: str
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
            hint=f"linprobe-train predict {found[0]} ...",
        )
    return found[0]
