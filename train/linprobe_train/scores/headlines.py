"""Which metric a dataset is selected and reported by."""

from linprobe_train.scores.metrics import score_names
from linprobe_train.scores.published import METRICS

ALIASES = {
    "aircraft": "fgvc_aircraft",
    "pets": "oxford_pets",
    "oxfordiiitpet": "oxford_pets",
    "oxford_iiit_pet": "oxford_pets",
    "caltech_101": "caltech101",
    "flowers": "flowers102",
    "oxford_flowers": "flowers102",
    "oxford_flowers102": "flowers102",
    "voc2007_multilabel": "voc2007",
}
"""Other names of datasets that the CLIP paper reports in a metric of their own."""


def plain_name(dataset: str) -> str:
    """Lower case with underscores, and one name for each known dataset."""
    name = dataset.lower().replace("-", "_").replace("/", "_")
    return ALIASES.get(name, name)


def headline_metric(dataset: str, k: int, *, multi_label: bool) -> str:
    """Metric that a dataset is selected and reported by: Table 9 of Radford et al. 2021.

    Where the paper says nothing, the most usual metric of its kind of labels. A known name whose
    labels do not have its metric is another dataset of that name.
    """
    known = score_names(k, multi_label=multi_label)
    named = METRICS.get(plain_name(dataset), known[0])
    return named if named in known else known[0]
