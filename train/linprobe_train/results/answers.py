"""Results on disk: a folder for each question, named by the hash of all that a number depends on.

A result is committed by one rename, so a folder that exists is a finished answer. It is believed
after every file in it was verified by the digests in ``result.json``.
"""

import os
import re
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Generic

from linprobe.disk import (
    STAGING_PREFIX,
    TEMPORARY_FILE,
    Staging,
    check_space,
    is_abandoned,
    make_folders,
    remove_unit,
)
from linprobe.errors import ResultError, StoreError, unreadable
from linprobe.names import first_few
from linprobe.terminal import Progress, Watch, ignore
from linprobe_train.results.result import Asked, ProbeResult, R, Result, digest_of
from linprobe_train.results.signed import RESULT_FILE, read_signed, sign
from linprobe_train.scores.predictions import REMAKE

MAX_NAME = 60
"""Most bytes of a name in the name of a folder; the digest keeps apart what is cut alike."""
_SMALL = 1 << 16
"""Bytes that an answer without large files takes at most, about."""
OURS = re.compile(
    r"(result|probe|encoder|knn|fewshot)\.json|probe\.safetensors|predictions\.npz|report\.html"
    r"|fewshot\.svg|\..*\.[0-9a-f]{12}"
)
"""Names of the files that are written into the folder of a result."""


@dataclass(frozen=True)
class Answer(Generic[R]):
    """A result and where it lies."""

    result: R
    """What the question is answered with."""
    folder: Path
    """Where it is stored."""
    fresh: bool
    """False where it was read from disk."""
    damage: str = ""
    """What was wrong with the stored answer that this one replaced; "" where there was none."""


@dataclass(frozen=True)
class Answers(Generic[R]):
    """The results of one kind in a folder."""

    out: Path
    """Folder of the results' folders."""
    kind: type[R]
    """The result's type."""
    file: str = RESULT_FILE
    """What each is written into."""

    def folder(self, question: Asked, *names: str) -> Path:
        """Where an answer lies: readable names, each cut, and 12 digits of the question's digest.

        File systems take 255 bytes.
        """
        short = (name.lower().encode(errors="replace")[:MAX_NAME] for name in names)
        readable = "--".join(name.decode(errors="ignore") for name in short)
        safe = "".join(c if c.isalnum() or c in "-._" else "-" for c in readable)
        return self.out / f"{safe}--{digest_of(question)[:12]}"

    def get(
        self, question: Asked, *names: str, n_bytes: int = _SMALL, watch: Watch = ignore
    ) -> Answer[R] | None:
        """The stored answer; None where there is none, once it is sure that one can be written.

        What is stored and damaged is told to ``watch`` and counts as none: :meth:`put` replaces it.
        What killed runs left behind is removed. ``ResultError``: the folder cannot be made or
        written, the disk has no room for ``n_bytes``, or something else is in the answer's place.
        """
        folder = self.folder(question, *names)
        with suppress(OSError):  # what cannot be looked at is told by what follows
            self._remove_abandoned()
        stored = self._find(folder, question)
        if isinstance(stored, Result):
            return Answer(stored, folder, fresh=False)
        if stored is not None:
            watch(Progress(0, None, "results", line=f"making it again: {stored}"))
        with _os_errors(f"results to {self.out}"):
            make_folders(self.out)
            Staging(self.out).discard()
            check_space(self.out, n_bytes)
        return None

    def read(self, folder: Path) -> R | None:
        """The result in a folder, all its files verified; None where the folder has none.

        ``ResultError``: it is damaged or not of this version; ``StoreError``: it cannot be read.
        """
        path = folder / self.file
        try:
            path.lstat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise unreadable(path, error) from error
        signed = read_signed(self.kind, path)
        for name in signed.files:
            signed.content(name)
        return signed.record

    def put(self, result: R, *names: str, files: Mapping[str, bytes] | None = None) -> Answer[R]:
        """Commit an answer and the files beside it, or nothing; of sound ones the first stays.

        A damaged one is replaced. ``ResultError``: the disk refuses, or something else stands in
        the answer's place.
        """
        folder, files = self.folder(result.question, *names), files or {}
        replaced = ""
        with _os_errors(str(folder)):
            make_folders(self.out)
            with Staging(self.out) as staging:
                for name, data in {**files, self.file: sign(result, files)}.items():
                    (staging.path / name).write_bytes(data)
                while not staging.publish(folder):
                    stored = self._find(folder, result.question)
                    if isinstance(stored, Result):
                        break
                    if stored is not None:  # None where another run has just removed it
                        replaced = stored.message
                        _remove(folder)
        return Answer(result, folder, fresh=True, damage=replaced)

    def _find(self, folder: Path, question: Asked) -> R | ResultError | None:
        """The sound answer of a folder, what is wrong with it, or None where there is no folder.

        ``ResultError``: what is wrong is not ours to replace.
        """
        damage = ResultError(f"{folder} is there and holds no {self.file}", hint=REMAKE)
        try:
            result = self.read(folder)
        except ResultError as error:
            result, damage = None, error
        if result is not None:
            if digest_of(result.question) == digest_of(question):
                return result
            damage = ResultError(f"{folder / self.file} answers another question", hint=REMAKE)
        if not os.path.lexists(folder):
            return None
        try:
            _check_ours(folder, damage)
        except FileNotFoundError:  # removed between the two looks
            return None
        return damage

    def _remove_abandoned(self) -> None:
        """Remove what killed runs left; symbolic links are not followed."""
        stagings = self.out.glob(f"{STAGING_PREFIX}*-*-{'[0-9a-f]' * 12}")
        for path in (*stagings, *self.out.glob(f"*/{TEMPORARY_FILE}")):
            if path.is_symlink() or (path.parent != self.out and path.parent.is_symlink()):
                continue
            # Younger ones are another run's: on this host, and on a shared disk.
            if is_abandoned(path, min_age_s=10.0, foreign_age_s=86_400.0):
                with suppress(OSError):  # a disk that cannot be written may still be read
                    path.unlink() if path.is_file() else shutil.rmtree(path)


def read_result(folder: Path) -> ProbeResult | None:
    """The result of a probe in a folder, or None where there is none; see :class:`Answers`."""
    return Answers(folder.parent, ProbeResult).read(folder)


def _remove(folder: Path) -> None:
    """Remove a damaged answer, unless another run has just done so."""
    try:
        remove_unit(folder)
    except StoreError as error:
        if not isinstance(error.__cause__, FileNotFoundError):
            raise


def _check_ours(folder: Path, damage: ResultError) -> None:
    """Refuse to replace what is no folder of a result, or holds files of somebody else.

    ``FileNotFoundError``: nothing is there any more.
    """
    is_folder = stat.S_ISDIR(folder.lstat().st_mode)
    names = sorted(path.name for path in folder.iterdir()) if is_folder else []
    others = [name for name in names if not OURS.fullmatch(name)]
    if others or not is_folder:
        why = f"it also holds {first_few(others)}" if others else "it is no folder, or a link"
        raise ResultError(
            f"{damage.message}; it cannot be replaced: {why}", hint=f"move {folder} away"
        ) from damage


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
