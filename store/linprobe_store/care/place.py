"""A tree of files, in a local folder or behind a URL: the adapter of fsspec."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from posixpath import basename, dirname
from typing import BinaryIO, cast

from linprobe.disk import atomic_file, make_folders
from linprobe.errors import IntegrityError, NotFoundError, StoreError
from linprobe.names import is_url
from linprobe.records import MAX_BYTES, open_regular

_PUTS_WHOLE = frozenset(("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oci", "oss"))
"""Kinds of URLs of object stores, which show nothing before an upload is finished."""


class Place:
    """A folder, or one behind an fsspec URL such as ``s3://bucket/features``; names are relative.

    A file shows when it is whole. In a folder of this machine, which a ``file://`` URL is too, it
    is also on the disk, and the place itself must be there. Behind other URLs it is written under
    a temporary name of its own and moved, or just put where a put is whole (s3, gs, azure, ...).
    Raises StoreError where no driver is installed for the kind of URL.
    """

    def __init__(self, location: str) -> None:
        # Imported here: listing and reading a store need it not.
        import fsspec
        from fsspec.implementations.local import LocalFileSystem

        self.label = location.rstrip("/") or location
        """How the place is called in messages."""
        try:
            self._files, root = (
                fsspec.core.url_to_fs(location)
                if is_url(location)
                else (fsspec.filesystem("file"), str(Path(location).absolute()))
            )
        except (ImportError, ValueError) as error:
            hint = "install the fsspec driver of this kind of URL"
            raise StoreError(f"{location}: {error}", hint=hint) from error
        self._root = root.rstrip("/")
        is_local = isinstance(self._files, LocalFileSystem)
        self.local = Path(root if is_url(location) else location) if is_local else None
        """Path of a folder of this machine; None for what lies elsewhere."""
        protocols = self._files.protocol
        protocols = (protocols,) if isinstance(protocols, str) else protocols
        self._puts_whole = not _PUTS_WHOLE.isdisjoint(protocols)

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
        if self.local is not None:
            return open_regular(self.local / name)
        return cast("BinaryIO", self._files.open(self._path(name), "rb"))

    @contextmanager
    def writing(self, name: str) -> Iterator[BinaryIO]:
        """Write a file, whose folders are made; it shows at the end, and not after an error."""
        if self.local is not None:
            path = self.local / name
            make_folders(path.parent, below=self.local)
            with atomic_file(path) as file:
                yield file
            return
        final = self._path(name)
        # One name a file, so that the next run writes over what a killed one left.
        unseen = final if self._puts_whole else f"{dirname(final)}/.{basename(final)}.part"
        self._files.makedirs(dirname(final), exist_ok=True)
        try:
            with self._files.open(unseen, "wb") as file:
                yield cast("BinaryIO", file)
        except BaseException:
            with suppress(OSError):  # closing finished what is cut; its marker would come last
                self._files.rm_file(unseen)
            raise
        if unseen != final:
            self._files.mv(unseen, final)

    def read(self, name: str, limit: int = MAX_BYTES) -> bytes:
        """Content of a small file.

        NotFoundError: there is none; IntegrityError: it has more bytes than ``limit``, or others
        than its size says.
        """
        n_bytes, hint = self.size(name), "check that this is a whole feature store"
        place = f"{self.label}/{name}"
        if n_bytes is None:
            raise NotFoundError(f"{place}: missing", hint=hint)
        if n_bytes > limit:
            message = f"{place}: expected at most {limit:,} bytes, found {n_bytes:,}"
            raise IntegrityError(message, hint=hint)
        with self.open_read(name) as stream:
            content = b""
            while len(content) <= n_bytes and (data := stream.read(n_bytes + 1 - len(content))):
                content += data
        if len(content) != n_bytes:
            found = "more" if len(content) > n_bytes else f"{len(content):,}"
            message = f"{place}: expected {n_bytes:,} bytes as it is listed, found {found}"
            raise IntegrityError(message, hint="copy again; if it stays, ask who keeps the source")
        return content

    def write(self, name: str, data: bytes) -> None:
        """Write a small file as :meth:`writing` does."""
        with self.writing(name) as stream:
            stream.write(data)

    def remove(self, name: str) -> None:
        """Remove a file."""
        self._files.rm_file(self._path(name))

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}".rstrip("/")
