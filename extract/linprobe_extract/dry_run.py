"""What a run would do: shards, images, bytes, what is done already. Encodes nothing."""

import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from linprobe_extract.samples import split_member
from linprobe_extract.shard_layouts import Shard
from linprobe_extract.state import State
from linprobe_store.canonical import JsonValue
from linprobe_store.spec import EncoderSpec
from linprobe_store.terminal import human_bytes

_LABEL_AND_KEY_BYTES = 8 + 8 + 24
"""An int64 label, an int64 key offset, and a key of usual length."""


@dataclass(frozen=True)
class Forecast:
    """What is left to do for one encoder and dataset."""

    folder: str
    """Folder of the encoder in the store; it holds the readable name and the id."""
    encoder_id: str
    """64 hex digits."""
    precision: str
    """Arithmetic of the forward pass, which is part of the id: bf16 on most GPUs, fp32 on a CPU."""
    n_sealed: int
    """Splits that are complete."""
    n_shards_done: int
    """Shards that are in the store already."""
    n_shards: int
    """Shards still to encode."""
    n_images: int | None
    """Images still to encode; None when shards would have to be read to know."""
    n_bytes: int | None
    """What they will take on disk, in bytes; None likewise."""

    def lines(self) -> list[str]:
        """Tell it to a person."""
        images = "unknown" if self.n_images is None else str(self.n_images)
        size = "unknown" if self.n_bytes is None else f"about {human_bytes(self.n_bytes)}"
        return [
            f"encoder  {self.folder}  ({self.precision})",
            f"done     {self.n_shards_done} shards; {self.n_sealed} splits sealed",
            f"to do    {self.n_shards} shards, {images} images",
            f"on disk  {size} more",
        ]

    def as_json(self) -> JsonValue:
        """Give it as one JSON object."""
        return {
            "encoder_id": self.encoder_id,
            "precision": self.precision,
            "splits_sealed": self.n_sealed,
            "shards_done": self.n_shards_done,
            "shards": self.n_shards,
            "images": self.n_images,
            "bytes": self.n_bytes,
        }


def forecast(state: State, spec: EncoderSpec, folder: str) -> Forecast:
    """Count what is left to do, reading tar headers where no card says how many samples.

    Parameters
    ----------
    state : of the dataset, for this encoder.
    spec : the encoder; says how wide a row is.
    folder : its folder in the store.
    """
    counts = [_n_samples(task.shard) for task in state.todo]
    n_images = None if None in counts else sum(count or 0 for count in counts)
    itemsize = np.dtype(spec.storage_dtype).itemsize
    row_bytes = sum(tap.dim for tap in spec.taps) * itemsize + _LABEL_AND_KEY_BYTES
    return Forecast(
        folder=folder,
        encoder_id=spec.encoder_id,
        precision=spec.precision,
        n_sealed=len(state.sealed),
        n_shards_done=state.n_done,
        n_shards=len(state.todo),
        n_images=n_images,
        # A part and the sealed split hold each row once.
        n_bytes=None if n_images is None else 2 * n_images * row_bytes,
    )


def _n_samples(shard: Shard) -> int | None:
    if shard.n_samples is not None:
        return shard.n_samples
    return None if shard.is_stream else _count(Path(shard.url))


def _count(path: Path) -> int | None:
    """Count keys by seeking from header to header; None for what is no plain tar."""
    try:
        with tarfile.open(path, "r:") as tar:
            return len({split_member(member.name)[0] for member in tar if member.isreg()})
    except (tarfile.TarError, OSError):
        return None
