"""A tree of files, in a local folder or behind a URL: the adapter of fsspec."""

from pathlib import Path
from posixpath import basename, dirname
from typing import BinaryIO, cast

from linprobe.errors import IntegrityError, NotFoundError, StoreError
from linprobe.names import is_url
from linprobe.records import MAX_BYTES


class Place:
    """A folder, or one behind an fsspec URL such as ``s3://bucket/features``; names are relative.

    Raises StoreError where no driver is installed for the kind of URL.
    """

    def __init__(self, location: str) -> None:
        # Imported here: listing and reading a store need it not.
        import fsspec

        self.local = None if is_url(location) else Path(location)
        """Path of a folder of this machine; None for a URL."""
        self.label = location.rstrip("/")
        """How the place is called in messages."""
        try:
            self._files, root = (
                fsspec.core.url_to_fs(location)
                if self.local is None
                else (fsspec.filesystem("file"), str(self.local.absolute()))
            )
        except (ImportError, ValueError) as error:
            hint = "install the fsspec driver of this kind of URL"
            raise StoreError(f"{location}: {error}", hint=hint) from error
        self._root = root.rstrip("/")

    def folders(self, name: str) -> tuple[str, ...]:
        """Names of the folders in a folder, sorted; none where it is not there."""
        path = self._path(name)
        if not self._files.isdir(path):
            return ()
        names = []
        for entry in self._files.ls(path, detail=True, refresh=True):
            is_linked = entry.get("islink") and self._files.isdir(entry["name"])
            if entry["type"] == "directory" or is_linked:
                names.append(basename(entry["name"].rstrip("/")))
        return tuple(sorted(names))

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
        self._files.makedirs(dirname(path), exist_ok=True)
        return cast("BinaryIO", self._files.open(path, "wb"))

    def read(self, name: str) -> bytes:
        """Content of a small file; NotFoundError: there is none; IntegrityError: it is large."""
        n_bytes, hint = self.size(name), "check that this is a whole feature store"
        if n_bytes is None:
            raise NotFoundError(f"{self.label}/{name}: missing", hint=hint)
        if n_bytes > MAX_BYTES:
            message = (
                f"{self.label}/{name}: expected at most {MAX_BYTES:,} bytes, found {n_bytes:,}"
            )
            raise IntegrityError(message, hint=hint)
        with self.open_read(name) as stream:
            return stream.read(MAX_BYTES)

    def write(self, name: str, data: bytes) -> None:
        """Write a small file."""
        with self.open_write(name) as stream:
            stream.write(data)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}".rstrip("/")
