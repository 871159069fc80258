"""Relabelling: other classes over the same features, without a GPU."""

from dataclasses import asdict, dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from linprobe_store.canonical import digest_json
from linprobe_store.errors import MismatchError
from linprobe_store.records import LabelArray
from linprobe_store.spec import DatasetSpec


@dataclass(frozen=True)
class LabelMap:
    """From the class ids in the parts to the class ids of another dataset."""

    classes: tuple[str, ...]
    """Class names of the other dataset, by its class ids."""
    labels: tuple[int, ...]
    """Class id in the other dataset, by class id in the parts; each in [0, len(classes))."""

    @cached_property
    def digest(self) -> str:
        """Sha256 of the map as canonical JSON, 64 hex digits."""
        return digest_json(asdict(self))

    def relabelled(self, dataset: DatasetSpec) -> DatasetSpec:
        """Spec of the dataset with this map applied; the map is part of its label source."""
        label_source = dataset.label_source + self._suffix
        return replace(dataset, classes=self.classes, label_source=label_source)

    def check_made(self, dataset: DatasetSpec) -> None:
        """Check that a spec comes from :meth:`relabelled`, so that its id holds this map.

        Raises
        ------
        MismatchError : it does not.
        """
        if dataset.classes != self.classes or not dataset.label_source.endswith(self._suffix):
            raise MismatchError(
                f"the dataset's labels come from {dataset.label_source!r}, which does not name "
                f"the label map {self.digest[:12]}",
                hint="pass the spec that LabelMap.relabelled gives",
            )

    def apply(self, labels: LabelArray, place: str) -> NDArray[np.int64]:
        """Map class ids (n,) int64.

        Raises
        ------
        MismatchError : a class id has no entry, or the labels are multi-hot.
        """
        if labels.ndim != 1:
            raise MismatchError(
                f"{place}: multi-hot labels cannot be mapped", hint="map class ids only"
            )
        check_range(labels, len(self.labels), place)
        return np.asarray(self.labels, np.int64)[labels]

    @property
    def _suffix(self) -> str:
        return f"+map:{self.digest}"


def check_range(labels: LabelArray, n_classes: int, place: str) -> None:
    """Check labels against the number of classes.

    Raises
    ------
    MismatchError : a class id is not in [0, k), or multi-hot labels have not k columns of 0 and 1.
    """
    if labels.ndim == 2 and len(labels):
        if labels.shape[1] != n_classes or labels.max() > 1:
            raise MismatchError(
                f"{place}: expected {n_classes} columns of 0 and 1, found {labels.shape[1]} "
                f"columns up to {labels.max()}",
                hint="give the class list that the labels were made with",
            )
    elif len(labels) and (labels.min() < 0 or labels.max() >= n_classes):
        raise MismatchError(
            f"{place}: expected labels in 0..{n_classes - 1} ({n_classes} classes), "
            f"found {labels.min()}..{labels.max()}",
            hint="give the class list that the labels were made with",
        )
