"""Results on disk: one folder for each question, complete or absent.

A question is everything a number depends on, hashed; its result is committed by one rename, so a
folder that exists is a finished answer.

Answers of k-NN and few-shot on disk: a folder for each question, complete or absent.
"""

import json
import os
import shutil
import typing
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar
from uuid import uuid4

from linprobe.disk import Staging
from linprobe.errors import ResultError
from linprobe.records import decode, digest_json
from linprobe_train.protocol.protocols import Protocol
from linprobe_train.protocol.search import SplitUse, Sweep
from linprobe_train.scores.metrics import Score
from linprobe_train.solver.lbfgs import FitReport

FORMAT = 1
"""Version of ``result.json``; also part of every question, so old answers are not mistaken."""


@dataclass(frozen=True)
class Question:
    """Everything a result depends on; its digest names the folder."""

    encoder_id: str
    """64 hex digits."""
    dataset_id: str
    """64 hex digits."""
    splits: tuple[tuple[str, str], ...]
    """Name and digest of every split used, sorted."""
    protocol: Protocol
    """How C is chosen and what the features go through."""
    metric: str
    """What C is chosen by."""
    folds: int
    """Folds of cross-validation; 0 for a val split."""
    balanced: bool
    """Whether classes are weighed equally."""
    solver: str
    """``linprobe`` or ``sklearn``."""
    seed: int
    """Of the val cut, the folds and the bootstrap."""
    format: int = FORMAT
    """Version of the result."""

    @property
    def digest(self) -> str:
        """Sha256 over all fields, 64 hex digits."""
        return digest_json(asdict(self))


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
class ProbeResult:
    """The content of ``result.json``."""

    question: Question
    """What was asked."""
    dataset: str
    """Name of the dataset."""
    encoder: str
    """Model name of the encoder."""
    dim: int
    """d."""
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

    @property
    def headline(self) -> Score:
        """The score in the dataset's own metric."""
        return self.score(self.question.metric)

    def score(self, name: str) -> Score:
        """Look a score up by the name of its metric."""
        return next(score for score in self.scores if score.name == name)


def result_folder(out: Path, question: Question, encoder: str, dataset: str) -> Path:
    """Where the answer to a question lies: readable names, then 12 digits of its digest."""
    names = f"{encoder}--{dataset}--{question.protocol.name}"
    safe = "".join(c if c.isalnum() or c in "-._" else "-" for c in names.lower())
    return out / f"{safe}--{question.digest[:12]}"


def read_result(folder: Path) -> ProbeResult | None:
    """The stored answer, or None where there is none.

    Raises
    ------
    ResultError : ``result.json`` is there but is not one of this version.
    """
    path = folder / "result.json"
    if not path.exists():
        return None
    try:
        return decode(ProbeResult, json.loads(path.read_text()))
    except (ValueError, TypeError, KeyError) as error:
        raise ResultError(
            f"{path} is not a result of this version ({error})",
            hint=f"remove {folder} and run the probe again",
        ) from error


def check_writable(out: Path) -> None:
    """Create the output folder before any work is done.

    Raises
    ------
    ResultError : it cannot be created or written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / f".writable-{uuid4().hex}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ResultError(
            f"cannot write results to {out} ({error.strerror})",
            hint="pass --out with a folder that can be written",
        ) from error


def commit_result(folder: Path, result: ProbeResult, write_files: Callable[[Path], None]) -> None:
    """Write ``result.json`` and the other files together, or nothing.

    ``write_files`` gets the temporary folder. An answer already there wins: it is the same.
    """
    partial = folder.with_name(f".{folder.name}.{uuid4().hex[:8]}.partial")
    partial.mkdir()
    try:
        write_files(partial)
        text = json.dumps(asdict(result), indent=2, ensure_ascii=False, allow_nan=False)
        (partial / "result.json").write_text(text + "\n")
        for path in [*partial.iterdir(), partial]:
            _sync(path)
        if not folder.exists():
            partial.rename(folder)
            _sync(folder.parent)
    except OSError as error:
        raise ResultError(
            f"cannot write {folder} ({error.strerror})", hint="free some space, or pass --out"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


if TYPE_CHECKING:
    from _typeshed import DataclassInstance


class Answering(typing.Protocol):
    """A result that knows its question."""

    @property
    def question(self) -> "DataclassInstance":
        """Everything the result depends on."""


R = TypeVar("R", bound=Answering)


@dataclass(frozen=True)
class Keyed(Generic[R]):
    """A result and where it lies."""

    result: R
    """What was found."""
    folder: Path
    """Where it is stored."""
    fresh: bool
    """False where it was read from disk."""


def keyed_folder(out: Path, names: str, question: "DataclassInstance") -> Path:
    """Where the answer to a question lies: readable names, then 12 digits of its digest."""
    safe = "".join(c if c.isalnum() or c in "-._" else "-" for c in names.lower())
    return out / f"{safe}--{digest_json(asdict(question))[:12]}"


def load_keyed(
    out: Path, names: str, question: "DataclassInstance", kind: type[R], file: str
) -> Keyed[R] | None:
    """The stored answer, or None where there is none.

    Raises
    ------
    ResultError : there is one, but not of this version.
    """
    folder = keyed_folder(out, names, question)
    path = folder / file
    if not path.exists():
        return None
    try:
        return Keyed(decode(kind, json.loads(path.read_text())), folder, fresh=False)
    except (ValueError, TypeError, KeyError) as error:
        raise ResultError(
            f"{path} is not a result of this version ({error})",
            hint=f"remove {folder} and run it again",
        ) from error


def store_keyed(
    out: Path,
    names: str,
    result: R,
    file: str,
    write_files: Callable[[Path], None] = lambda folder: None,
) -> Keyed[R]:
    """Write an answer and the files beside it together, or nothing; one already there wins."""
    folder = keyed_folder(out, names, result.question)
    with Staging(out) as staging:
        write_files(staging.path)
        text = json.dumps(_plain(result), indent=2, ensure_ascii=False, allow_nan=False)
        (staging.path / file).write_text(text + "\n")
        staging.publish(folder)
    return Keyed(result, folder, fresh=True)


def _plain(result: object) -> object:
    return asdict(result)  # type: ignore[call-overload]  # every result is a dataclass
