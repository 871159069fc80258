"""A probe with what it is of: a classifier of features, of stored splits and of images."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from linprobe.disk import write_atomic
from linprobe.errors import DataError, ResultError
from linprobe.machine import Device
from linprobe.names import first_few, short_id
from linprobe.records import canonical_json, plain
from linprobe_store.format.layout import ENCODER_FILE
from linprobe_store.format.spec import EncoderSpec
from linprobe_store.handles.split import Split
from linprobe_train.results.labels import as_labels, as_names
from linprobe_train.results.on_images import ImagePredictions, classify_images, encoder_beside
from linprobe_train.results.probe_file import (
    ARRAYS_FILE,
    CARD_FILE,
    ProbeCard,
    classifier_of,
    read_probe,
    save_probe,
)
from linprobe_train.solver.preparation import Float64
from linprobe_train.solver.probe import Probe
from linprobe_train.solver.rows import BLOCK_ROWS, AnyFeatures, Block, Features, Rows, as_matrix

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline


@dataclass(frozen=True, repr=False)
class SavedProbe:
    """A probe with the names of its classes and the encoder whose features it takes.

    Examples
    --------
    >>> from linprobe import FeatureStore, load_probe, sweep
    >>> store = FeatureStore("features")
    >>> sweep(store.split("train")).save("my-probe")
    PosixPath('my-probe')
    >>> probe = load_probe("my-probe")
    >>> test = store.split("test")
    >>> probe.predict(test).shape, probe.predict_proba(test).shape    # (n,) and (n, k)
    ((60,), (60, 4))
    >>> probe.score(test) > 0.5
    True
    """

    probe: Probe
    """The weights."""
    card: ProbeCard
    """What they mean."""
    folder: Path
    """Where it was read from; empty where it was not."""
    encoder: EncoderSpec | None = None
    """The encoder, where the probe was fitted on a stored split by this very program."""

    def __repr__(self) -> str:
        classes = f"{len(self.classes)} classes: {first_few(self.classes, 3)}"
        dim = self.probe.coef.shape[1]
        return f"{type(self).__name__}({dim} features, {classes}; C = {self.card.C:g})"

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

    def predict(self, features: Features) -> NDArray[np.generic]:
        """Most probable class of every row, (n,); of equal ones the first.

        Texts, integers or booleans, as the labels of the fit were. It takes the ``features`` of
        :meth:`predict_proba` and raises what it raises.
        """
        return np.asarray(self.card.labels[self.predict_proba(features).argmax(axis=1)])

    def score(self, features: Features, labels: ArrayLike | None = None) -> float:
        """Share of rows whose class is the most probable one; mean average precision of multi-hot.

        ``labels`` are (n,) classes, or (n, k) multi-hot; a stored split brings its own. Those of
        another kind than the probe was fitted on are taken as the classes that they mean: 1 as "1".
        ``DataError``: there are none, or not one for every row, or one of another kind means no
        class of the probe; else as :meth:`predict_proba`.
        """
        if isinstance(features, Split) and labels is None:
            own = features.labels
            names = np.array(features.classes, dtype=np.str_)
            labels = own if own.ndim == 2 else names[own]
        if labels is None:
            raise DataError("an array of features needs labels", hint="pass labels of shape (n,)")
        wanted, p = as_labels(labels), self.predict_proba(features)
        n_axes = 2 if self.probe.multi_label else 1
        if wanted.ndim != n_axes or len(wanted) != len(p):
            what = f"{len(p)} rows of features and labels of shape {wanted.shape}"
            raise DataError(what, hint="give one label for every row, as the probe was fitted on")
        if wanted.ndim == 2:
            from sklearn.metrics import average_precision_score

            some = wanted.any(axis=0)
            return float(average_precision_score(wanted[:, some], p[:, some], average="macro"))
        named = np.array(self.classes, dtype=np.str_)[p.argmax(axis=1)]
        return float((named == as_names(wanted, self.classes, self.card.kind)).mean())

    def predict_images(
        self,
        images: str | Path | Iterable[object],
        *,
        encoder: object | None = None,
        weights: Path | str | None = None,
        device: Device = "auto",
        store: Path | str = "features",
    ) -> ImagePredictions:
        """Classify image files, folders and shards; or all that an ``Encoder`` takes.

        Parameters
        ----------
        images : a path, or several. With ``encoder``, whatever its ``encode`` takes.
        encoder : the :class:`linprobe.Encoder` of the probe: one that is loaded already, or of a
            module of one's own; None loads it by its name.
        weights : checkpoint of the encoder, where it was extracted with one.
        device : where it runs.
        store : where the encoder is known, if it is not beside the probe.

        Returns
        -------
        Keys and classes of the n images, and their probabilities (n, k).

        Raises
        ------
        DataError : images are no paths, or the probe knows no encoder, and none is given.
        LinprobeError : no encoder of images is here, or it is not the probe's; nothing decodes.
        """
        return classify_images(self, images, encoder, weights, device, Path(store))

    def save(self, folder: Path | str) -> Path:
        """Write the probe into a folder, for :func:`load_probe`; gives the folder.

        ``ResultError``: the disk refuses.
        """
        path = Path(folder)
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            hint = "give another folder"
            raise ResultError(f"cannot make '{path}': {error.strerror}", hint=hint) from error
        if (spec := encoder_beside(self)) is not None:
            write_atomic(path / ENCODER_FILE, canonical_json(plain(spec)))
        save_probe(path, self.probe, self.card)
        return path

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
            place = f" in '{self.folder}'" if self.folder.name else ""
            raise DataError(
                f"the probe{place} takes features of {self.card.encoder} "
                f"({short_id(self.card.encoder_id)}); these are of {model} "
                f"({short_id(encoder_id)})",
                hint=f"use features of {self.card.encoder}, or train a probe on {model}; "
                "imports of one encoder have to have the same --encoder-id",
            )

    def to_sklearn(self) -> "Pipeline":
        """Copy into a fitted classifier of raw features (n, d) that needs nothing of ours.

        Its ``classes_`` are the classes that the probe was fitted on, as labels; a multi-label
        probe gives scikit-learn's indicator matrix, with a column for each fitted class. The
        temperature is in its weights.
        """
        from sklearn.pipeline import Pipeline
        from sklearn.preprocessing import Normalizer

        names = self.card.labels[self.probe.fitted]
        # scikit-learn checks that a pipeline was fitted by its last step alone.
        unit = [("unit", Normalizer())] if self.probe.normalize else []
        return Pipeline([*unit, ("probe", classifier_of(self.probe, names))])


def load_probe(path: Path | str) -> SavedProbe:
    """Read the probe in a folder, or one of its two files; nothing stored is ever executed.

    Both are verified by the digests in ``probe.json``, and in ``result.json`` where that is there.
    ``ResultError``: a file is missing, damaged, of another version, or the two disagree.

    Examples
    --------
    >>> from linprobe import FeatureStore, load_probe, sweep
    >>> folder = sweep(FeatureStore("features").split("train")).save("my-probe")
    >>> load_probe(folder).predict_proba([[0.5] * 12]).shape    # (n, d) to (n, k)
    (1, 4)
    """
    folder = Path(path)
    folder = folder.parent if folder.name in (CARD_FILE, ARRAYS_FILE) else folder
    return SavedProbe(*read_probe(folder), folder)
