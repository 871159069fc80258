"""The Hugging Face hub, when there is no network.

Without one, huggingface_hub retries every file for half a minute before it looks into its own
cache. Compute nodes without internet and with a warm cache are common, so we look first.
"""

import socket
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from huggingface_hub import constants

_TIMEOUT_S = 5.0
"""Long for a handshake, short for a person who waits."""


@contextmanager
def cache_alone_if_unreachable() -> Iterator[None]:
    """Inside, the hub is read from the local cache alone if its host does not answer."""
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not _reachable()
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _reachable() -> bool:
    """Whether the hub can be connected to; taken for granted behind a proxy."""
    if urllib.request.getproxies():
        return True
    endpoint = urlsplit(constants.ENDPOINT)
    port = endpoint.port or (443 if endpoint.scheme == "https" else 80)
    try:
        socket.create_connection((endpoint.hostname or "", port), timeout=_TIMEOUT_S).close()
    except OSError:
        return False
    return True
