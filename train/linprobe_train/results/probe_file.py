"""A probe on disk, arrays and card, and as scikit-learn's; n rows, d features, k classes."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from msgspec import UNSET, UnsetType
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from linprobe.disk import write_atomic
from linprobe.errors import ResultError, StoreError
from linprobe.terminal import command
from linprobe_train.results.labels import LabelKind, Labels, labels_of
from linprobe_train.results.signed import parse_signed, read_beside, sign
from linprobe_train.solver.losses import Loss
from linprobe_train.solver.preparation import Float64
from linprobe_train.solver.probe import Probe

if TYPE_CHECKING:
    pass

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
    label_kind: Literal["int", "bool"] | UnsetType = UNSET
    """What the program that fitted the probe has for classes; left out where they are texts."""
    format: Literal[3] = 3
    """Version of the files."""

    def __post_init__(self) -> None:
        try:
            labels_of(self.classes, self.kind)
        except (ValueError, OverflowError):
            problem = f"classes that are no labels of the kind {self.kind}"
            raise ValueError(problem) from None

    @property
    def kind(self) -> LabelKind:
        """What the classes are: texts, where the card does not say."""
        return "text" if self.label_kind is UNSET else self.label_kind

    @property
    def labels(self) -> Labels:
        """The classes as labels of their kind, (k,)."""
        return labels_of(self.classes, self.kind)


def save_probe(folder: Path, probe: Probe, card: ProbeCard) -> None:
    """Write both files into an existing folder; ``ResultError`` where the disk refuses.

    Examples
    --------
    >>> from pathlib import Path
    >>> import numpy as np
    >>> from linprobe import fit_probe, save_probe
    >>> fitted = fit_probe(np.eye(4), ["cat", "dog"] * 2)    # (n, d) and n labels
    >>> save_probe(Path(), fitted.probe, fitted.card)        # fitted.save("folder") does the same
    >>> sorted(path.name for path in Path().glob("probe.*"))
    ['probe.json', 'probe.safetensors']
    """
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


def read_probe(folder: Path) -> tuple[Probe, ProbeCard]:
    """Read both files of a folder; refusals as ``load_probe``."""
    what = f"{folder} does not hold a probe"
    try:
        card_data, data = (read_beside(folder, name) for name in (CARD_FILE, ARRAYS_FILE))
        signed = parse_signed(ProbeCard, card_data, folder / CARD_FILE)
        signed.check(ARRAYS_FILE, data)
        return _probe_of(signed.record, data), signed.record
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


def classifier_of(probe: Probe, names: NDArray[np.generic]) -> object:
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
