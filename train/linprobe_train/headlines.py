"""Which metric each known dataset is reported in: table 9 of Radford et al. 2021."""

from linprobe_train.metrics import score_names

HEADLINES = {
    "fgvc-aircraft": "mean_per_class",
    "oxford-pets": "mean_per_class",
    "caltech101": "mean_per_class",
    "flowers102": "mean_per_class",
    "voc2007": "map_11_point",
    "kinetics700": "mean_top1_top5",
    "hateful-memes": "roc_auc",
}
"""By dataset, in :func:`plain_name` form; datasets not listed are reported in accuracy."""

ALIASES = {
    "aircraft": "fgvc-aircraft",
    "pets": "oxford-pets",
    "oxfordiiitpet": "oxford-pets",
    "oxford-iiit-pet": "oxford-pets",
    "caltech-101": "caltech101",
    "flowers": "flowers102",
    "oxford-flowers": "flowers102",
    "oxford-flowers102": "flowers102",
    "voc2007-multilabel": "voc2007",
}
"""Other names of the same datasets."""


def plain_name(dataset: str) -> str:
    """Lower case, hyphens, and one name for each known dataset."""
    name = dataset.lower().replace("_", "-").replace("/", "-")
    return ALIASES.get(name, name)


def headline_metric(dataset: str, k: int, *, multi_label: bool) -> str:
    """Metric that a dataset is selected and reported by.

    A known name whose labels do not have its metric is another dataset of that name.
    """
    known = score_names(k, multi_label=multi_label)
    named = HEADLINES.get(plain_name(dataset), known[0])
    return named if named in known else known[0]
