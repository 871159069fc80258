"""A server on this machine that fails as servers on the net do, and counts what it is asked for."""

import hashlib
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

Fault = Literal[
    "403", "404", "429", "500", "503", "stall", "mute", "cut", "reset", "longer", "shorter",
    "chunked", "chunked cut",
]  # fmt: skip
"""Statuses; silence amid a body or from the start; a body that ends early, by a reset too; one that
is declared longer or shorter than what is sent; one without a length, whole or cut."""
_PIECE = 1 << 14
_STEP_S = 0.005


class Server(ThreadingHTTPServer):
    """Serves ``files`` by path, such as ``/train/0.tar``; what is asked for counts.

    With ``bucket``, it answers the listings of S3 for paths below ``/<bucket>/``.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, files: Mapping[str, bytes], bucket: str = "") -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files = dict(files)
        self.bucket = bucket
        self.faults: dict[str, list[Fault]] = {}
        """By path, for its next requests; ``Forever`` never runs out."""
        self.retry_after = ""
        """The header that goes with 429 and 503."""
        self.bytes_per_s = 0.0
        """Of each connection; 0 for as fast as it goes."""
        self.delay_s = 0.0
        """Before each answer: a way there and back."""
        self.sends_versions = True
        """Whether there are ETags."""
        self.versions: dict[str, str] = {}
        """By path, where it is not that of the content."""
        self.n_connections = 0
        self.asked: list[tuple[str, str]] = []
        """Method and path of every request."""
        self.closing = threading.Event()
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def count(self, path: str = "") -> int:
        """Requests for bodies so far, of one path or of all."""
        return sum(method == "GET" and path in ("", asked) for method, asked in self.asked)

    def counts(self) -> Counter[str]:
        return Counter(method for method, _ in self.asked)

    def version(self, path: str) -> str:
        return self.versions.get(path) or hashlib.md5(self.files[path]).hexdigest()

    def next_fault(self, method: str, path: str) -> Fault | None:
        with self._lock:
            self.asked.append((method, path))
            faults = self.faults.get(path, [])
            # Only an answer with a body can break off.
            is_due = faults and (method == "GET" or faults[0].isdigit() or faults[0] == "mute")
            return faults.pop(0) if is_due else None

    def handle_error(self, *_: object) -> None:
        """Clients that hang up are no news."""


class Forever(list[Fault]):
    """One fault without end."""

    def pop(self, _index: object = -1) -> Fault:
        return self[0]


@contextmanager
def serving(files: Mapping[str, bytes], *, bucket: str = "") -> Iterator[Server]:
    """Run a server on a port of its own while the context lasts."""
    with Server(files, bucket) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.closing.set()
            server.shutdown()
            thread.join()


def files_of(folder: Path, root: str = "") -> dict[str, bytes]:
    """What a folder holds, by the path of a server."""
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {f"{root}/{path.relative_to(folder).as_posix()}": path.read_bytes() for path in paths}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server
    timeout = 20

    def setup(self) -> None:
        super().setup()
        self.server.n_connections += 1

    def log_message(self, *_: object) -> None: ...

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def _answer(self) -> None:
        server, asked = self.server, urlsplit(self.path)
        path = unquote(asked.path)
        fault = server.next_fault(self.command, path)
        self._wait(server.delay_s)
        if fault == "mute":
            self._hang()
        elif fault is not None and fault.isdigit():
            self._send(int(fault), b"<Error><Code>SlowDown</Code></Error>" * (fault == "503"))
        elif "list-type" in parse_qs(asked.query):
            self._send(200, _listing(server, parse_qs(asked.query)))
        elif path not in server.files:
            self._send(404, b"<Error><Code>NoSuchKey</Code></Error>" * bool(server.bucket))
        else:
            self._send_file(path, fault)

    def _send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        if status in (429, 503) and self.server.retry_after:
            self.send_header("Retry-After", self.server.retry_after)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _send_file(self, path: str, fault: Fault | None) -> None:
        whole = body = self.server.files[path]
        first, last = _range(self.headers.get("Range", ""), len(body))
        is_part = (first, last) != (0, len(body))
        body = body[first:last]
        self.send_response(206 if is_part else 200)
        if is_part:
            self.send_header("Content-Range", f"bytes {first}-{last - 1}/{len(whole)}")
        if self.server.sends_versions:
            self.send_header("ETag", f'"{self.server.version(path)}"')
            self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
        sizes = {"longer": len(body) + 1000, "shorter": len(body) // 2}
        is_chunked = fault in ("chunked", "chunked cut") and self.command == "GET"
        if is_chunked:
            self.send_header("Transfer-Encoding", "chunked")
        elif self.command == "HEAD":
            self.send_header("Content-Length", str(len(body)))
        else:
            self.send_header("Content-Length", str(sizes.get(fault or "", len(body))))
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault in ("stall", "cut", "reset", "chunked cut"):
            body = body[: len(body) // 2]
        for start in range(0, len(body), _PIECE):
            piece = body[start : start + _PIECE]
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece) if is_chunked else piece)
            if self.server.bytes_per_s:
                self._wait(len(piece) / self.server.bytes_per_s)
        if fault == "chunked":
            self.wfile.write(b"0\r\n\r\n")
        elif fault == "stall":
            self._hang()
        elif fault == "reset":
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.wfile.flush()
        if fault in ("cut", "reset", "longer", "shorter", "chunked cut"):
            self.close_connection = True
            if fault == "reset":
                self.connection.close()

    def _hang(self) -> None:
        self.close_connection = True
        self.server.closing.wait(10)

    def _wait(self, seconds: float) -> None:
        if seconds:
            time.sleep(seconds)


def _range(header: str, size: int) -> tuple[int, int]:
    if not header.startswith("bytes="):
        return 0, size
    first, _, last = header.removeprefix("bytes=").partition("-")
    return int(first or 0), min(int(last) + 1 if last else size, size)


def _listing(server: Server, query: Mapping[str, list[str]]) -> bytes:
    """An answer to ListObjectsV2, a page of 1,000 keys at most.

    Source: the Amazon S3 API reference, "ListObjectsV2".
    """
    prefix, delimiter = query.get("prefix", [""])[0], query.get("delimiter", [""])[0]
    after = query.get("continuation-token", query.get("start-after", [""]))[0]
    root = f"/{server.bucket}/"
    keys = (path.removeprefix(root) for path in server.files if path.startswith(root))
    contents, folders = [], set()
    for key in sorted(key for key in keys if key.startswith(prefix) and key > after):
        rest = key[len(prefix) :]
        if delimiter and delimiter in rest:
            folders.add(prefix + rest.partition(delimiter)[0] + delimiter)
        else:
            contents.append(key)
    page = contents[: min(1000, int(query.get("max-keys", ["1000"])[0]))]
    entries = "".join(
        f"<Contents><Key>{escape(key)}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
        f"<ETag>&quot;{server.version(root + key)}&quot;</ETag>"
        f"<Size>{len(server.files[root + key])}</Size></Contents>"
        for key in page
    ) + "".join(
        f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>"
        for name in sorted(folders)
    )
    is_cut = len(page) < len(contents)
    token = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if is_cut else ""
    return (
        '<?xml version="1.0" encoding="UTF-8"?>'
        '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        f"<Name>{server.bucket}</Name><Prefix>{escape(prefix)}</Prefix>"
        f"<KeyCount>{len(page) + len(folders)}</KeyCount><MaxKeys>1000</MaxKeys>"
        f"<IsTruncated>{str(is_cut).lower()}</IsTruncated>{token}{entries}</ListBucketResult>"
    ).encode()
