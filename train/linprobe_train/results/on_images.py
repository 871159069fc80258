"""A saved probe on images: its encoder, found beside it or in a store."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    images: Sequence[str | Path],
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
    if encoder is not None:
        saved.check_encoder(encoder.spec.encoder_id, encoder.names.model)
        features, names = encoder.encode(images, upright=card.upright)
        keys += names
        blocks.append(saved.predict_proba(join_features(features, card.tap, encoder.spec)))
    else:
        spec, file = encoder_of(saved, store), None if weights is None else Path(weights)
        paths = tuple(map(Path, images))
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
    labels = getattr(saved, "labels", np.array(saved.classes, dtype=np.str_))
    return ImagePredictions(tuple(keys), labels[p.argmax(axis=1)], p, tuple(skipped))


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
