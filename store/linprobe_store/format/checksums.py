"""Checksums of files: crc32c (11 GB/s a core) of all, sha256 (1.3 to 1.8) too of what is copied.

They are taken of the bytes as we write them: a later check compares the disk with the intention.
"""

import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, BinaryIO

import google_crc32c
import msgspec
import numpy as np
from numpy.typing import NDArray

from linprobe.errors import REPAIR, IntegrityError, unreadable
from linprobe.records import NonNegative, open_regular


@dataclass(frozen=True)
class FileDigest:
    """What a file must be."""

    bytes: NonNegative
    """Size in bytes."""
    crc32c: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{8}$")]
    """CRC-32C (Castagnoli) of the content, as 8 hex digits."""
    sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")] | None
    """Sha256 of the content, as 64 hex digits; None for the files of a part."""


class FileHasher:
    """Digest of a stream of bytes; ``strong`` adds the sha256."""

    def __init__(self, *, strong: bool) -> None:
        self._size = 0
        self._crc = 0
        self._sha256 = hashlib.sha256() if strong else None

    def update(self, data: bytes | NDArray[np.generic]) -> None:
        """Take in bytes or a C-contiguous array; google-crc32c refuses their memoryviews."""
        view = memoryview(data) if isinstance(data, bytes) else data.data
        self._size += view.nbytes
        self._crc = google_crc32c.extend(self._crc, data)
        if self._sha256 is not None:
            self._sha256.update(view)

    def digest(self) -> FileDigest:
        """Digest of everything taken in so far."""
        sha256 = self._sha256.hexdigest() if self._sha256 else None
        return FileDigest(self._size, f"{self._crc:08x}", sha256)


def digest_bytes(data: bytes, *, strong: bool) -> FileDigest:
    """Digest of the content of a small file."""
    hasher = FileHasher(strong=strong)
    hasher.update(data)
    return hasher.digest()


def digest_stream(stream: BinaryIO, *, strong: bool) -> FileDigest:
    """Digest of a binary stream from where it stands to its end, in 4 MiB of memory."""
    hasher = FileHasher(strong=strong)
    buffer = np.empty(4 << 20, np.uint8)
    while n_read := stream.readinto(buffer.data):  # type: ignore[attr-defined]  # typeshed gap
        hasher.update(buffer[:n_read])
    return hasher.digest()


def check_size(path: Path, n_bytes: int) -> None:
    """Refuse, by an IntegrityError, a file that is missing, not regular, or of another size."""
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise IntegrityError(f"{path}: missing, expected {n_bytes} bytes", hint=REPAIR) from None
    except OSError as error:
        raise unreadable(path, error) from error
    if not stat.S_ISREG(status.st_mode):
        raise IntegrityError(f"{path}: expected a regular file, found none", hint=REPAIR)
    _check_bytes(path, n_bytes, status.st_size)


def check_opened(path: Path, stream: BinaryIO, n_bytes: int) -> os.stat_result:
    """Refuse, by an IntegrityError, an open file of another size: a short map would kill us."""
    status = os.fstat(stream.fileno())
    _check_bytes(path, n_bytes, status.st_size)
    return status


def _check_bytes(path: Path, expected: int, size: int) -> None:
    if size != expected:
        raise IntegrityError(f"{path}: expected {expected} bytes, found {size}", hint=REPAIR)


def check_content(path: Path, expected: FileDigest, *, strong: bool = False) -> None:
    """Refuse, by an IntegrityError, a file of other content; its sha256 counts where ``strong``."""
    with open_regular(path) as stream:
        check_opened(path, stream, expected.bytes)
        try:
            actual = digest_stream(stream, strong=strong and expected.sha256 is not None)
        except OSError as error:
            raise unreadable(path, error) from error
    compare_digests(path, expected, actual)


def compare_digests(path: Path | str, expected: FileDigest, actual: FileDigest) -> None:
    """Refuse, by an IntegrityError, a file of another digest; the sha256 counts if it was taken."""
    for name, wanted, value in (
        ("size", expected.bytes, actual.bytes),
        ("crc32c", expected.crc32c, actual.crc32c),
        ("sha256", expected.sha256, actual.sha256 or expected.sha256),
    ):
        if value != wanted:
            raise IntegrityError(f"{path}: expected {name} {wanted}, found {value}", hint=REPAIR)
