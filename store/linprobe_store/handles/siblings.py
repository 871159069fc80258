"""Encoders that differ in their taps alone: more taps of a tower are another encoder, beside it."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from msgspec import UNSET

from linprobe.errors import NotFoundError, StoreError
from linprobe_store.format.taps import joined_taps
from linprobe_store.handles.encoder import StoredEncoder


def without_siblings(
    encoders: Sequence[StoredEncoder], query: str | None, tap: str, data: Sequence[str]
) -> tuple[StoredEncoder, ...]:
    """Keep one of those that differ in their taps alone, where its name or nothing is asked for.

    It is one with the tap, and with the datasets if any is; of several the one with the fewest
    taps, so that a question that was answered before more taps were stored stays the same.

    Parameters
    ----------
    encoders : sorted, of one store.
    query : what names an encoder; None for nothing. An id and a folder mean that very encoder.
    tap : one or several, joined by ``+``.
    data : names of datasets that are wanted, perhaps none.
    """
    families: dict[str, list[StoredEncoder]] = {}
    for encoder in encoders:
        if query in (None, encoder.names.slug, encoder.names.model):
            key = replace(encoder.spec, taps=(), n_blocks=UNSET).encoder_id
            families.setdefault(key, []).append(encoder)
    dropped = set()
    for members in families.values():
        best = min(members, key=lambda m: (not _has_tap(m, tap), lacks(m, data), len(m.spec.taps)))
        dropped |= {member.encoder_id for member in members if member is not best}
    return tuple(encoder for encoder in encoders if encoder.encoder_id not in dropped)


def _has_tap(encoder: StoredEncoder, tap: str) -> bool:
    with suppress(NotFoundError):
        return bool(joined_taps(tap, encoder.spec))
    return False


def lacks(encoder: StoredEncoder, data: Sequence[str]) -> int:
    """How many of the datasets it does not have; without any, whether it has none at all."""
    if not data:
        return int(not any(dataset.splits for dataset in encoder.datasets()))
    n_lacking = 0
    for name in data:
        try:
            encoder.dataset(name)
        except NotFoundError:
            n_lacking += 1
        except StoreError:  # several, or a broken one: told when it is opened
            continue
    return n_lacking
