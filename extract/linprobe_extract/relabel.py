"""Labels read again from the tars, where the parts hold labels that were read in another way.

A part belongs to a tar, whatever dataset the tar is read as. When the same tar is asked for with
another ``--label-key``, its features are there already and only its labels have to be read.
"""

from linprobe_extract.errors import ShardError
from linprobe_extract.fingerprints import FingerprintCache
from linprobe_extract.labels import label_array
from linprobe_extract.samples import Label, Labelling, read_samples
from linprobe_extract.shard_layouts import Shard
from linprobe_extract.shards import DatasetPlan
from linprobe_extract.tar_stream import read_members
from linprobe_store import Keys, LabelArray, PartCommit
from linprobe_store.sealing import ReadLabels


def label_reader(plan: DatasetPlan, split: str, fingerprints: FingerprintCache) -> ReadLabels:
    """Give the function that knows the labels of each part of a split.

    It gives those in the part where they were read as the plan says, and reads the tar otherwise.
    """
    sources = {fingerprints.fingerprint(shard): shard for shard in plan.split(split).shards}
    labelling = plan.labelling

    def read(part: PartCommit, keys: Keys, labels: LabelArray) -> LabelArray:
        if part.labelling == labelling.identity:
            return labels
        with fingerprints.fetched(sources[part.shard]) as (source, _):
            found = _labels(source, labelling)
        return label_array([_label(found, key, source) for key in keys], labelling.classes)

    return read


def _labels(source: Shard, labelling: Labelling) -> dict[str, Label]:
    samples = read_samples(source.url, read_members(source), labelling)
    return {sample.key: sample.label for sample in samples if sample.reason is None}


def _label(found: dict[str, Label], key: str, source: Shard) -> Label:
    if key in found:
        return found[key]
    raise ShardError(
        f"sample '{key}' of '{source.url}' has features but no label of this kind",
        hint="mend its labels, or extract into another store",
    )
