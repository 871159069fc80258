"""Whether the Hugging Face hub answers: asked once, before its library asks for half a minute."""

import socket
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from huggingface_hub import constants


@contextmanager
def cache_alone_if_unreachable() -> Iterator[None]:
    """Inside, the hub is read from the local cache alone if its host does not answer.

    Without a network, huggingface_hub retries for half a minute before it looks into its cache.
    """
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
    try:  # a timeout that is long for a handshake, short for a person
        socket.create_connection((endpoint.hostname or "", port), timeout=5.0).close()
    except OSError:
        return False
    return True
