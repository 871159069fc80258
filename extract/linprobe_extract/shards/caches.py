"""Fingerprints of shards, remembered, and the bytes that they were taken from.

A shard is known by its sha256, which takes a read of the whole file. The cache beside the store
remembers it under (path, size, modification time) or (URL, size, ETag), so that a second run
costs no read. It is local to a host, holds nothing that cannot be computed again, and may be
deleted at any time.

Which encoder a request meant last time, so that a finished command need not load it again.

Loading a tower to learn its id takes seconds. The memo beside the store remembers the id under
everything that a request and the installed libraries say; it is local to a host and may be
deleted at any time.
"""

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import fsspec

from linprobe.records import JsonValue, digest_json
from linprobe_extract.encoders.family import LIBRARIES, EncoderChoice
from linprobe_extract.shards.layouts import Shard
from linprobe_extract.shards.tar import fingerprint_shard, open_shard, unreadable
from linprobe_store.format.spec import KEY_VERSION, ShardFingerprint


class FingerprintCache:
    """Shard fingerprints: from the dataset's card, from the cache, or by reading.

    Parameters
    ----------
    path : a JSON-lines file, made when first needed.
    read_only : remember in memory alone.
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self._path = path
        self._read_only = read_only
        self._known: dict[str, ShardFingerprint] = {}
        self.reload()

    def reload(self) -> None:
        """Learn what other processes have written meanwhile."""
        with suppress(OSError, UnicodeDecodeError):
            for line in self._path.read_text().splitlines():
                # A line cut by a crash is no loss: its shard is read again.
                with suppress(ValueError, TypeError, KeyError):
                    entry = json.loads(line)
                    self._known[entry["seen"]] = ShardFingerprint(**entry["fingerprint"])

    def known(self, shard: Shard) -> ShardFingerprint | None:
        """Give the fingerprint of a shard if that needs no read of its bytes."""
        return shard.fingerprint or self._known.get(_state(shard.url) or shard.url)

    def fingerprint(self, shard: Shard) -> ShardFingerprint:
        """Give the fingerprint of a shard, reading it only when nothing else knows it.

        Raises
        ------
        ShardError : it has to be read and cannot be.
        """
        known = self.known(shard)
        if known is not None:
            return known
        return self._remember(shard, fingerprint_shard(shard))

    @contextmanager
    def fetched(self, shard: Shard) -> Iterator[tuple[Shard, ShardFingerprint]]:
        """Give a shard to read and its fingerprint; what is not a file is copied to one first.

        A stream can be read but once, and its fingerprint is needed before its samples.

        Raises
        ------
        ShardError : it cannot be read.
        """
        if not shard.is_stream:
            yield shard, self.fingerprint(shard)
            return
        with tempfile.TemporaryDirectory(prefix="linprobe-") as folder:
            copy = Shard(str(Path(folder) / "shard.tar"), None, shard.n_samples)
            _download(shard, Path(copy.url))
            found = fingerprint_shard(copy)
            named = ShardFingerprint(shard.name, found.bytes, found.sha256)
            yield copy, self._remember(shard, named)

    def _remember(self, shard: Shard, fingerprint: ShardFingerprint) -> ShardFingerprint:
        seen = _state(shard.url)
        self._known[seen or shard.url] = fingerprint
        if seen is not None and not self._read_only:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a") as lines:
                lines.write(json.dumps({"seen": seen, "fingerprint": asdict(fingerprint)}) + "\n")
        return fingerprint


def _download(shard: Shard, target: Path) -> None:
    try:
        with open_shard(shard) as stream, target.open("wb") as copy:
            shutil.copyfileobj(stream, copy, 1 << 20)
    except Exception as error:  # each of fsspec's drivers has errors of its own
        raise unreadable(shard.url, error) from error


def _state(url: str) -> str | None:
    """Describe a file so that other content is described otherwise; None if it cannot be."""
    if url.startswith("pipe:"):
        return None
    if "://" not in url:
        path = Path(url).resolve()
        if not path.is_file():
            return None
        status = path.stat()
        return f"{path}|{status.st_size}|{status.st_mtime_ns}"
    try:
        filesystem, name = fsspec.core.url_to_fs(url)
        info = filesystem.info(name)
    except Exception:
        return None
    version = info.get("ETag") or info.get("etag") or info.get("mtime") or info.get("LastModified")
    return f"{url}|{info.get('size')}|{version}" if version and info.get("size") else None


class RequestMemo:
    """Encoder ids by request.

    Parameters
    ----------
    path : a JSON-lines file, made when first needed.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def encoder_id(self, choice: EncoderChoice) -> str | None:
        """Give the id that this request led to, or None when it is not remembered."""
        wanted, found = _key(choice), None
        with suppress(OSError, UnicodeDecodeError):
            for line in self._path.read_text().splitlines():
                # A line cut by a crash is no loss: the encoder is loaded again.
                with suppress(ValueError, KeyError, TypeError):
                    entry = json.loads(line)
                    found = str(entry["encoder_id"]) if entry["request"] == wanted else found
        return found

    def remember(self, choice: EncoderChoice, encoder_id: str) -> None:
        """Note what a request led to."""
        if self.encoder_id(choice) == encoder_id:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a") as lines:
            lines.write(json.dumps({"request": _key(choice), "encoder_id": encoder_id}) + "\n")


def _file_state(name: str | None) -> list[JsonValue]:
    """Describe the file of this name so that other content is described otherwise."""
    path = Path(name or "").resolve()
    if name is None or not path.is_file():
        return []
    status = path.stat()
    return [str(path), status.st_size, status.st_mtime_ns]


def _key(choice: EncoderChoice) -> str:
    """Digest the request, the state of its checkpoint, the libraries and our own version."""
    weights = None if choice.weights is None else str(choice.weights)
    versions: dict[str, str] = {}
    for library in LIBRARIES:
        with suppress(PackageNotFoundError):
            versions[library] = version(library)
    return digest_json(
        {
            "request": asdict(choice) | {"weights": weights},
            "files": [_file_state(choice.model), _file_state(weights)],
            "versions": versions,
            "key_version": KEY_VERSION,
        }
    )
