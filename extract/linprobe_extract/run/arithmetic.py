"""What a run says of its arithmetic: what it is, why, how fast; and who computed otherwise.

``auto`` may be another precision on another machine, and the features are another encoder's then.
"""

from dataclasses import replace
from pathlib import Path

from linprobe_extract.encoders.family import EncoderChoice
from linprobe_store.format.spec import EncoderSpec
from linprobe_store.handles.store import FeatureStore


def precision_text(precision: str, reason: str, images_per_s: float | None) -> str:
    """In what an encoder computes, why, and how fast; None where that is not known."""
    rate = "" if images_per_s is None else f"; about {images_per_s:.3g} images/s"
    return f"{precision}: {reason}{rate}"


def other_precisions(asked: object, spec: EncoderSpec, store: Path) -> tuple[str, ...]:
    """Say which encoders of a store ``auto`` might have meant: they differ in precision alone.

    Parameters
    ----------
    asked : the choice of the encoder, or an encoder; of what was chosen by name nothing is said.
    spec : of the encoder as it is here; the canary of another machine may differ too.
    """
    if not isinstance(asked, EncoderChoice) or asked.precision != "auto":
        return ()
    lines = []
    for other in FeatureStore(store).encoders():
        pixels = other.spec.preprocess
        if pixels is None or spec.preprocess is None or other.spec.precision == spec.precision:
            continue
        pixels = replace(pixels, canary=spec.preprocess.canary)
        if replace(other.spec, precision=spec.precision, preprocess=pixels) == spec:
            lines.append(
                f"{other.path.name} in the store is the same model in {other.spec.precision}; in "
                f"{spec.precision} it is another encoder, whose features no probe mixes with "
                f"those: --precision {other.spec.precision} goes on with the one that is there"
            )
    return tuple(lines)
