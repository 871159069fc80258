"""How far a dataset is for one encoder: which shards have parts, which splits are sealed."""

from collections.abc import Sequence
from dataclasses import dataclass

from linprobe_extract.classes import dataset_spec
from linprobe_extract.errors import ShardError
from linprobe_extract.fingerprints import FingerprintCache
from linprobe_extract.report import FailedShard
from linprobe_extract.shards import DatasetPlan, SplitPlan
from linprobe_extract.units import Unit
from linprobe_store import Split, StoredEncoder
from linprobe_store.spec import ShardFingerprint


@dataclass(frozen=True)
class State:
    """What is there and what is not, of the chosen splits."""

    sealed: tuple[Split, ...]
    """Splits that are complete."""
    n_done: int
    """Shards with a part, of the splits not sealed."""
    todo: tuple[Unit, ...]
    """Shards without a part, of the splits not sealed, in order."""
    unreadable: tuple[FailedShard, ...]
    """Shards that cannot be read, of the splits not sealed."""

    @property
    def n_images(self) -> int | None:
        """Images still to encode, or None when not known before reading."""
        counts = [unit.shard.n_samples for unit in self.todo]
        return None if None in counts else sum(count or 0 for count in counts)


def state_of(
    plan: DatasetPlan,
    splits: Sequence[str],
    stored: StoredEncoder | None,
    fingerprints: FingerprintCache,
) -> State:
    """Compare what was asked with what the store has; ``stored`` is None for a new encoder.

    Raises
    ------
    ExtractError : the dataset has no split of a given name.
    """
    sealed, todo, unreadable, n_done = [], list[Unit](), list[FailedShard](), 0
    for split in (plan.split(name) for name in splits):
        units, failed = _units(split, fingerprints)
        found = None if failed else _sealed(plan, split, units, stored)
        if found is not None:
            sealed.append(found)
            continue
        missing = [
            unit
            for unit in units
            if stored is None or stored.committed_part(unit.fingerprint) is None
        ]
        todo += missing
        unreadable += failed
        n_done += len(units) - len(missing)
    return State(tuple(sealed), n_done, tuple(todo), tuple(unreadable))


def seal_complete(
    plan: DatasetPlan,
    splits: Sequence[str],
    stored: StoredEncoder,
    fingerprints: FingerprintCache,
) -> State:
    """Seal each chosen split whose parts are all there; give the state after that.

    Raises
    ------
    StoreError : parts cannot be sealed: keys come twice, labels are out of range.
    """
    for name in splits:
        state = state_of(plan, [name], stored, fingerprints)
        if not (state.sealed or state.todo or state.unreadable):
            spec = dataset_spec(plan, stored, fingerprints)
            stored.seal(spec, name, dataset_name=plan.name)
    return state_of(plan, splits, stored, fingerprints)


def _units(
    split: SplitPlan, fingerprints: FingerprintCache
) -> tuple[list[Unit], list[FailedShard]]:
    units, failed = [], []
    for shard in split.shards:
        try:
            units.append(Unit(split.name, shard, fingerprints.fingerprint(shard)))
        except ShardError as error:
            failed.append(FailedShard(shard.url, error.message, error.hint))
    return units, failed


def _sealed(
    plan: DatasetPlan, split: SplitPlan, units: Sequence[Unit], stored: StoredEncoder | None
) -> Split | None:
    """Find the sealed split that holds exactly these shards under these classes."""
    wanted: tuple[ShardFingerprint, ...] = tuple(unit.fingerprint for unit in units)
    for dataset in stored.datasets() if stored else ():
        same_classes = plan.classes is None or plan.classes == dataset.spec.classes
        if not same_classes or dataset.spec.label_source != plan.label_source:
            continue
        if split.name not in dataset.splits:
            continue
        if any(s.name == split.name and s.shards == wanted for s in dataset.spec.splits):
            return dataset.split(split.name)
    return None
