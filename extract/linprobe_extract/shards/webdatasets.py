"""What a person has of webdataset: pipelines of samples, and schemes of URLs that they registered.

A pipeline is read as the bytes of a tar, with all that is asked of shards; its fingerprint is over
what it gave.
"""

import io
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import IO

import fsspec

from linprobe.errors import ExtractError, ShardError
from linprobe.names import split_named
from linprobe_extract.shards.samples import is_image, size_limit, split_member
from linprobe_extract.shards.types import Pipeline, Shard

_HINT = (
    "a sample is a dict with '__key__' (a text without a dot after its last slash), the image's "
    "bytes by their extension ('jpg'), and a label ('cls')"
)


def webdatasets_opener(url: str) -> Callable[..., IO[bytes]] | None:
    """What webdataset opens a URL by, where that is not left to fsspec; else None.

    It is a function that a person registered in its ``gopen_schemes``, or one of its own for a
    scheme that fsspec does not know.
    """
    scheme = url.partition("://")[0].lower()
    is_known = "::" in scheme or scheme in fsspec.available_protocols()
    if is_known and "webdataset" not in sys.modules:  # so nobody has registered anything
        return None
    from webdataset.gopen import gopen_schemes

    opener: Callable[..., IO[bytes]] | None = gopen_schemes.get(scheme)
    is_own = getattr(opener, "__module__", "") == "webdataset.gopen"
    return None if is_known and is_own else opener


def pipeline_splits(pipelines: Mapping[str, Pipeline]) -> dict[str, tuple[Shard, ...]]:
    """The one shard of each split that a pipeline gives.

    Raises ExtractError for a split of another name, twice the same, or what is read but once.
    """
    splits: dict[str, tuple[Shard, ...]] = {}
    for alias, pipeline in pipelines.items():
        split = split_named(alias)
        if split is None or split in splits:
            fault = f"'{alias}' is no split of its own"
            raise ExtractError(fault, hint="expected train, val and test, each once")
        if isinstance(pipeline, Iterator) or not isinstance(pipeline, Iterable):
            fault = f"the samples of '{alias}' cannot be read twice: {type(pipeline).__name__}"
            hint = "give what can be iterated again, such as a wds.WebDataset, not a generator"
            raise ExtractError(fault, hint=hint)
        splits[split] = (Shard(f"pipeline:{split}", kind="pipeline", pipeline=pipeline),)
    return splits


class PipelineStream(io.RawIOBase):
    """The samples of a pipeline as a tar, which is made while it is read.

    What is neither image nor label is left empty. A read gives any number of bytes, and raises
    ShardError for what is no sample or comes twice, and where the pipeline raises anything.
    """

    def __init__(self, pipeline: Pipeline, place: str) -> None:
        super().__init__()
        self._pieces = _pieces(pipeline, place)

    def read(self, _: int | None = -1, /) -> bytes:
        """The next bytes; none at the end."""
        return next(self._pieces, b"")


def _pieces(pipeline: Pipeline, place: str) -> Iterator[bytes]:
    from webdataset.writer import TarWriter  # which imports torch

    seen: set[int] = set()
    made = io.BytesIO()
    with TarWriter(made, user="", group="", mtime=0, format="PAX_FORMAT") as tar:
        for sample in _given(pipeline, place):
            fields = _fields(sample, place)
            key = str(fields["__key__"])
            if hash(key) in seen:  # before a pipeline that begins anew fills the disk
                fault = f"key '{key}' comes twice in '{place}'"
                raise ShardError(fault, hint="neither repeat nor resample it, and keep keys unique")
            seen.add(hash(key))
            try:
                tar.write(fields)
            except Exception as error:  # webdataset's encoders have errors of their own
                fault = f"sample '{key}' of '{place}' cannot be kept: {error}"
                raise ShardError(fault, hint=_HINT) from error
            tar.tarstream.members = []  # else it keeps all headers
            yield from _taken(made)
    yield from _taken(made)


def _given(pipeline: Pipeline, place: str) -> Iterator[object]:
    try:
        yield from pipeline
    except Exception as error:  # which may be any: a missing file, a mistake in its functions
        fault = f"'{place}' broke off: {str(error) or type(error).__name__}"
        raise ShardError(fault, hint="mend it; list(pipeline) shows where it breaks") from error


def _taken(made: io.BytesIO) -> Iterator[bytes]:
    if data := made.getvalue():
        yield data
    made.seek(0)
    made.truncate()


def _fields(sample: object, place: str) -> dict[str, object]:
    key = sample.get("__key__") if isinstance(sample, Mapping) else None
    if not isinstance(sample, Mapping) or not isinstance(key, str):
        fault = f"'{place}' gives {type(sample).__name__} without a '__key__'"
        raise ShardError(fault, hint=_HINT)
    if split_member(f"{key}.jpg") != (key, "jpg"):
        raise ShardError(f"{key!r} is no key of a sample of '{place}'", hint=_HINT)
    fields: dict[str, object] = {"__key__": key}
    for name, value in sample.items():
        extension = str(name).lower()
        if is_image(extension) and not isinstance(value, bytes):
            fault = f"'{name}' of '{key}' in '{place}' is {type(value).__name__}, expected bytes"
            raise ShardError(fault, hint="leave images encoded: no .decode() of them")
        if not extension.startswith("__"):
            fields[extension] = value if size_limit(extension) >= 0 else b""
    return fields
