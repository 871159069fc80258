"""The encoder of Python programs: of a name, or of a module of one's own."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
from torch import nn

from linprobe.errors import LinprobeError
from linprobe.machine import Device
from linprobe_extract.encoders import encoder as encoders
from linprobe_extract.encoders.families.own import tower_of
from linprobe_extract.encoders.family import EncoderChoice, Precision, PreprocessPath, names_of
from linprobe_extract.encoders.loading import load_encoder, place_encoder
from linprobe_extract.images import encode_all
from linprobe_extract.loose import Images, loose_images
from linprobe_extract.pixels.own import Transform
from linprobe_store.format.spec import FeatureArray, StorageDtype


class Encoder(encoders.Encoder):
    """A frozen vision tower with its preprocessing, on a device.

    Parameters
    ----------
    model : ``demo``, ``ViT-B/16``, ``ARCH:TAG``, ``timm:NAME``, ``hf:ORG/NAME``, ...; see
        :mod:`linprobe_extract.encoders.family`. Or a module of one's own, which takes batches
        (b, 3, s, s) of what ``transform`` gives and returns features (b, d), or a dict of them by
        tap. It is copied, and put into evaluation mode.
    transform : of one's own module: takes an RGB PIL image, from any thread, and gives a tensor
        (3, s, s), the same each time.
    name : what to call one's own module.
    weights : checkpoint in place of the model's own, which is downloaded where need be.
    device : where to run; ``auto`` is CUDA where there is such a device. It is made the current
        one, as ``torch.cuda.set_device`` does.
    precision : arithmetic of the forward pass; ``auto`` is that of the device and the tower
        by :func:`~linprobe_extract.encoders.precision.plan_precision`, and fp32 for one's own
        module. Part of the identity, as are the next three.
    preprocess : ``exact`` is the model's own transform, bit for bit; ``fast`` is within 4 gray
        levels of it, at a third of its cost; ``nvjpeg`` decodes JPEGs on the GPU, if there is
        one. A transform of one's own is called as it is.
    storage_dtype : what features are stored in.
    taps : points of the tower to take features from, such as ``("embedding", "last4")``; see
        :class:`~linprobe_extract.encoders.tokens.TokenTaps`. () for what the model itself gives.

    Attributes
    ----------
    spec : what the features are a function of. ``spec.encoder_id`` is its sha256: encoders of one
        id give the same features, but for the rounding of another device.
    names : what people call the encoder.
    preprocess : how the bytes of an image become pixels.
    image_size : side s of the square input, in pixels.
    batch_size : images a batch that fill the device, unless its memory is small.
    device : where the tower is, and where the pixels of :meth:`encode_pixels` must be.
    precision_reason : why ``spec.precision`` is what it is, in a few words.

    Raises
    ------
    LinprobeError
        The model is unknown or cannot be loaded, the device is not there, the preprocessing
        differs from the model's own, a transform is not as above, or the tower gives no finite
        feature vectors.

    Examples
    --------
    >>> import torch
    >>> from torchvision.transforms import Compose, Resize, ToTensor
    >>> from linprobe import Encoder
    >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 5))
    >>> encoder = Encoder(net, Compose([Resize((8, 8)), ToTensor()]), name="my-net", device="cpu")
    >>> encoder.names.slug, encoder.spec.taps
    ('my-net', (Tap(name='embedding', dim=5),))
    """

    def __init__(
        self,
        model: str | nn.Module,
        transform: Transform | None = None,
        *,
        name: str | None = None,
        weights: Path | str | None = None,
        device: Device = "auto",
        precision: Precision = "auto",
        preprocess: PreprocessPath = "fast",
        storage_dtype: StorageDtype = "float16",
        taps: Sequence[str] = (),
    ) -> None:
        file = None if weights is None else Path(weights)
        called = model if isinstance(model, str) else name or ""
        choice = EncoderChoice(
            called, file, device, precision, preprocess, storage_dtype, tuple(taps)
        )
        if isinstance(model, str):
            if transform is not None or name is not None:
                hint = "leave transform and name out, or give the module itself"
                raise LinprobeError(f"{model} has a transform and a name of its own", hint=hint)
            loaded = load_encoder(choice)
        else:
            if transform is None or not name or file is not None:
                problem = "a module of one's own needs a transform and a name, and no weights"
                hint = 'Encoder(module, transform, name="my-net")'
                raise LinprobeError(problem, hint=hint)
            tower = partial(tower_of, model, transform)
            loaded = place_encoder(tower, names_of(name, name), choice)
        vars(self).update(vars(loaded))

    def encode(
        self, images: Images, *, upright: bool = False
    ) -> tuple[dict[str, FeatureArray], tuple[str, ...]]:
        """Encode images, decoded as the command decodes them.

        Parameters
        ----------
        images : any number of paths, PIL images, uint8 arrays (h, w, 3) or (h, w), or bytes of
            image files; in a list, a torch or Hugging Face dataset without a transform, or a
            webdataset pipeline that does not decode, whose samples may hold labels and more. What
            is decoded already is resized as ``exact`` does.
        upright : turn image files as their EXIF says, as ``linprobe pack`` does.

        Returns
        -------
        features : by tap, (n, d) in the storage dtype, un-normalised: what the store would hold.
        keys : n names: paths, the ``__key__`` of samples, else their numbers from 0.

        Raises
        ------
        LinprobeError : one is no image, or cannot be decoded; names it, and why.

        Examples
        --------
        >>> import numpy as np, torch
        >>> from torchvision.transforms import Compose, Resize, ToTensor
        >>> from linprobe import Encoder
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 5))
        >>> encoder = Encoder(net, Compose([Resize((8, 8)), ToTensor()]), name="my-net")
        >>> features, keys = encoder.encode([np.full((20, 30, 3), 200, np.uint8)] * 2)
        >>> features["embedding"].shape, keys
        ((2, 5), ('0', '1'))
        """
        keys: list[str] = []
        blocks: dict[str, list[FeatureArray]] = {tap.name: [] for tap in self.spec.taps}
        for rows in encode_all(self, loose_images(images), is_upright=upright):
            if rows.skipped:
                what = f"image {rows.skipped[0].key!r} gives no features: {rows.skipped[0].reason}"
                raise LinprobeError(what, hint="leave it out, or mend it")
            keys += rows.keys
            for name, features in rows.features.items():
                blocks[name].append(features)
        dtype = self.spec.storage_dtype
        empty = {tap.name: np.empty((0, tap.dim), dtype) for tap in self.spec.taps}
        whole = {name: np.concatenate([empty[name], *each]) for name, each in blocks.items()}
        return cast("dict[str, FeatureArray]", whole), tuple(keys)
