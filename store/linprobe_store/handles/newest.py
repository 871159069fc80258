"""Which of several datasets of one name is meant: the newest, as a record of the store says.

The record is a line of ``provenance.jsonl``, which copies take along; times of files say nothing.
"""

import platform
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from msgspec import UNSET

from linprobe.errors import StoreError
from linprobe.names import first_few, short_id
from linprobe.terminal import Progress, Watch, ignore
from linprobe_store.handles.dataset import StoredDataset
from linprobe_store.handles.witness import Provenance, append_provenance, read_provenance


def newest(datasets: Sequence[StoredDataset], watch: Watch = ignore) -> tuple[StoredDataset, ...]:
    """Of datasets of an encoder with one name, the newest; all of them where no record says which.

    ``watch`` sees a line for every name of several.
    """
    kept: list[StoredDataset] = []
    for name in dict.fromkeys(dataset.name for dataset in datasets):
        same = [dataset for dataset in datasets if dataset.name == name]
        times = _naming_times(same[0].path.parents[1], watch) if len(same) > 1 else {}
        same.sort(key=lambda dataset: times.get(dataset.dataset_id, ("", 0)), reverse=True)
        if same[0].dataset_id in times:
            meant, *older = (short_id(dataset.dataset_id) for dataset in same)
            what = f"{name!r} is {meant}, the newest of {len(same)} datasets of this name"
            line = f"{what}; the others by their ids: {first_few(older)}"
            watch(Progress(0, None, "datasets", line=line))
            same = same[:1]
        kept += same
    return tuple(kept)


def name_newest(dataset: StoredDataset, datasets: Sequence[StoredDataset]) -> None:
    """Let a name that several of the datasets have mean this one from now on.

    Raises
    ------
    StoreError : the store cannot be written to.
    """
    same = [each for each in datasets if each.name == dataset.name]
    if [each.dataset_id for each in newest(same)] not in ([], [dataset.dataset_id]):
        time = datetime.now(UTC).isoformat(timespec="microseconds")
        entry = Provenance(time, platform.node(), "", tuple(sys.argv), {}, 0, dataset.dataset_id)
        append_provenance(dataset.path.parents[1], entry)


def _naming_times(encoder_path: Path, watch: Watch) -> Mapping[str, tuple[str, int]]:
    """When each dataset was last given its name, and by which line; none where that is damaged."""
    try:
        entries = read_provenance(encoder_path)
    except StoreError as error:
        line = f"which dataset of a name is the newest cannot be told: {error.message}"
        watch(Progress(0, None, "datasets", line=line))
        return {}
    named = enumerate(entries)
    return {
        entry.dataset_id: (entry.time, line)
        for line, entry in named
        if entry.dataset_id is not UNSET
    }
