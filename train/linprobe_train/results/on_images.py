"""A saved probe on images: its encoder, found beside it or in a store."""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from linprobe.errors import DataError, ResultError
from linprobe.machine import Device
from linprobe.names import first_few, short_id
from linprobe.records import parse
from linprobe.terminal import Watch, ignore
from linprobe_store.format.layout import ENCODER_FILE
from linprobe_store.format.spec import EncoderSpec, SkippedSample
from linprobe_store.format.taps import join_features
from linprobe_store.handles.encoder import StoredEncoder
from linprobe_store.handles.store import FeatureStore
from linprobe_store.image_encoder import ImageRequest, find_image_features
from linprobe_train.results.signed import read_beside
from linprobe_train.scores.predictions import REMAKE
from linprobe_train.solver.preparation import Float64

if TYPE_CHECKING:
    from linprobe_train.results.saved_probe import SavedProbe


@dataclass(frozen=True)
class ImagePredictions:
    """What a probe says of images, in their order."""

    keys: tuple[str, ...]
    """n names: paths, or sample keys inside a shard."""
    classes: NDArray[np.generic]
    """(n,) most probable classes."""
    probabilities: Float64
    """(n, k), columns in the order of the probe's classes."""
    skipped: tuple[SkippedSample, ...] = ()
    """The images that could not be decoded, with the reason of each."""

    def __repr__(self) -> str:
        pairs = zip(self.keys, self.classes.tolist(), strict=True)
        shown = first_few([f"{key}: {name}" for key, name in pairs], 3)
        return f"ImagePredictions({len(self.keys)} images; {shown})"


def classify_images(
    saved: "SavedProbe",
    images: str | Path | Iterable[object],
    encoder: Any,  # noqa: ANN401 - of the extract stage, which this one does not know
    weights: Path | str | None,
    device: Device,
    store: Path,
) -> ImagePredictions:
    """See :meth:`SavedProbe.predict_images`."""
    card = saved.card
    keys: list[str] = []
    skipped: list[SkippedSample] = []
    blocks = [np.empty((0, len(saved.classes)))]
    if isinstance(images, str | Path):
        images = [images]
    if encoder is not None:
        if not (hasattr(encoder, "spec") and hasattr(encoder, "encode")):
            problem = f"expected an Encoder, found a {type(encoder).__name__}"
            raise DataError(problem, hint="encoder=Encoder(NAME) loads one by its name")
        for image in images if isinstance(images, list | tuple) else ():
            _refuse_empty(image)
        saved.check_encoder(encoder.spec.encoder_id, encoder.names.model)
        features, names = encoder.encode(images, upright=card.upright)
        keys += names
        blocks.append(saved.predict_proba(join_features(features, card.tap, encoder.spec)))
    else:
        paths = tuple(_paths(images))
        if not card.encoder_id and encoder_beside(saved) is None:
            problem = "the probe was fitted on plain arrays and knows no encoder"
            hint = "give the one that made its features: encoder=Encoder(NAME)"
            raise DataError(problem, hint=hint)
        spec, file = encoder_of(saved, store), None if weights is None else Path(weights)
        request = ImageRequest(spec, card.encoder, file, device, paths, card.upright)
        for rows in find_image_features()(request):
            skipped += rows.skipped
            if rows.keys:
                keys += rows.keys
                blocks.append(saved.predict_proba(join_features(rows.features, card.tap, spec)))
    if skipped and not keys:
        first = f"the first is '{skipped[0].key}': {skipped[0].reason}"
        hint = "check that the files are whole images"
        raise DataError(f"none of {len(skipped)} images could be decoded; {first}", hint=hint)
    p = np.concatenate(blocks)
    labels = getattr(saved, "labels", card.labels)
    return ImagePredictions(tuple(keys), labels[p.argmax(axis=1)], p, tuple(skipped))


def _paths(images: object) -> Iterator[Path]:
    """Paths of images; ``DataError`` for anything else, which only a loaded encoder takes."""
    is_one = isinstance(images, bytes | Mapping | np.ndarray) or not isinstance(images, Iterable)
    for image in [images] if is_one else cast("Iterable[object]", images):
        if not isinstance(image, str | Path):
            raise DataError(
                f"expected paths of images, found a {type(image).__name__}",
                hint="give paths, or the loaded encoder as well, encoder=Encoder(NAME), which "
                "takes PIL images, arrays, bytes and datasets",
            )
        _refuse_empty(image)
        yield Path(image)


def _refuse_empty(image: object) -> None:
    if isinstance(image, str) and not image:
        raise DataError("the path of an image is empty", hint="give the path of a file or folder")


def encoder_of(saved: "SavedProbe", store: Path) -> EncoderSpec:
    """The encoder that a probe was trained on, from beside it (or ``ResultError``) or the store."""
    spec = encoder_beside(saved)
    return stored_encoder_of(saved, store).spec if spec is None else spec


def encoder_beside(saved: "SavedProbe") -> EncoderSpec | None:
    """The encoder of a probe, where the probe itself or its folder holds it; or ``ResultError``."""
    beside = saved.folder / ENCODER_FILE
    if saved.encoder is not None or not saved.folder.name or not os.path.lexists(beside):
        return saved.encoder
    data = read_beside(saved.folder, ENCODER_FILE)
    spec = parse(EncoderSpec, data, str(beside), error=ResultError, hint=REMAKE)
    if spec.encoder_id != saved.card.encoder_id:
        raise ResultError(
            f"'{beside}' is encoder {short_id(spec.encoder_id)}; the probe beside it takes "
            f"{short_id(saved.card.encoder_id)}",
            hint=REMAKE,
        )
    return spec


def stored_encoder_of(
    saved: "SavedProbe", store: Path, query: str | None = None, watch: Watch = ignore
) -> StoredEncoder:
    """The encoder to predict with: the one asked for, which must be the probe's.

    ``DataError``: it is another, naming both; ``NotFoundError``: the store does not have it.
    """
    encoder = FeatureStore(store).encoder(query or saved.card.encoder_id or None, watch)
    saved.check_encoder(encoder.encoder_id, encoder.names.model)
    return encoder
