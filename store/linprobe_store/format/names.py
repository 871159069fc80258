"""``names.json``: what people call an encoder or a dataset; signed, so that damage is told."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Literal, TypeVar

from linprobe.errors import REPAIR, IntegrityError
from linprobe_store.format.commit import Signed, parse_signed, sign
from linprobe_store.format.spec import DatasetNames, EncoderNames

Names = TypeVar("Names", EncoderNames, DatasetNames)


@dataclass(frozen=True, kw_only=True)
class _SignedEncoderNames(EncoderNames, Signed):
    kind: Literal["encoder-names"]


@dataclass(frozen=True, kw_only=True)
class _SignedDatasetNames(DatasetNames, Signed):
    kind: Literal["dataset-names"]


_SIGNED: Mapping[type[object], type[Signed]] = {
    EncoderNames: _SignedEncoderNames,
    DatasetNames: _SignedDatasetNames,
}


def sign_names(names: EncoderNames | DatasetNames) -> bytes:
    """Bytes of the ``names.json`` of an encoder or a dataset."""
    kind = "encoder-names" if isinstance(names, EncoderNames) else "dataset-names"
    return sign(kind, names)


def parse_names(kind: type[Names], data: bytes, place: str) -> Names:
    """Read and check a ``names.json``; raises as ``parse_signed`` does."""
    record = parse_signed(_SIGNED[kind], data, place)
    names = kind(**{field.name: getattr(record, field.name) for field in fields(kind)})
    if sign_names(names) != data:
        raise IntegrityError(f"{place}: expected canonical JSON of every field", hint=REPAIR)
    return names
