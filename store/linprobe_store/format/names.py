"""``names.json``: what people call an encoder or a dataset; signed, so that damage is told."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Literal, TypeVar

from linprobe.errors import REPAIR, IntegrityError
from linprobe_store.format.commit import Signed, parse_signed, sign
from linprobe_store.format.spec import DatasetNames, EncoderNames

Names = TypeVar("Names", EncoderNames, DatasetNames)


@dataclass(frozen=True, kw_only=True)
class _Owned(Signed):
    id: str
    """Encoder or dataset that is called so, 64 hex digits."""


@dataclass(frozen=True, kw_only=True)
class _SignedEncoderNames(EncoderNames, _Owned):
    kind: Literal["encoder-names"]


@dataclass(frozen=True, kw_only=True)
class _SignedDatasetNames(DatasetNames, _Owned):
    kind: Literal["dataset-names"]


_SIGNED: Mapping[type[object], type[_Owned]] = {
    EncoderNames: _SignedEncoderNames,
    DatasetNames: _SignedDatasetNames,
}


def sign_names(names: EncoderNames | DatasetNames, full_id: str) -> bytes:
    """Bytes of the ``names.json`` of an encoder or a dataset, whose id is ``full_id``."""
    kind = "encoder-names" if isinstance(names, EncoderNames) else "dataset-names"
    return sign(kind, names, {"id": full_id})


def parse_names(kind: type[Names], data: bytes, place: str, full_id: str) -> Names:
    """Read and check the ``names.json`` of ``full_id``; raises as ``parse_signed`` does."""
    record = parse_signed(_SIGNED[kind], data, place)
    if record.id != full_id:
        message = f"{place}: expected the names of {full_id[:12]}, found those of {record.id[:12]}"
        raise IntegrityError(message, hint=REPAIR)
    names = kind(**{field.name: getattr(record, field.name) for field in fields(kind)})
    if sign_names(names, full_id) != data:
        raise IntegrityError(f"{place}: expected canonical JSON of every field", hint=REPAIR)
    return names
