"""Ctrl-C and SIGTERM: finish the shard at hand, then stop; a second signal stops at once."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

from linprobe_store.terminal import note

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass
class Stop:
    """Whether, and by which signal, a run was asked to stop."""

    event: threading.Event = field(default_factory=threading.Event)
    """Set by the first signal."""
    exit_code: int = 0
    """0, or 128 + the signal's number, as shells have it."""


@contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """Turn the first SIGINT or SIGTERM into a wish to stop while the block runs.

    The handlers that were there before take the second signal, and come back at the end.
    """
    stop = Stop()

    def handle(number: int, frame: FrameType | None) -> None:
        stop.exit_code = 128 + number
        stop.event.set()
        for key, previous in before.items():
            signal.signal(key, previous)
        note("stopping after the shards at hand; once more stops at once")

    before = {number: signal.signal(number, handle) for number in _SIGNALS}
    try:
        yield stop
    finally:
        for key, previous in before.items():
            signal.signal(key, previous)
