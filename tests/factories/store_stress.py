"""Writers, rm, gc, verify, ls and readers on one store at once, as processes of their own."""

import json
import multiprocessing
import os
import random
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from store_factories import block, dataset_spec, encoder_spec, fingerprint, write_part

from linprobe.disk import make_folders
from linprobe.errors import LinprobeError
from linprobe_store.care.importing import import_files
from linprobe_store.care.remove import (
    find_damaged,
    find_leftovers,
    find_unit,
    remove_folder,
    remove_leftovers,
)
from linprobe_store.care.verify import verify_store
from linprobe_store.format.spec import DatasetNames, DatasetSpec, EncoderNames
from linprobe_store.handles.split import Split
from linprobe_store.handles.store import FeatureStore
from linprobe_store.reports import list_store, listing_text

N_ENCODERS = 3
N_SHARDS = 2
ROWS = 300
GC_AGE_S = 2.0
"""Seconds that gc waits here; by default a minute. A writer locks its folder well within them."""


@dataclass
class Tally:
    """What a worker saw."""

    done: Counter[str] = field(default_factory=Counter)
    """Actions by role."""
    refused: Counter[str] = field(default_factory=Counter)
    """Expected failures by role, class and the end of their message."""
    tracebacks: list[str] = field(default_factory=list)
    """What was no expected failure."""
    wrong: list[str] = field(default_factory=list)
    """Rows that were not those written."""

    def add(self, other: "Tally") -> None:
        """Take in what another worker saw."""
        self.done.update(other.done)
        self.refused.update(other.refused)
        self.tracebacks += other.tracebacks
        self.wrong += other.wrong


@dataclass(frozen=True)
class Place:
    """Where the stress runs."""

    root: Path
    """The store."""
    imports: Path
    """Arrays to import."""
    reports: Path
    """What each worker saw, one JSON file each."""


def write(place: Path, chance: random.Random, imports: Path, tally: Tally) -> None:
    """Write parts and seal them, or import; under one of several names."""
    if chance.random() < 0.3:
        name = chance.choice(("theirs", "Theirs B"))
        given = [f"train={imports}/train.npz", f"test={imports}/test.npz"]
        import_files(FeatureStore(place), given, name, DatasetNames("imported"))
        tally.done["import"] += 1
        return
    spec = encoder_spec(5, weights=str(chance.randrange(N_ENCODERS)))
    name = chance.choice(("vit", "vit-again"))
    encoder = FeatureStore(place).register_encoder(spec, EncoderNames(name, name))
    shards = [fingerprint(i) for i in range(N_SHARDS)]
    for i, shard in enumerate(shards):
        if encoder.committed_part(shard) is None:
            write_part(encoder, shard, block(spec, ROWS, seed=i, prefix=shard.name))
    chosen = chance.choice((shards, shards[:1]))
    names = DatasetNames(f"pets-{len(chosen)}", chance.choice((None, "top1")))
    encoder.seal(dataset_spec(chosen), "train", names=names)
    tally.done["seal"] += 1


def remove(place: Path, chance: random.Random, imports: Path, tally: Tally) -> None:
    """Remove an encoder, a dataset, a split or parts."""
    store = FeatureStore(place)
    encoders = store.encoders()
    if not encoders:
        return
    encoder = chance.choice(encoders)
    datasets = [None, *(dataset.dataset_id for dataset in encoder.datasets())]
    dataset = chance.choice(datasets)
    split = "train" if dataset and chance.random() < 0.5 else None
    parts = dataset is None and chance.random() < 0.3
    remove_folder(find_unit(store, encoder.encoder_id, dataset, split, parts=parts))
    tally.done["rm"] += 1
    time.sleep(chance.uniform(0.2, 0.8))


def clean(place: Path, chance: random.Random, imports: Path, tally: Tally) -> None:
    """Collect garbage, damaged units too."""
    store = FeatureStore(place)
    leftovers = find_leftovers(store, min_age_s=GC_AGE_S, foreign_age_s=GC_AGE_S)
    remove_leftovers(leftovers)
    damaged = list(find_damaged(store, deep=False))
    remove_leftovers(damaged)
    tally.done["gc"] += 1
    tally.done["gc: left-overs taken"] += len(leftovers)
    tally.done["gc: damaged taken"] += len(damaged)


def verify(place: Path, chance: random.Random, imports: Path, tally: Tally) -> None:
    """Look at every byte."""
    units = list(verify_store(FeatureStore(place), deep=True))
    tally.done["verify"] += 1
    tally.done["verify: units"] += len(units)
    tally.done["verify: problems"] += sum(unit.problem is not None for unit in units)


def list_all(place: Path, chance: random.Random, imports: Path, tally: Tally) -> None:
    """List the store."""
    listing_text(list_store(FeatureStore(place).listing()))
    tally.done["ls"] += 1


