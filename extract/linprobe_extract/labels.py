"""Labels of samples as the array that the store takes."""

from collections.abc import Sequence

import numpy as np

from linprobe_extract.errors import ShardError
from linprobe_extract.samples import Label
from linprobe_store.records import LabelArray


def label_array(labels: Sequence[Label], classes: tuple[str, ...] | None) -> LabelArray:
    """Labels as the store takes them: (n,) int64, or (n, k) uint8 for multi-label samples.

    Raises
    ------
    ShardError : a sample has several labels and the class names are not known.
    """
    if not any(isinstance(label, tuple) for label in labels):
        return np.array(labels, np.int64)
    if classes is None:
        raise ShardError(
            "samples have several labels each and the number of classes is unknown",
            hint="name the classes in classnames.txt or with --classes FILE",
        )
    hot = np.zeros((len(labels), len(classes)), np.uint8)
    for row, label in zip(hot, labels, strict=True):
        row[list(label) if isinstance(label, tuple) else [label]] = 1
    return hot
