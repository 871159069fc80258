"""A probe on disk: ``probe.safetensors`` for the arrays, ``probe.json`` for what they mean.

A probe from disk, ready to classify features of the encoder it was trained on.

Probes as plain scikit-learn estimators; the adapter of scikit-learn's classifiers.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import LabelBinarizer, Normalizer

from linprobe.errors import DataError, ResultError
from linprobe.names import short_id
from linprobe.records import decode
from linprobe_store.handles.split import Split
from linprobe_train.solver.losses import Loss
from linprobe_train.solver.preparation import Float64
from linprobe_train.solver.probe import Probe
from linprobe_train.solver.rows import BLOCK_ROWS, Block, Features, Rows, as_matrix

FORMAT: Literal[1] = 1
"""Version of the pair of files."""


@dataclass(frozen=True)
class ProbeCard:
    """The content of ``probe.json``: what the arrays are for."""

    encoder_id: str
    """The one encoder whose features the probe takes; "" for plain arrays."""
    encoder: str
    """Its model name."""
    dataset: str
    """What it was trained on."""
    tap: str
    """The point of the encoder."""
    normalize: bool
    """Whether rows are divided by their L2 norm first."""
    loss: Loss
    """``softmax`` or ``sigmoid``."""
    multi_label: bool
    """Whether classes are independent."""
    classes: tuple[str, ...]
    """Class names by label, k entries."""
    C: float
    """Inverse L2 strength of the fit."""
    format: Literal[1] = FORMAT
    """Version of the files."""


def save_probe(folder: Path, probe: Probe, card: ProbeCard) -> None:
    """Write both files into an existing folder."""
    arrays = {"coef": probe.coef, "intercept": probe.intercept, "fitted": probe.fitted}
    save_file({k: np.ascontiguousarray(v) for k, v in arrays.items()}, folder / "probe.safetensors")
    (folder / "probe.json").write_text(
        json.dumps(asdict(card), indent=2, ensure_ascii=False) + "\n"
    )


def read_probe(folder: Path) -> tuple[Probe, ProbeCard]:
    """Read a probe back, from a result folder.

    Raises
    ------
    ResultError : a file is missing, damaged, of another version, or the two disagree.
    """
    try:
        card = decode(ProbeCard, json.loads((folder / "probe.json").read_text()))
        arrays = load_file(folder / "probe.safetensors")
        probe = Probe(
            arrays["coef"],
            arrays["intercept"],
            card.loss,
            card.normalize,
            arrays["fitted"],
            len(card.classes),
            card.multi_label,
        )
        _check(probe)
    except (OSError, ValueError, TypeError, KeyError, SafetensorError) as error:
        raise ResultError(
            f"{folder} does not hold a probe ({error})",
            hint="pass the folder of a result, or run linprobe probe again",
        ) from error
    return probe, card


def _check(probe: Probe) -> None:
    fitted = len(probe.fitted)
    m = 1 if fitted == 2 and not probe.multi_label else fitted
    if probe.coef.ndim != 2 or len(probe.coef) != m or probe.intercept.shape != (m,):
        raise ValueError(
            f"coef {probe.coef.shape} and intercept {probe.intercept.shape} for {fitted} classes"
        )
    if not (np.isfinite(probe.coef).all() and np.isfinite(probe.intercept).all()):
        raise ValueError("weights are not finite")
    if probe.fitted.dtype != np.int64 or (np.diff(probe.fitted, prepend=-1) < 1).any():
        raise ValueError(f"fitted classes {probe.fitted[:5]}... are not ascending class ids")
    if probe.fitted.max(initial=0) >= probe.n_classes:
        raise ValueError(f"class {probe.fitted.max()} of {probe.n_classes}")


class SklearnClassifier(Protocol):
    """What is used of a fitted scikit-learn classifier, which brings no types."""

    @property
    def classes_(self) -> NDArray[np.generic]:
        """Labels in the order of the columns."""

    def predict(self, X: ArrayLike) -> NDArray[np.generic]:
        """Labels of rows (n, d)."""

    def predict_proba(self, X: ArrayLike) -> Float64:
        """Probabilities (n, k)."""


def sklearn_classifier(probe: Probe, classes: tuple[str, ...]) -> SklearnClassifier:
    """Copy a probe into a fitted ``Pipeline``.

    Parameters
    ----------
    classes : names by class id; labels are the names of the classes fitted on. A multi-label probe
        gives scikit-learn's indicator matrix, with a column for each fitted class.
    """
    names = np.array([classes[i] for i in probe.fitted])
    last = _one_vs_rest(probe) if probe.multi_label else _logistic(probe.coef, probe, names)
    steps: list[tuple[str, Any]] = [("probe", last)]
    if probe.normalize:
        # scikit-learn checks that a pipeline was fitted by its last step alone.
        steps.insert(0, ("unit", Normalizer()))
    pipeline: SklearnClassifier = Pipeline(steps)
    return pipeline


def _logistic(coef: Float64, probe: Probe, labels: NDArray[np.generic]) -> LogisticRegression:
    model = LogisticRegression()
    model.coef_, model.intercept_ = coef.copy(), probe.intercept.copy()
    model.classes_, model.n_features_in_ = labels, coef.shape[1]
    model.n_iter_ = np.zeros(1, np.int32)
    return model


def _one_vs_rest(probe: Probe) -> OneVsRestClassifier:
    model = OneVsRestClassifier(LogisticRegression())
    model.estimators_ = []
    for row, intercept in zip(probe.coef, probe.intercept, strict=True):
        one = _logistic(row[None], probe, np.array([0, 1]))
        one.intercept_ = np.array([intercept])
        model.estimators_.append(one)
    model.label_binarizer_ = LabelBinarizer(sparse_output=True)
    model.label_binarizer_.fit(np.eye(len(probe.fitted), dtype=np.int64))
    model.n_features_in_ = probe.coef.shape[1]
    return model


if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class SavedProbe:
    """A probe with the names of its classes and the encoder whose features it takes."""

    probe: Probe
    """The weights."""
    card: ProbeCard
    """What they mean."""
    folder: Path
    """Where it was read from."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of the columns of :meth:`predict_proba`, k entries."""
        return self.card.classes

    def predict_proba(self, features: Features) -> Float64:
        """Probability of every class, (n, k); rows sum to 1 unless classes are independent.

        Parameters
        ----------
        features : a stored split, or an array (n, d) of features as the encoder gives them: the
            probe normalises them itself where it was trained so.

        Raises
        ------
        DataError : features of another encoder or dimension, or a row that is not finite or has no
            direction.
        """
        blocks = list(self.blocks(features))
        return np.concatenate(blocks) if blocks else np.empty((0, len(self.classes)))

    def predict(self, features: Features) -> NDArray[np.str_]:
        """Name of the most probable class of every row, (n,); of equal ones the smaller id."""
        names = np.array(self.classes, dtype=np.str_)
        found: NDArray[np.str_] = names[self.predict_proba(features).argmax(axis=1)]
        return found

    def blocks(self, features: Features) -> Iterator[Float64]:
        """:meth:`predict_proba` block by block, so that memory does not grow with n."""
        for block in self._blocks(features):
            _check_rows(block, normalize=self.card.normalize)
            rows = Rows((block,), np.zeros(block.n, np.int64), self.probe.n_classes)
            yield self.probe.probabilities(rows)

    def check_encoder(self, encoder_id: str, model: str) -> None:
        """Refuse features of another encoder.

        Raises
        ------
        DataError : naming both.
        """
        if self.card.encoder_id not in ("", encoder_id):
            raise DataError(
                f"the probe in '{self.folder}' takes features of {self.card.encoder} "
                f"({short_id(self.card.encoder_id)}); these are of {model} "
                f"({short_id(encoder_id)})",
                hint=f"use features of {self.card.encoder}, or train a probe on {model}",
            )

    def to_sklearn(self) -> "SklearnClassifier":
        """Copy into a fitted scikit-learn pipeline that needs nothing of ours.

        Its ``classes_`` are the names of the classes that the probe was fitted on (of all classes,
        for multi-label probes their numbers).
        """
        return sklearn_classifier(self.probe, self.classes)

    def _blocks(self, features: Features) -> Iterator[Block]:
        if isinstance(features, Split):
            self.check_encoder(features.encoder_id, features.encoder_names.model)
            views = features.blocks(self.card.tap, rows=BLOCK_ROWS)
            yield from (Block(view) for view in views)
            return
        whole = as_matrix(features)
        for start in range(0, len(whole), BLOCK_ROWS):
            yield Block(whole[start : start + BLOCK_ROWS])


def load_probe(path: Path | str) -> SavedProbe:
    """Read a probe from a folder of results, or by the path of one of its two files.

    Nothing that is stored is ever executed: the arrays are safetensors, the rest is JSON.

    Raises
    ------
    ResultError : a file is missing, damaged, of another version, or the two disagree.
    """
    folder = Path(path)
    if folder.name in ("probe.json", "probe.safetensors"):
        folder = folder.parent
    return SavedProbe(*read_probe(folder), folder)


def _check_rows(block: Block, *, normalize: bool) -> None:
    features = block.read()
    squares = np.einsum("ij,ij->i", features, features, dtype=np.float64)
    bad = ~np.isfinite(squares) | ((squares == 0) & normalize)
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        what = "all zeros" if squares[row] == 0 else "NaN or infinite"
        raise DataError(
            f"a row of features is {what} (row {row} of a block of {block.n})",
            hint="extract or import the features again",
        )
