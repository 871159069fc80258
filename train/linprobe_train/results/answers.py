"""Results on disk: a folder for each question, named by the hash of all that a number depends on.

A result is committed by one rename, so a folder that exists is a finished answer.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, Literal, TypeVar

import msgspec

from linprobe.disk import STAGING_PREFIX, TEMPORARY_FILE, Staging, is_abandoned, make_folders
from linprobe.errors import ResultError, StoreError
from linprobe.records import digest_json, encode, parse, plain, read_bytes
from linprobe_train.protocol.protocols import Protocol
from linprobe_train.protocol.search import SplitUse, Sweep
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
    """Folds of cross-validation; 0 for a val split."""
    balanced: bool
    """Whether classes are weighed equally."""
    solver: str
    """``linprobe`` or ``sklearn``."""
    seed: int
    """Of the val cut, the folds and the bootstrap."""
    format: Literal[1]
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


@dataclass(frozen=True)
class ProbeResult(Result):
    """The content of ``result.json``."""

    question: Question
    """What was asked."""
    classes: tuple[str, ...]
    """Class names by label."""
    fitted_on: SplitUse
    """Rows of the final fit."""
    held_out: SplitUse
    """Rows C was chosen on; n = 0 where C was given."""
    test: SplitUse
    """Rows of the scores."""
    C: float
    """The C of the final fit."""
    sweep: Sweep | None
    """The curve over C; None where C was given."""
    fit: FitReport
    """The final fit."""
    scores: tuple[Score, ...]
    """On test."""
    warnings: tuple[str, ...]
    """What a reader must know."""
    environment: Environment
    """What made it."""
    facts: Facts = field(default_factory=Facts)
    """What the store knew of the data."""

    @property
    def headline(self) -> Score:
        """The score in the question's metric."""
        return self.score(self.question.metric)

    def score(self, name: str) -> Score:
        """Look a score up by the name of its metric."""
        return next(score for score in self.scores if score.name == name)


R = TypeVar("R", bound=Result)


@dataclass(frozen=True)
class Answer(Generic[R]):
    """A result and where it lies."""

    result: R
    """What the question is answered with."""
    folder: Path
    """Where it is stored."""
    fresh: bool
    """False where it was read from disk."""


@dataclass(frozen=True)
class Answers(Generic[R]):
    """The results of one kind in a folder."""

    out: Path
    """Folder of the results' folders."""
    kind: type[R]
    """The result's type."""
    file: str = "result.json"
    """What each is written into."""

    def folder(self, question: Asked, *names: str) -> Path:
        """Where an answer lies: readable names, then 12 digits of the question's digest."""
        readable = "--".join(names).lower()
        safe = "".join(c if c.isalnum() or c in "-._" else "-" for c in readable)
        return self.out / f"{safe}--{digest_of(question)[:12]}"

    def get(self, question: Asked, *names: str) -> Answer[R] | None:
        """The stored answer; None where there is none, once it is sure that one can be written.

        What killed runs left behind is then removed. ``ResultError``: the folder cannot be made or
        written, or as in :meth:`read`.
        """
        folder = self.folder(question, *names)
        if (result := self.read(folder)) is not None:
            return Answer(result, folder, fresh=False)
        with _os_errors(f"results to {self.out}"):
            make_folders(self.out)
            Staging(self.out).discard()
        for path in (*self.out.glob(f"{STAGING_PREFIX}*"), *self.out.glob(f"*/{TEMPORARY_FILE}")):
            # Younger ones are another run's: on this host, and on a shared disk.
            if is_abandoned(path, min_age_s=10.0, foreign_age_s=86_400.0):
                path.unlink() if path.is_file() else shutil.rmtree(path, ignore_errors=True)
        return None

    def read(self, folder: Path) -> R | None:
        """The result in a folder, None for none; ``ResultError``: it is not of this version."""
        path, hint = folder / self.file, f"remove {folder} and run it again"
        if not path.exists():
            return None
        data = read_bytes(path, error=ResultError, hint=hint)
        what = f"{path} is not a result of this version"
        return parse(self.kind, data, what, error=ResultError, hint=hint)

    def put(
        self, result: R, *names: str, write_files: Callable[[Path], None] = lambda folder: None
    ) -> Answer[R]:
        """Commit an answer and the files that are written beside it, or nothing; the first wins.

        ``ResultError``: the disk refuses, or something else stands in the answer's place.
        """
        folder = self.folder(result.question, *names)
        with _os_errors(str(folder)):
            make_folders(self.out)
            with Staging(self.out) as staging:
                write_files(staging.path)
                (staging.path / self.file).write_bytes(encode(result))
                if not staging.publish(folder) and not (folder / self.file).exists():
                    raise ResultError(
                        f"{folder} is there and holds no {self.file}", hint=f"remove {folder}"
                    )
        return Answer(result, folder, fresh=True)


def digest_of(question: Asked) -> str:
    """Sha256 over all that a question says, 64 hex digits."""
    return digest_json(plain(question))


def read_result(folder: Path) -> ProbeResult | None:
    """The result of a probe in a folder, or None where there is none; see :class:`Answers`."""
    return Answers(folder.parent, ProbeResult).read(folder)


@contextmanager
def _os_errors(what: str) -> Iterator[None]:
    try:
        yield
    except (StoreError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ResultError(
            f"cannot write {what} ({reason})",
            hint="free some space, or pass --out with a folder that can be written",
        ) from error
