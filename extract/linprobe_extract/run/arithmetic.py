"""What a run says of its arithmetic: what it is, why, how fast; and who computed otherwise.

``auto`` may be another precision on another machine, and the features are another encoder's then.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from linprobe_store.format.spec import EncoderSpec
from linprobe_store.handles.store import FeatureStore


def precision_text(precision: str, reason: str, images_per_s: float | None) -> str:
    """In what an encoder computes, why, and how fast; None where that is not known."""
    rate = "" if images_per_s is None else f"; about {images_per_s:.3g} images/s"
    return f"{precision}: {reason}{rate}"


def other_precisions(spec: EncoderSpec, store: Path) -> Iterator[str]:
    """Say which encoders of a store differ in precision alone, but for a machine's canary."""
    for other in FeatureStore(store).encoders():
        if other.spec.preprocess is None or other.spec.precision == spec.precision:
            continue
        of_this_machine = replace(other.spec, precision=spec.precision, preprocess=spec.preprocess)
        pixels = spec.preprocess and replace(spec.preprocess, canary=other.spec.preprocess.canary)
        if of_this_machine == spec and pixels == other.spec.preprocess:
            yield (
                f"{other.path.name} in the store is the same model in {other.spec.precision}; in "
                f"{spec.precision} it is another encoder, whose features no probe mixes with "
                f"those: --precision {other.spec.precision} goes on with the one that is there"
            )
