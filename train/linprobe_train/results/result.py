"""What a result says: the question, what it was answered with, and what made it."""

from dataclasses import dataclass, field
from typing import Literal, TypeVar

import msgspec

from linprobe.records import digest_json, plain
from linprobe_store.handles.verification import Verification
from linprobe_train.protocol.held_out import HeldOut
from linprobe_train.protocol.protocols import Protocol
from linprobe_train.protocol.search import SplitUse, Sweep
from linprobe_train.protocol.temperature import Temperature
from linprobe_train.scores.metrics import Score
from linprobe_train.solver.lbfgs import FitReport


class Asked(msgspec.Struct, frozen=True, omit_defaults=True):
    """What every question depends on. JSON leaves out what is at its default."""

    encoder_id: str
    """64 hex digits."""
    dataset_id: str
    """64 hex digits."""
    splits: tuple[tuple[str, str], ...]
    """Name and digest of every split used, sorted."""


class Question(Asked, frozen=True):
    """Everything the result of a probe depends on; its digest names the folder."""

    protocol: Protocol
    """How C is chosen and what the features go through."""
    metric: str
    """What C is chosen by, and the headline."""
    folds: int
    """Folds of cross-validation that were asked for; 0 for what the protocol's rule does."""
    balanced: bool
    """Whether classes are weighed equally."""
    solver: str
    """``linprobe`` or ``sklearn``."""
    seed: int
    """Of the val cut, the folds and the bootstrap."""
    format: Literal[3]
    """Version of ``result.json``; in the question, so that old answers are not mistaken."""


@dataclass(frozen=True)
class Environment:
    """What made the result; recorded, not part of the question."""

    versions: dict[str, str]
    """Library versions."""
    threads: int
    """Threads used."""
    seconds: float
    """Wall time of the whole run."""
    cpu_seconds: float
    """Processor time of the whole run."""
    time: str = ""
    """When it was made, ISO 8601 in UTC; "" where the result does not say."""


@dataclass(frozen=True)
class Facts:
    """What the store knew of the data; recorded, not part of the question."""

    label_source: str = ""
    """Where labels were read, such as ``cls``; "" where the result does not say."""
    declared_metric: str | None = None
    """Headline metric that the dataset declares; None for none."""
    skipped: dict[str, dict[str, int]] = field(default_factory=dict)
    """Samples without features by split and reason; splits without any are left out."""


@dataclass(frozen=True)
class Result:
    """What every result begins with."""

    question: Asked
    """What was asked."""
    dataset: str
    """Name of the dataset."""
    encoder: str
    """Model name of the encoder."""
    dim: int
    """Features of a row."""
    verified: dict[str, Verification]
    """By split: what of it was verified, and had not changed after the last pass over its rows."""


@dataclass(frozen=True)
class ProbeResult(Result):
    """The content of ``result.json``."""

    question: Question
    """What was asked."""
    classes: tuple[str, ...]
    """Class names by label."""
    fitted_on: SplitUse
    """Rows of the final fit."""
    held_out: HeldOut
    """Rows C was chosen on; n = 0 where it was not chosen."""
    test: SplitUse
    """Rows of the scores."""
    C: float
    """The C of the final fit."""
    sweep: Sweep | None
    """The curve over C; None where C was not chosen."""
    fit: FitReport
    """The final fit."""
    temperature: Temperature | None
    """Fitted on held-out logits by the rule ``nll-band-1`` and over folds; else None."""
    scores: tuple[Score, ...]
    """On test, of probabilities at the temperature where it is applied."""
    raw: tuple[Score, ...]
    """Those of the scores that a temperature changes, without it; equal where none is applied."""
    warnings: tuple[str, ...]
    """What a reader must know."""
    environment: Environment
    """What made it."""
    facts: Facts = field(default_factory=Facts)
    """What the store knew of the data."""

    def __post_init__(self) -> None:
        if self.question.metric not in {score.name for score in self.scores}:
            raise ValueError(f"no score in its metric {self.question.metric!r}")
        if not self.classes or self.test.n < 1 or min(self.fitted_on.n, self.held_out.n) < 0:
            raise ValueError("no classes, no test rows, or a count below 0")
        if not 0 < self.T < float("inf"):
            raise ValueError(f"a temperature of {self.T}")
        if self.sweep and self.sweep.C not in {point.C for point in self.sweep.points}:
            raise ValueError(f"C = {self.sweep.C} is none of its sweep")

    @property
    def T(self) -> float:
        """What the probe's logits are divided by."""
        return 1.0 if self.temperature is None else self.temperature.used

    @property
    def headline(self) -> Score:
        """The score in the question's metric."""
        return self.score(self.question.metric)

    def score(self, name: str) -> Score:
        """Look a score up by the name of its metric."""
        return next(score for score in self.scores if score.name == name)


R = TypeVar("R", bound=Result)


def digest_of(question: Asked) -> str:
    """Sha256 over all that a question says, 64 hex digits."""
    return digest_json(plain(question))
