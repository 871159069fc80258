"""Features of loose images for the train stage: the entry point of ``linprobe.image_features``."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import torch
from PIL import Image

from linprobe.errors import ExtractError, LinprobeError, MismatchError
from linprobe.machine import available_cores, decode_threads
from linprobe.names import IMAGE_EXTENSIONS, short_id
from linprobe.names import is_image as is_image_file
from linprobe.records import read_bytes
from linprobe.tars import MAX_MEMBER_BYTES
from linprobe_extract.encoders import loading
from linprobe_extract.encoders.device import encode_images, pixel_room
from linprobe_extract.encoders.encoder import Encoder
from linprobe_extract.encoders.family import EncoderChoice, typed
from linprobe_extract.pixels.preprocess import Outcome, limit_thread, preprocess
from linprobe_extract.pixels.upright import turned
from linprobe_extract.shards.samples import cut_batches, is_image
from linprobe_extract.shards.tar import read_members
from linprobe_extract.shards.types import Shard
from linprobe_store.format.spec import SkippedSample
from linprobe_store.image_encoder import ImageRequest, ImageRows

_Image = tuple[str, bytes | Image.Image | None]
"""Name and content; None for what cannot be read, or is too large to be."""


def image_rows(request: ImageRequest) -> Iterator[ImageRows]:
    """Encode images; see :data:`linprobe_store.image_encoder.ImageFeatures`."""
    sources = [source for path in request.paths for source in _find_sources(path)]
    encoder = _load_the_same(request)
    images = (image for source in sources for image in _read(source))
    yield from encode_all(encoder, images, is_upright=request.upright)


def encode_all(
    encoder: Encoder, images: Iterable[_Image], *, is_upright: bool = False
) -> Iterator[ImageRows]:
    """Encode named images in batches, decoded as a run decodes them; files turned, if asked."""
    threads = decode_threads(available_cores(), 1, on_cpu=encoder.device.type == "cpu")
    with ThreadPoolExecutor(threads, "decode", initializer=limit_thread) as pool:
        for batch in cut_batches(images, encoder.batch_size, _size):
            yield _encode(encoder, batch, pool, is_upright=is_upright)


def _size(image: _Image) -> int:
    content = image[1]
    if isinstance(content, Image.Image):
        return content.width * content.height * len(content.getbands())
    return len(content or b"")


def _find_sources(path: Path) -> list[Path]:
    """The image files and shards that a path means, in order."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        hint = "check the path; quote it for the shell"
        raise ExtractError(f"no image, folder or shard at '{path}'", hint=hint)
    files = []
    for folder, inner, names in os.walk(path):
        inner[:] = [name for name in inner if not name.startswith(".")]
        files += [Path(folder, name) for name in names if not name.startswith(".")]
    sources = sorted(f for f in files if f.is_file() and (is_image_file(f.name) or _is_shard(f)))
    if not sources:
        hint = f"expected {', '.join(sorted(IMAGE_EXTENSIONS))} or tar"
        raise ExtractError(f"no images in '{path}'", hint=hint)
    return sources


def _is_shard(path: Path) -> bool:
    return ".tar" in path.suffixes


def _read(source: Path) -> Iterator[_Image]:
    if _is_shard(source):
        for member in read_members(Shard(str(source))):
            if is_image(member.extension):
                yield member.key, member.data
        return
    try:
        yield str(source), read_bytes(source, limit=MAX_MEMBER_BYTES)
    except LinprobeError:
        yield str(source), None


def _encode(
    encoder: Encoder, batch: Sequence[_Image], pool: ThreadPoolExecutor, *, is_upright: bool
) -> ImageRows:
    pixels = pixel_room(encoder, len(batch))

    def outcome(data: bytes | Image.Image | None, slot: torch.Tensor) -> Outcome | None:
        if data is None:
            return None
        if is_upright and isinstance(data, bytes):
            data = turned(data) or data
        return preprocess(encoder.preprocess, data, slot)

    names, contents = zip(*batch, strict=True)
    outcomes = list(pool.map(outcome, contents, pixels))
    reasons = ["unreadable" if each is None else each.skip for each in outcomes]
    notes = Counter(str(remark) for each in outcomes if each for remark in each.notes)
    kept = [i for i, reason in enumerate(reasons) if reason is None]
    features = encode_images(encoder, pixels[kept]) if kept else {}
    skipped = [SkippedSample(names[i], str(reason)) for i, reason in enumerate(reasons) if reason]
    return ImageRows(tuple(names[i] for i in kept), features, tuple(skipped), notes)


def _load_the_same(request: ImageRequest) -> Encoder:
    wanted = request.encoder
    if wanted.preprocess is None or wanted.precision == "unknown":
        hint = "predict on stored or imported features of that encoder instead"
        problem = f"the features of {request.model} were imported"
        raise ExtractError(f"{problem}: how images become them is not known", hint=hint)
    model, checkpoint = typed(request.model)
    if checkpoint and request.weights is None:
        problem = f"the probe takes features of {model} with the weights of {checkpoint}"
        raise ExtractError(problem, hint=f"--weights FILE, with that {checkpoint}")
    path = wanted.preprocess.path
    encoder = loading.load_encoder(
        EncoderChoice(
            model,
            request.weights,
            request.device,
            wanted.precision,
            "fast" if path == "own" else path,
            wanted.storage_dtype,
            tuple(tap.name for tap in wanted.taps),
        )
    )
    if encoder.spec.encoder_id != wanted.encoder_id:
        theirs, ours = asdict(wanted), asdict(encoder.spec)
        raise MismatchError(
            f"the probe takes features of {request.model} ({short_id(wanted.encoder_id)}); what "
            f"loads here as {encoder.names.model} is {short_id(encoder.spec.encoder_id)}: "
            f"{', '.join(name for name in ours if ours[name] != theirs[name])} differ",
            hint="pass --weights with the checkpoint of the extraction, or extract and probe again",
        )
    return encoder
