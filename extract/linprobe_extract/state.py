"""How far a dataset is for one encoder: which shards have parts, which splits are sealed."""

from collections.abc import Sequence
from dataclasses import dataclass

from linprobe_extract.classes import dataset_spec
from linprobe_extract.fingerprints import FingerprintCache
from linprobe_extract.relabel import label_reader
from linprobe_extract.shards import DatasetPlan, SplitPlan
from linprobe_extract.units import Task
from linprobe_store import Split, StoredEncoder


@dataclass(frozen=True)
class State:
    """What is there and what is not, of the chosen splits."""

    sealed: tuple[Split, ...]
    """Splits that are complete."""
    tasks: tuple[Task, ...]
    """All shards of the chosen splits, in order: the same for every process of a run, whatever
    the others have done meanwhile."""
    todo: tuple[Task, ...]
    """Those that still have to be encoded, as far as can be told without reading them."""

    @property
    def n_done(self) -> int:
        """Shards that are in the store already."""
        return len(self.tasks) - len(self.todo)

    @property
    def n_images(self) -> int | None:
        """Images still to encode, or None when not known before reading."""
        counts = [task.shard.n_samples for task in self.todo]
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
    sealed, tasks = list[Split](), list[Task]()
    for split in (plan.split(name) for name in splits):
        found = _sealed(plan, split, stored, fingerprints)
        tasks += [Task(split.name, shard) for shard in split.shards]
        if found is not None:
            sealed.append(found)
    done = {split.name for split in sealed}
    todo = (t for t in tasks if t.split not in done and not _has_part(t, stored, fingerprints))
    return State(tuple(sealed), tuple(tasks), tuple(todo))


def seal_complete(
    plan: DatasetPlan,
    splits: Sequence[str],
    stored: StoredEncoder,
    fingerprints: FingerprintCache,
) -> State:
    """Seal each chosen split whose parts are all there; give the state after that.

    Raises
    ------
    ShardError : a shard of another split has to be read for its fingerprint and cannot be.
    StoreError : parts cannot be sealed: keys come twice, labels are out of range.
    """
    for name in splits:
        state = state_of(plan, [name], stored, fingerprints)
        if not (state.sealed or state.todo):
            spec = dataset_spec(plan, stored, fingerprints)
            stored.seal(
                spec,
                name,
                dataset_name=plan.name,
                read_labels=label_reader(plan, name, fingerprints),
            )
    return state_of(plan, splits, stored, fingerprints)


def _has_part(task: Task, stored: StoredEncoder | None, fingerprints: FingerprintCache) -> bool:
    fingerprint = fingerprints.known(task.shard)
    if stored is None or fingerprint is None:
        return False
    return stored.committed_part(fingerprint) is not None


def _sealed(
    plan: DatasetPlan,
    split: SplitPlan,
    stored: StoredEncoder | None,
    fingerprints: FingerprintCache,
) -> Split | None:
    """Find the split, sealed in exactly this dataset: all its splits count, and its classes."""
    wanted = [
        (other.name, tuple(fingerprints.known(shard) for shard in other.shards))
        for other in plan.splits
    ]
    for dataset in stored.datasets() if stored else ():
        same_classes = plan.classes is None or plan.classes == dataset.spec.classes
        if not same_classes or dataset.spec.label_source != plan.label_source:
            continue
        same_shards = wanted == [(s.name, s.shards) for s in dataset.spec.splits]
        if same_shards and split.name in dataset.splits:
            return dataset.split(split.name)
    return None
