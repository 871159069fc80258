"""Sample keys as they are stored: UTF-8, back to back, and where each one begins."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import overload

import numpy as np
from numpy.typing import NDArray

_AT_ONCE = 4096
"""Keys decoded at once, of all that are gone through."""


class Keys(Sequence[str]):
    """Sample keys, n strings, decoded when asked for.

    Parameters
    ----------
    edges : (n + 1,) where each key begins and the last one ends in ``data``, rising.
    data : (b,) their UTF-8.
    pieces : the same of each key, where that is at hand.
    """

    def __init__(
        self,
        edges: NDArray[np.int64],
        data: NDArray[np.uint8],
        pieces: Sequence[bytes] | None = None,
    ) -> None:
        self._edges = edges
        self._data = data
        self._pieces = pieces

    @staticmethod
    def encoded(texts: Sequence[str]) -> "Keys":
        """The keys of some texts; keys are given as they are. Raises UnicodeEncodeError."""
        return texts if isinstance(texts, Keys) else _joined([text.encode() for text in texts])

    def __len__(self) -> int:
        return len(self._edges) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[str, ...]: ...
    def __getitem__(self, index: int | slice) -> str | tuple[str, ...]:
        if isinstance(index, slice):
            return tuple(self[i] for i in range(len(self))[index])
        i = range(len(self))[index]
        return self._data[self._edges[i] : self._edges[i + 1]].tobytes().decode()

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), _AT_ONCE):
            yield from self.between(start, start + _AT_ONCE)

    def between(self, start: int, stop: int) -> tuple[str, ...]:
        """Keys of the rows from ``start`` to ``stop``, faster than one by one."""
        return tuple(piece.decode() for piece in self.rows(start, stop).pieces())

    def rows(self, start: int, stop: int) -> "Keys":
        """Keys of the rows from ``start`` to ``stop``, not copied."""
        return Keys(self._edges[start : stop + 1] if start < len(self) else _NO_EDGES, self._data)

    def blocks(self) -> Iterator["Keys"]:
        """All of them in order, some at once."""
        return (self.rows(i, i + _AT_ONCE) for i in range(0, len(self), _AT_ONCE))

    def prefixed(self, prefix: str) -> "Keys":
        """The same after a prefix; a copy, unless that is empty."""
        if not prefix or not len(self):
            return self
        return _joined(self.pieces(prefix.encode()))

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Bytes of each, (n,)."""
        return np.diff(self._edges)

    @property
    def data(self) -> NDArray[np.uint8]:
        """Their UTF-8 back to back, (b,)."""
        return self._data[self._edges[0] : self._edges[-1]]

    def pieces(self, prefix: bytes = b"") -> Sequence[bytes]:
        """The UTF-8 of each, after a prefix."""
        if self._pieces is not None and not prefix:
            return self._pieces
        text, edges = self.data.tobytes(), (self._edges - self._edges[0]).tolist()
        if prefix:
            return [prefix + text[start:stop] for start, stop in pairwise(edges)]
        return [text[start:stop] for start, stop in pairwise(edges)]

    def hashes(self) -> NDArray[np.int64]:
        """A hash of each, (n,), good in this process: by it those that come twice are found."""
        return np.fromiter(map(hash, self.pieces()), np.int64, len(self))


_NO_EDGES = np.zeros(1, np.int64)


def _joined(pieces: Sequence[bytes]) -> Keys:
    lengths = np.fromiter(map(len, pieces), np.int64, len(pieces))
    edges = np.concatenate([_NO_EDGES, np.cumsum(lengths)])
    return Keys(edges, np.frombuffer(b"".join(pieces), np.uint8), pieces)
