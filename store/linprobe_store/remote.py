"""The adapter of fsspec: a tree of files behind a URL."""

from typing import BinaryIO, cast

import fsspec

from linprobe_store.errors import StoreError


class RemotePlace:
    """A folder behind an fsspec URL, such as ``s3://bucket/features``."""

    def __init__(self, url: str) -> None:
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
