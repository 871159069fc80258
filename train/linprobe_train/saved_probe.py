"""A probe from disk, ready to classify features of the encoder it was trained on."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from linprobe_store import Split, StoredEncoder
from linprobe_store.layout import short_id
from linprobe_train.api import Features, as_matrix
from linprobe_train.errors import DataError
from linprobe_train.preparation import Float64
from linprobe_train.probe import Probe
from linprobe_train.probe_file import ProbeCard, read_probe
from linprobe_train.rows import BLOCK_ROWS, Block, Rows

if TYPE_CHECKING:
    from linprobe_train.sklearn_export import SklearnClassifier


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

    def check_encoder(self, encoder: StoredEncoder) -> None:
        """Refuse features of another encoder.

        Raises
        ------
        DataError : naming both.
        """
        if self.card.encoder_id not in ("", encoder.encoder_id):
            raise DataError(
                f"the probe in '{self.folder}' takes features of {self.card.encoder} "
                f"({short_id(self.card.encoder_id)}); these are of {encoder.names.model} "
                f"({encoder.short_id})",
                hint=f"use features of {self.card.encoder}, or train a probe on "
                f"{encoder.names.model}",
            )

    def to_sklearn(self) -> "SklearnClassifier":
        """Copy into a fitted scikit-learn pipeline that needs nothing of ours.

        Its ``classes_`` are the names of the classes that the probe was fitted on (of all classes,
        for multi-label probes their numbers).
        """
        from linprobe_train.sklearn_export import sklearn_classifier

        return sklearn_classifier(self.probe, self.classes)

    def _blocks(self, features: Features) -> Iterator[Block]:
        if isinstance(features, Split):
            self.check_encoder(features.encoder)
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
