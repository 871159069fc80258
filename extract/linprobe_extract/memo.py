"""Which encoder a request meant last time, so that a finished command need not load it again.

Loading a tower to learn its id takes seconds. The memo beside the store remembers the id under
everything that a request and the installed libraries say; it is local to a host and may be
deleted at any time.
"""

import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from linprobe_store.canonical import JsonValue, digest_json
from linprobe_store.spec import KEY_VERSION

LIBRARIES = ("torch", "torchvision", "open_clip_torch", "timm", "pillow", "simplejpeg")
"""Distributions that pixels, weights or the forward pass depend on."""


@dataclass(frozen=True)
class EncoderRequest:
    """What a person asks for when naming an encoder."""

    model: str
    """As given on the command line."""
    weights: str | None
    """Path of a local checkpoint, or None."""
    device: str
    """``auto``, ``cuda`` or ``cpu``."""
    precision: str
    """``auto``, ``fp32`` or ``bf16``."""
    preprocess: str
    """``fast`` or ``exact``."""
    storage_dtype: str
    """``float16`` or ``float32``."""


class RequestMemo:
    """Encoder ids by request.

    Parameters
    ----------
    path : a JSON-lines file, made when first needed.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def encoder_id(self, request: EncoderRequest) -> str | None:
        """Give the id that this request led to, or None when it is not remembered."""
        wanted, found = _key(request), None
        with suppress(OSError, UnicodeDecodeError):
            for line in self._path.read_text().splitlines():
                # A line cut by a crash is no loss: the encoder is loaded again.
                with suppress(ValueError, KeyError, TypeError):
                    entry = json.loads(line)
                    found = str(entry["encoder_id"]) if entry["request"] == wanted else found
        return found

    def remember(self, request: EncoderRequest, encoder_id: str) -> None:
        """Note what a request led to."""
        if self.encoder_id(request) == encoder_id:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a") as lines:
            lines.write(json.dumps({"request": _key(request), "encoder_id": encoder_id}) + "\n")


def _state(name: str | None) -> list[JsonValue]:
    """Describe the file of this name so that other content is described otherwise."""
    path = Path(name or "").resolve()
    if name is None or not path.is_file():
        return []
    status = path.stat()
    return [str(path), status.st_size, status.st_mtime_ns]


def _key(request: EncoderRequest) -> str:
    """Digest the request, the state of its checkpoint, the libraries and our own version."""
    versions: dict[str, str] = {}
    for library in LIBRARIES:
        with suppress(PackageNotFoundError):
            versions[library] = version(library)
    return digest_json(
        {
            "request": asdict(request),
            "files": [_state(request.model), _state(request.weights)],
            "versions": versions,
            "key_version": KEY_VERSION,
        }
    )
