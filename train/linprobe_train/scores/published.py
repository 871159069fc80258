"""Linear-probe results that the CLIP paper prints, to put beside one's own.

Source: Radford et al., Learning Transferable Visual Models From Natural Language Supervision
(ICML 2021, arXiv 2103.00020), Table 10, rows CLIP-ResNet and CLIP-ViT. STL-10 as corrected in
the footnote there. The numbers hold for the paper's protocol alone: features before the
projection, C chosen by the search of Appendix A.3, the metric of Table 9.
"""

from collections.abc import Mapping
from dataclasses import dataclass

SOURCE = "Radford et al. 2021, Table 10"
TAP = "pre_projection"
PROTOCOL = "clip-paper"

MODELS = ("RN50", "RN101", "ViT-B/32", "ViT-B/16", "ViT-L/14", "ViT-L/14@336px")
"""Columns of :data:`TABLE_10`, by OpenAI's names."""

TABLE_10: Mapping[str, tuple[float, float, float, float, float, float]] = {
    "food101": (86.4, 88.9, 88.8, 92.8, 95.2, 95.9),
    "cifar10": (88.7, 91.1, 95.1, 96.2, 98.0, 97.9),
    "cifar100": (70.3, 73.5, 80.5, 83.1, 87.5, 87.4),
    "birdsnap": (56.4, 58.6, 58.5, 67.8, 77.0, 79.9),
    "sun397": (73.3, 75.1, 76.6, 78.4, 81.8, 82.2),
    "stanford_cars": (78.3, 84.0, 81.8, 86.7, 90.9, 91.5),
    "fgvc_aircraft": (49.1, 50.7, 52.0, 59.5, 69.4, 71.6),
    "voc2007": (87.1, 88.0, 87.7, 89.2, 89.6, 89.9),
    "dtd": (76.4, 76.3, 76.5, 79.2, 82.1, 83.0),
    "oxford_pets": (88.2, 91.0, 90.0, 93.1, 95.1, 95.1),
    "caltech101": (89.6, 92.0, 93.0, 94.7, 96.5, 96.0),
    "flowers102": (96.1, 96.4, 96.9, 98.1, 99.2, 99.2),
    "mnist": (98.3, 98.4, 99.0, 99.0, 99.2, 99.2),
    "fer2013": (64.2, 65.2, 69.2, 69.5, 72.2, 72.9),
    "stl10": (96.6, 97.8, 98.3, 99.0, 99.7, 99.7),
    "eurosat": (95.2, 95.9, 97.0, 97.1, 98.2, 98.1),
    "resisc45": (87.5, 89.3, 90.5, 92.7, 94.1, 94.9),
    "gtsrb": (82.4, 82.4, 85.3, 86.6, 92.5, 92.4),
    "kitti_distance": (70.2, 73.6, 66.2, 67.8, 64.7, 69.2),
    "country211": (25.3, 26.6, 27.8, 33.3, 42.9, 46.4),
    "pcam": (82.7, 82.8, 83.9, 83.5, 85.8, 85.6),
    "ucf101": (81.6, 84.0, 85.5, 88.4, 91.5, 92.0),
    "kinetics700": (57.2, 60.3, 61.7, 66.1, 72.0, 73.0),
    "clevr_counts": (53.6, 50.3, 52.1, 57.1, 57.8, 60.3),
    "hateful_memes": (65.7, 68.2, 66.7, 70.3, 76.2, 77.3),
    "rendered_sst2": (72.6, 73.3, 70.8, 75.5, 80.8, 80.5),
    "imagenet": (73.3, 75.7, 76.1, 80.2, 83.9, 85.4),
}
"""Percent, by dataset slug and in the order of :data:`MODELS`."""

METRICS: Mapping[str, str] = {
    "fgvc_aircraft": "mean_per_class",
    "oxford_pets": "mean_per_class",
    "caltech101": "mean_per_class",
    "flowers102": "mean_per_class",
    "voc2007": "map_11_point",
    "kinetics700": "mean_top1_top5",
    "hateful_memes": "roc_auc",
}
"""The metric of Table 9, where it is not ``top1``."""


@dataclass(frozen=True)
class PublishedResult:
    """A number that the paper prints."""

    model: str
    """OpenAI's name of the encoder, such as ``ViT-B/16``."""
    dataset: str
    """Slug of the dataset, such as ``cifar10``."""
    metric: str
    """``top1``, ``mean_per_class``, ``map_11_point``, ``roc_auc`` or ``mean_top1_top5``."""
    percent: float
    """The number, in percent, as printed: to one decimal."""
    source: str
    """Where it is printed."""

    def beside(self, value: float) -> str:
        """The paper's number and the difference to ``value`` (the same metric, in [0, 1])."""
        difference = 100 * value - self.percent
        return f"{self.source}: {self.percent:.1f} (ours {difference:+.1f})"


def published(model: str, dataset: str, tap: str, protocol: str) -> PublishedResult | None:
    """The paper's number for this question; None where the paper did not ask it.

    Parameters
    ----------
    model : a model name as on the command line: ``ViT-B/16``, or open_clip's ``ViT-B-16:openai``.
    dataset : slug of a known dataset.
    tap : only ``pre_projection`` is comparable.
    protocol : only ``clip-paper`` is comparable.
    """
    name = openai_name(model)
    if name is None or dataset not in TABLE_10 or (tap, protocol) != (TAP, PROTOCOL):
        return None
    percent = TABLE_10[dataset][MODELS.index(name)]
    return PublishedResult(name, dataset, METRICS.get(dataset, "top1"), percent, SOURCE)


def openai_name(model: str) -> str | None:
    """OpenAI's name for an encoder with OpenAI's weights; None for any other."""
    if model in MODELS:
        return model
    architecture, _, tag = model.partition(":")
    if tag != "openai":
        return None
    plain = architecture.removesuffix("-quickgelu")
    written = {name.replace("/", "-").replace("@336px", "-336"): name for name in MODELS}
    return written.get(plain)
