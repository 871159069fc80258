"""The identity of a dataset, with its class names: given, found in folder names, or counted."""

from linprobe_extract.errors import ExtractError
from linprobe_extract.fingerprints import FingerprintCache
from linprobe_extract.shards import DatasetPlan
from linprobe_store import StoredEncoder
from linprobe_store.spec import DatasetSpec, SplitSpec


def dataset_spec(
    plan: DatasetPlan, stored: StoredEncoder, fingerprints: FingerprintCache
) -> DatasetSpec:
    """Describe a dataset by content, all its splits included.

    Without class names the classes are called by their ids, ``"0"`` to the greatest label stored.

    Raises
    ------
    ShardError : a shard has to be read for its fingerprint and cannot be.
    ExtractError : the classes have no names and some shards have no part yet to count them in.
    """
    splits = tuple(
        SplitSpec(split.name, tuple(fingerprints.fingerprint(shard) for shard in split.shards))
        for split in plan.splits
    )
    classes = plan.classes or _counted_classes(plan, splits, stored)
    return DatasetSpec(splits, plan.label_source, classes)


def _counted_classes(
    plan: DatasetPlan, splits: tuple[SplitSpec, ...], stored: StoredEncoder
) -> tuple[str, ...]:
    greatest = -1
    for split in splits:
        for shard in split.shards:
            part = stored.committed_part(shard)
            if part is not None and part.labelling != plan.labelling.identity:
                raise ExtractError(
                    f"the classes of '{plan.name}' have no names, and the labels of "
                    f"'{split.name}/{shard.name}' were stored as {part.labelling}, not as "
                    f"{plan.labelling.identity}",
                    hint="name the classes in classnames.txt or with --classes FILE",
                )
            if part is None:
                raise ExtractError(
                    f"the classes of '{plan.name}' have no names, and '{split.name}/{shard.name}' "
                    "has not been extracted to count them",
                    hint="extract all splits, or name the classes in classnames.txt",
                )
            greatest = max(greatest, int(stored.part_labels(shard).max(initial=-1)))
    return tuple(str(label) for label in range(greatest + 1))
