"""Answers of k-NN and few-shot on disk: a folder for each question, complete or absent."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from linprobe_store.canonical import digest_json
from linprobe_store.staging import Staging
from linprobe_train.codec import decode
from linprobe_train.errors import ResultError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


class Answering(Protocol):
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
