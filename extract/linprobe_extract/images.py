"""Features of loose images for the train stage: the entry point of ``linprobe.image_features``."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import torch
from PIL import Image

from linprobe.errors import ExtractError, LinprobeError, MismatchError
from linprobe.machine import available_cores, decode_threads
from linprobe.names import IMAGE_EXTENSIONS, short_id
from linprobe.records import read_bytes
from linprobe.tars import MAX_MEMBER_BYTES
from linprobe_extract.encoders.device import encode_images, pixel_room
from linprobe_extract.encoders.encoder import Encoder
from linprobe_extract.encoders.family import EncoderChoice
from linprobe_extract.encoders.loading import load_encoder
from linprobe_extract.pixels.preprocess import limit_thread, preprocess
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
    yield from encode_all(encoder, (image for source in sources for image in _read(source)))


def encode_all(encoder: Encoder, images: Iterable[_Image]) -> Iterator[ImageRows]:
    """Encode named images in batches, decoded as a run decodes them."""
    threads = decode_threads(available_cores(), 1, on_cpu=encoder.device.type == "cpu")
    with ThreadPoolExecutor(threads, "decode", initializer=limit_thread) as pool:
        for batch in cut_batches(images, encoder.batch_size, _size):
            yield _encode(encoder, batch, pool)


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
    files = sorted(file for file in path.rglob("*") if file.is_file())
    sources = [f for f in files if f.suffix.lower()[1:] in IMAGE_EXTENSIONS or _is_shard(f)]
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


def _encode(encoder: Encoder, batch: Sequence[_Image], pool: ThreadPoolExecutor) -> ImageRows:
    pixels = pixel_room(encoder, len(batch))

    def skip_reason(data: bytes | Image.Image | None, slot: torch.Tensor) -> str | None:
        return "unreadable" if data is None else preprocess(encoder.preprocess, data, slot).skip

    names, contents = zip(*batch, strict=True)
    reasons = list(pool.map(skip_reason, contents, pixels))
    kept = [i for i, reason in enumerate(reasons) if reason is None]
    features = encode_images(encoder, pixels[kept]) if kept else {}
    skipped = [SkippedSample(names[i], str(reason)) for i, reason in enumerate(reasons) if reason]
    return ImageRows(tuple(names[i] for i in kept), features, tuple(skipped))


def _load_the_same(request: ImageRequest) -> Encoder:
    wanted = request.encoder
    if wanted.preprocess is None or wanted.precision == "unknown":
        hint = "predict on stored or imported features of that encoder instead"
        problem = f"the features of {request.model} were imported"
        raise ExtractError(f"{problem}: how images become them is not known", hint=hint)
    path = wanted.preprocess.path
    encoder = load_encoder(
        EncoderChoice(
            request.model,
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
