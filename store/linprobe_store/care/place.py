"""Where a copy reads from and writes to: a local folder, or any fsspec URL.

The adapter of fsspec: a tree of files behind a URL.
"""

import importlib.util
from pathlib import Path
from typing import BinaryIO, Protocol, cast

from linprobe.errors import NotFoundError, StoreError


class RemotePlace:
    """A folder behind an fsspec URL, such as ``s3://bucket/features``."""

    def __init__(self, url: str) -> None:
        # Imported here: only URLs need it.
        import fsspec

        try:
            self._fs, self._root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise StoreError(
                f"{url}: {error}", hint="install the fsspec driver of this kind of URL"
            ) from error
        self._url = url.rstrip("/")

    @property
    def label(self) -> str:
        """How the place is called in messages."""
        return self._url

    def folders(self, name: str) -> tuple[str, ...]:
        """Names of the folders in a folder, sorted; none where it is not there."""
        path = self._path(name)
        if not self._fs.isdir(path):
            return ()
        entries = self._fs.ls(path, detail=True, refresh=True)
        paths = [entry["name"].rstrip("/") for entry in entries if entry["type"] == "directory"]
        return tuple(sorted(path.rsplit("/", 1)[-1] for path in paths))

    def size(self, name: str) -> int | None:
        """Bytes of a file, or None where there is none."""
        path = self._path(name)
        return int(self._fs.size(path)) if self._fs.isfile(path) else None

    def open_read(self, name: str) -> BinaryIO:
        """Open a file for reading."""
        return cast("BinaryIO", self._fs.open(self._path(name), "rb"))

    def open_write(self, name: str) -> BinaryIO:
        """Open a file for writing; its folder is made if need be."""
        path = self._path(name)
        self._fs.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
        return cast("BinaryIO", self._fs.open(path, "wb"))

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}".rstrip("/")


class Place(Protocol):
    """A tree of files; names are relative, with ``/``."""

    @property
    def label(self) -> str:
        """How the place is called in messages."""
        ...

    def folders(self, name: str) -> tuple[str, ...]:
        """Names of the folders in a folder, sorted; none where it is not there."""
        ...

    def size(self, name: str) -> int | None:
        """Bytes of a file, or None where there is none."""
        ...

    def open_read(self, name: str) -> BinaryIO:
        """Open a file for reading."""
        ...

    def open_write(self, name: str) -> BinaryIO:
        """Open a file for writing; its folder is made if need be."""
        ...


class LocalPlace:
    """A folder on this machine."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def label(self) -> str:
        """How the place is called in messages."""
        return str(self.root)

    def folders(self, name: str) -> tuple[str, ...]:
        """Names of the folders in a folder, sorted; none where it is not there."""
        folder = self.root / name
        if not folder.is_dir():
            return ()
        return tuple(sorted(path.name for path in folder.iterdir() if path.is_dir()))

    def size(self, name: str) -> int | None:
        """Bytes of a file, or None where there is none."""
        path = self.root / name
        return path.stat().st_size if path.is_file() else None

    def open_read(self, name: str) -> BinaryIO:
        """Open a file for reading."""
        return (self.root / name).open("rb")

    def open_write(self, name: str) -> BinaryIO:
        """Open a file for writing; its folder is made if need be."""
        (self.root / name).parent.mkdir(parents=True, exist_ok=True)
        return (self.root / name).open("wb")


def is_remote(location: str) -> bool:
    """Whether a location is a URL."""
    return "://" in location


def open_place(location: str) -> Place:
    """Open a local folder or an fsspec URL.

    Raises
    ------
    StoreError : a URL, and fsspec or the driver for it is not installed.
    """
    if not is_remote(location):
        return LocalPlace(Path(location))
    if importlib.util.find_spec("fsspec") is None:
        raise StoreError(
            f"{location}: URLs need fsspec, which is not installed",
            hint="pip install 'linprobe[remote]' and the driver of your store, such as s3fs",
        )

    return RemotePlace(location)


def read_small(place: Place, name: str) -> bytes:
    """Content of a small file.

    Raises
    ------
    NotFoundError : there is no such file.
    """
    if place.size(name) is None:
        raise NotFoundError(
            f"{place.label}/{name}: missing", hint="check that this is a whole feature store"
        )
    with place.open_read(name) as stream:
        return stream.read()