def read(place: Path, chance: random.Random, imports: Path, tally: Tally) -> None:
    """Read every split whole, and compare it with what was written."""
    for encoder in FeatureStore(place).encoders():
        for dataset in encoder.datasets():
            for name in dataset.splits:
                try:
                    split = dataset.split(name)
                    is_right = _is_as_written(split, imports)
                except LinprobeError as error:
                    tally.refused[_cause("read", error)] += 1
                else:
                    tally.done["read: splits"] += 1
                    tally.wrong += [] if is_right else [str(split.path)]
    tally.done["read"] += 1


def _is_as_written(split: Split, imports: Path) -> bool:
    rows, labels, keys = split.array("embedding"), split.labels, list(split.keys)
    if split.dataset_name == "imported":
        with np.load(imports / f"{split.name}.npz") as given:
            return np.array_equal(rows, given["features"]) and np.array_equal(
                labels, given["labels"]
            )
    assert isinstance(split.dataset_spec, DatasetSpec)
    count = len(split.dataset_spec.splits[0].shards)
    blocks = [
        block(split.encoder_spec, ROWS, seed=i, prefix=fingerprint(i).name) for i in range(count)
    ]
    return (
        np.array_equal(rows, np.concatenate([b.features["embedding"] for b in blocks]))
        and np.array_equal(labels, np.concatenate([b.labels for b in blocks]))
        and keys == [key for b in blocks for key in b.keys]
    )


Role = Callable[[Path, random.Random, Path, Tally], None]
ROLES: dict[str, Role] = {
    "write-1": write, "write-2": write, "rm": remove, "gc": clean, "verify": verify,
    "ls": list_all, "read-1": read, "read-2": read,
}  # fmt: skip


def _cause(role: str, error: LinprobeError) -> str:
    """What an expected failure was, without the names of files."""
    words = error.message.rpartition(": ")[2]
    return f"{role}: {type(error).__name__}: {words[:60]}"


def work(role: str, place: Place, seed: int, until: float) -> None:
    """Act until a time, and report."""
    chance, tally = random.Random(seed), Tally()
    while time.time() < until:
        try:
            ROLES[role](place.root, chance, place.imports, tally)
        except LinprobeError as error:
            tally.refused[_cause(role, error)] += 1
        except Exception:
            tally.tracebacks.append(f"{role}: {traceback.format_exc()}")
        if role.startswith("write"):
            _report(place, role, tally)  # it may be killed
        else:
            time.sleep(0.02)  # leave the cores to the writers
    _report(place, role, tally)


def _report(place: Place, role: str, tally: Tally) -> None:
    path = place.reports / f"{role}-{os.getpid()}"
    path.write_text(json.dumps(vars(tally)))
    path.replace(path.with_suffix(".json"))


def stress(folder: Path, seconds: float, *, seed: int = 0) -> Tally:
    """Run all roles at once, kill a writer now and then, and say what they saw.

    Left-overs of the killed are collected at the end; what is damaged then is ``wrong``.
    """
    place = Place(folder / "store", folder / "imports", folder / "reports")
    for path in (place.imports, place.reports):
        make_folders(path)
    rng = np.random.default_rng(seed)
    for split, n in (("train", 200), ("test", 100)):
        x = rng.standard_normal((n, 6)).astype(np.float16)
        np.savez(place.imports / f"{split}.npz", features=x, labels=np.arange(n) % 3)
    FeatureStore(place.root).register_encoder(encoder_spec(5), EncoderNames("vit", "vit"))
    chance, context = random.Random(seed), multiprocessing.get_context("spawn")
    until = time.time() + seconds

    def start(role: str, own_seed: int) -> multiprocessing.process.BaseProcess:
        worker = context.Process(target=work, args=(role, place, own_seed, until))
        worker.start()
        return worker

    workers = {role: start(role, seed + i) for i, role in enumerate(ROLES)}
    tally = Tally()
    while (rest := until - time.time()) > 4:
        time.sleep(min(rest, chance.uniform(2, 4)))
        role = chance.choice(("write-1", "write-2"))
        workers[role].kill()
        workers[role].join()
        workers[role] = start(role, chance.randrange(1 << 30))
        tally.done["writers killed"] += 1
    for role, worker in workers.items():
        worker.join(seconds + 60)
        if worker.exitcode != 0:
            tally.tracebacks.append(f"{role}: exit code {worker.exitcode}")
    for report in place.reports.glob("*.json"):
        fields = json.loads(report.read_text())
        counts = {name: Counter(fields[name]) for name in ("done", "refused")}
        tally.add(Tally(**counts, tracebacks=fields["tracebacks"], wrong=fields["wrong"]))
    return tally


def remains(folder: Path) -> list[str]:
    """What a stress left that it must not: ghosts, damaged units, left-overs after a gc."""
    store = FeatureStore(folder / "store")
    remove_leftovers(find_leftovers(store, min_age_s=0, foreign_age_s=0))
    ghosts = [broken.reason for broken in store.listing().broken]
    problems = [unit.problem for unit in verify_store(store, deep=True) if unit.problem]
    left = [str(path) for path in store.root.rglob("tmp-*")]
    return ghosts + problems + left
