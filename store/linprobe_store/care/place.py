"""A tree of files, in a local folder or behind a URL: the adapter of fsspec."""

from pathlib import Path
from typing import BinaryIO, cast

from linprobe.errors import NotFoundError, StoreError


class Place:
    """A folder of this machine, or one behind an fsspec URL such as ``s3://bucket/features``.

    Files and folders in it are named relative to it, with ``/``.

    Raises
    ------
    StoreError : no driver is installed for this kind of URL.
    """

    def __init__(self, location: str) -> None:
        # Imported here: listing and reading a store need it not.
        import fsspec

        self.local = None if "://" in location else Path(location)
        """Path of a folder of this machine; None for a URL."""
        self.label = location.rstrip("/")
        """How the place is called in messages."""
        if self.local is not None:
            self._files, self._root = fsspec.filesystem("file"), str(self.local.absolute())
            return
        try:
            self._files, self._root = fsspec.core.url_to_fs(location)
        except (ImportError, ValueError) as error:
            raise StoreError(
                f"{location}: {error}", hint="install the fsspec driver of this kind of URL"
            ) from error

    def folders(self, name: str) -> tuple[str, ...]:
        """Names of the folders in a folder, sorted; none where it is not there."""
        path = self._path(name)
        if not self._files.isdir(path):
            return ()
        paths = [
            str(entry["name"]).rstrip("/")
            for entry in self._files.ls(path, detail=True, refresh=True)
            if entry["type"] == "directory"
            or (entry.get("islink") and self._files.isdir(entry["name"]))
        ]
        return tuple(sorted(path.rsplit("/", 1)[-1] for path in paths))

    def size(self, name: str) -> int | None:
        """Bytes of a file, or None where there is none."""
        path = self._path(name)
        return int(self._files.size(path)) if self._files.isfile(path) else None

    def open_read(self, name: str) -> BinaryIO:
        """Open a file for reading."""
        return cast("BinaryIO", self._files.open(self._path(name), "rb"))

    def open_write(self, name: str) -> BinaryIO:
        """Open a file for writing; its folder is made if need be."""
        path = self._path(name)
        self._files.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
        return cast("BinaryIO", self._files.open(path, "wb"))

    def read(self, name: str) -> bytes:
        """Content of a small file.

        Raises
        ------
        NotFoundError : there is no such file.
        """
        if self.size(name) is None:
            raise NotFoundError(
                f"{self.label}/{name}: missing", hint="check that this is a whole feature store"
            )
        with self.open_read(name) as stream:
            return stream.read()

    def write(self, name: str, data: bytes) -> None:
        """Write a small file."""
        with self.open_write(name) as stream:
            stream.write(data)

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}".rstrip("/")
