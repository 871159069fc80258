"""Which metric a dataset is selected and reported by."""

from linprobe.benchmarks import find_known
from linprobe.benchmarks import plain_name as _plain_name
from linprobe_train.scores.metrics import score_names


def plain_name(dataset: str) -> str:
    """Lower case with underscores, and one name for each known dataset."""
    known = find_known(dataset)
    return _plain_name(dataset) if known is None else known.slug


def headline_metric(dataset: str, k: int, *, multi_label: bool) -> str:
    """Metric that a dataset is selected and reported by: Table 9 of Radford et al. 2021.

    Where the paper says nothing, the most usual metric of its kind of labels. A known name whose
    labels do not have its metric is another dataset of that name.
    """
    metrics, known = score_names(k, multi_label=multi_label), find_known(dataset)
    return known.metric if known is not None and known.metric in metrics else metrics[0]
