"""A probe on disk, arrays and card, and as scikit-learn's; n rows, d features, k classes."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from linprobe.disk import write_atomic
from linprobe.errors import DataError, ResultError, StoreError
from linprobe.names import short_id
from linprobe.terminal import command
from linprobe_store.handles.split import Split
from linprobe_train.results.signed import parse_signed, read_beside, sign
from linprobe_train.solver.losses import Loss
from linprobe_train.solver.preparation import Float64
from linprobe_train.solver.probe import Probe
from linprobe_train.solver.rows import BLOCK_ROWS, AnyFeatures, Block, Features, Rows, as_matrix

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

CARD_FILE, ARRAYS_FILE = "probe.json", "probe.safetensors"
MAX_HEADER = 4096
"""Most bytes of the JSON that begins the arrays' file; ours has about 200."""


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
    temperature: float
    """What logits are divided by before they become probabilities; 1 for nothing."""
    upright: bool = False
    """Whether images were turned as their EXIF says; new ones are then, too."""
    format: Literal[3] = 3
    """Version of the files."""


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

        ``features`` are a stored split or an array (n, d) as the encoder gives it: the probe
        normalises them itself where it was trained so. A class without a training row has 0.
        ``DataError``: another encoder or dimension; a row that is not finite or has no direction.
        """
        blocks = list(self.blocks(features))
        return np.concatenate(blocks) if blocks else np.empty((0, len(self.classes)))

    def predict(self, features: Features) -> NDArray[np.str_]:
        """Name of the most probable class of every row, (n,); of equal ones, of the smaller id.

        It takes the ``features`` of :meth:`predict_proba` and raises what it raises.
        """
        names = np.array(self.classes, dtype=np.str_)
        return np.asarray(names[self.predict_proba(features).argmax(axis=1)])

    def blocks(self, features: Features) -> Iterator[Float64]:
        """:meth:`predict_proba` block by block, so that memory does not grow with n.

        ``IntegrityError``, after the last block: files of a stored split changed meanwhile.
        """
        views: Iterator[AnyFeatures]
        if isinstance(features, Split):
            self.check_encoder(features.encoder_id, features.encoder_names.model)
            views = features.blocks(self.card.tap, rows=BLOCK_ROWS)
        else:
            x = as_matrix(features)
            views = (x[i : i + BLOCK_ROWS] for i in range(0, len(x), BLOCK_ROWS))
        for block in map(Block, views):
            values = block.read()
            squares = np.einsum("ij,ij->i", values, values, dtype=np.float64)
            bad = np.flatnonzero(~np.isfinite(squares) | ((squares == 0) & self.card.normalize))
            if len(bad):
                what = "all zeros" if squares[bad[0]] == 0 else "NaN or infinite"
                raise DataError(
                    f"a row of features is {what} (row {bad[0]} of a block of {block.n})",
                    hint="extract or import the features again",
                )
            rows = Rows((block,), np.zeros(block.n, np.int64), self.probe.n_classes)
            yield self.probe.probabilities(rows)
        if isinstance(features, Split):
            features.check_unchanged()

    def check_encoder(self, encoder_id: str, model: str) -> None:
        """Refuse features of another encoder with a ``DataError`` that names both."""
        if self.card.encoder_id not in ("", encoder_id):
            raise DataError(
                f"the probe in '{self.folder}' takes features of {self.card.encoder} "
                f"({short_id(self.card.encoder_id)}); these are of {model} "
                f"({short_id(encoder_id)})",
                hint=f"use features of {self.card.encoder}, or train a probe on {model}; "
                "imports of one encoder have to have the same --encoder-id",
            )

    def to_sklearn(self) -> "Pipeline":
        """Copy into a fitted classifier of raw features (n, d) that needs nothing of ours.

        Its ``classes_`` are the names of the classes that the probe was fitted on; a multi-label
        probe gives scikit-learn's indicator matrix, with a column for each fitted class. The
        temperature is in its weights.
        """
        from sklearn.pipeline import Pipeline
        from sklearn.preprocessing import Normalizer

        names = np.array([self.classes[i] for i in self.probe.fitted])
        # scikit-learn checks that a pipeline was fitted by its last step alone.
        unit = [("unit", Normalizer())] if self.probe.normalize else []
        return Pipeline([*unit, ("probe", _classifier(self.probe, names))])


def save_probe(folder: Path, probe: Probe, card: ProbeCard) -> None:
    """Write both files into an existing folder; ``ResultError`` where the disk refuses."""
    try:
        for name, data in probe_files(probe, card).items():  # the card last: it names the other
            write_atomic(folder / name, data)
    except StoreError as error:
        raise ResultError(error.message, hint=error.hint) from error


def probe_files(probe: Probe, card: ProbeCard) -> dict[str, bytes]:
    """Both files by name; the card says what the arrays must be, byte for byte."""
    arrays = {"coef": probe.coef, "intercept": probe.intercept, "fitted": probe.fitted}
    data = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    return {ARRAYS_FILE: data, CARD_FILE: sign(card, {ARRAYS_FILE: data})}


def load_probe(path: Path | str) -> SavedProbe:
    """Read the probe in a folder, or one of its two files; nothing stored is ever executed.

    Both are verified by the digests in ``probe.json``, and in ``result.json`` where that is there.
    ``ResultError``: a file is missing, damaged, of another version, or the two disagree.
    """
    folder = Path(path)
    folder = folder.parent if folder.name in (CARD_FILE, ARRAYS_FILE) else folder
    what = f"{folder} does not hold a probe"
    try:
        card_data, data = (read_beside(folder, name) for name in (CARD_FILE, ARRAYS_FILE))
        signed = parse_signed(ProbeCard, card_data, folder / CARD_FILE)
        signed.check(ARRAYS_FILE, data)
        return SavedProbe(_probe_of(signed.record, data), signed.record, folder)
    except ResultError as error:
        raise ResultError(f"{what} ({error.message})", hint=error.hint) from error
    except (ValueError, TypeError, KeyError, SafetensorError) as error:
        hint = f"pass the folder of a result, or make one with {command('probe')}"
        raise ResultError(f"{what} ({folder / ARRAYS_FILE}: {error})", hint=hint) from error


def _probe_of(card: ProbeCard, data: bytes) -> Probe:
    """The probe of a card and of the content of ``probe.safetensors``."""
    header = int.from_bytes(data[:8], "little")
    if header > MAX_HEADER:
        raise ValueError(f"expected a header of at most {MAX_HEADER} bytes, found {header}")
    arrays = load(data)
    if sorted(arrays) != ["coef", "fitted", "intercept"]:
        raise ValueError(f"expected coef, fitted and intercept, found {', '.join(sorted(arrays))}")
    probe = Probe(
        arrays["coef"],
        arrays["intercept"],
        card.loss,
        card.normalize,
        arrays["fitted"],
        len(card.classes),
        card.multi_label,
        card.temperature,
    )
    _check(probe)
    return probe


def _check(probe: Probe) -> None:
    fitted = len(probe.fitted)
    is_binary = fitted == 2 and not probe.multi_label
    m = 1 if is_binary else fitted
    if (probe.loss == "sigmoid") != (is_binary or probe.multi_label):
        raise ValueError(f"the loss {probe.loss} for {fitted} classes")
    if probe.coef.dtype != np.float64 or probe.intercept.dtype != np.float64:
        raise ValueError(f"expected float64, found {probe.coef.dtype}, {probe.intercept.dtype}")
    if probe.coef.ndim != 2 or len(probe.coef) != m or probe.intercept.shape != (m,):
        raise ValueError(
            f"coef {probe.coef.shape} and intercept {probe.intercept.shape} for {fitted} classes"
        )
    if not (np.isfinite(probe.coef).all() and np.isfinite(probe.intercept).all()):
        raise ValueError("weights are not finite")
    if not 0 < probe.temperature < np.inf:
        raise ValueError(f"a temperature of {probe.temperature}; expected a positive number")
    if probe.fitted.dtype != np.int64 or (np.diff(probe.fitted, prepend=-1) < 1).any():
        raise ValueError(f"fitted classes {probe.fitted[:5]}... are not ascending class ids")
    if fitted == 0 or probe.fitted.max() >= probe.n_classes:
        raise ValueError(f"classes {probe.fitted[-5:]} of {probe.n_classes}")


def _classifier(probe: Probe, names: NDArray[np.generic]) -> object:
    """A fitted ``LogisticRegression``, or for independent classes one of each."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.preprocessing import LabelBinarizer

    def logistic(coef: Float64, bias: Float64, labels: NDArray[np.generic]) -> LogisticRegression:
        model = LogisticRegression()
        model.coef_, model.intercept_ = coef / probe.temperature, bias / probe.temperature
        model.classes_, model.n_features_in_ = labels, coef.shape[1]
        model.n_iter_ = np.zeros(1, np.int32)
        return model

    if not probe.multi_label:
        return logistic(probe.coef, probe.intercept, names)
    model = OneVsRestClassifier(LogisticRegression())
    pairs = zip(probe.coef, probe.intercept, strict=True)
    model.estimators_ = [logistic(row[None], b[None], np.array([0, 1])) for row, b in pairs]
    model.label_binarizer_ = LabelBinarizer(sparse_output=True)
    model.label_binarizer_.fit(np.eye(len(probe.fitted), dtype=np.int64))
    model.n_features_in_ = probe.coef.shape[1]
    return model
