"""Images as Python programs have them, each with a name: for :meth:`linprobe.Encoder.encode`."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
from PIL import Image

from linprobe.errors import ExtractError, LinprobeError
from linprobe.names import IMAGE_EXTENSIONS
from linprobe.records import read_bytes
from linprobe.tars import MAX_MEMBER_BYTES

Content: TypeAlias = bytes | Image.Image
"""Of an image: a file, or pixels."""


@runtime_checkable
class Indexed(Protocol):
    """A torch dataset that is read by number."""

    def __len__(self) -> int:
        """Number of samples."""

    def __getitem__(self, index: int, /) -> object:
        """One of them."""


Images: TypeAlias = Iterable[object] | Indexed
"""Paths, PIL images, arrays or bytes; or samples that hold one, in a dataset or pipeline."""
_FIELDS = ("image", "img", "pixel_values", *sorted(IMAGE_EXTENSIONS))
"""Where a sample that is a dict has its image; the first is taken."""


def loose_images(images: Images) -> Iterator[tuple[str, Content | None]]:
    """Name and content of every image; None for a file that cannot be read.

    Raises
    ------
    ExtractError : something is no image; says what it is, and what is taken.
    """
    if isinstance(images, str | bytes | Path | Image.Image | np.ndarray | Mapping):
        hint = "give a list: encoder.encode([image])"
        raise ExtractError(f"expected several images, found a {type(images).__name__}", hint=hint)
    samples: Iterable[object]
    # A torch dataset by number need not end when it is iterated: it raises what it likes.
    if isinstance(images, Indexed) and not isinstance(images, Sequence):
        samples = (images[i] for i in range(len(images)))
    else:
        samples = images
    for number, sample in enumerate(samples):
        key, content = _image_of(sample)
        yield (str(number) if key is None else key), content


def _image_of(sample: object) -> tuple[str | None, Content | None]:
    key = None
    if isinstance(sample, Mapping):
        name = sample.get("__key__")
        key = None if name is None else str(name)
        sample = next((sample[field] for field in _FIELDS if field in sample), sample)
    elif isinstance(sample, tuple | list) and sample:
        sample = sample[0]  # and its label
    if isinstance(sample, Mapping) and {"bytes", "path"} & sample.keys():  # of datasets, undecoded
        sample = sample.get("bytes") or sample.get("path")
    if isinstance(sample, str | Path):
        try:
            return key or str(sample), read_bytes(Path(sample), limit=MAX_MEMBER_BYTES)
        except LinprobeError:
            return key or str(sample), None
    if isinstance(sample, np.ndarray) and sample.dtype == np.uint8:
        is_gray, is_colour = sample.ndim == 2, sample.ndim == 3 and sample.shape[2] in (3, 4)
        if is_gray or is_colour:
            return key, Image.fromarray(sample)
    if isinstance(sample, bytes | Image.Image):
        return key, sample
    shape = getattr(sample, "shape", None)
    dtype = "" if shape is None else f" of {getattr(sample, 'dtype', '')} {tuple(shape)}"
    raise ExtractError(
        f"expected an image, found a {type(sample).__name__}{dtype}",
        hint="give paths, PIL images, uint8 arrays (h, w, 3) or bytes; of a dataset, leave the "
        "transform out: the encoder has its own",
    )
