"""What a person sees on the terminal while a run goes on; nothing where nobody looks."""

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from linprobe.terminal import note


class TerminalObserver:
    """An observer that draws a progress bar on stderr when that is a terminal.

    Parameters
    ----------
    title : what is being extracted.
    visible : False for all processes of a run but one.
    """

    def __init__(self, title: str, *, visible: bool) -> None:
        console = Console(stderr=True)
        self._progress = Progress(
            TextColumn(title),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not (visible and console.is_terminal),
        )
        self._task: TaskID | None = None
        self._counts_images = False
        self._n_images = 0
        self._started = time.monotonic()

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def planned(self, n_shards: int, n_images: int | None) -> None:
        """Start the bar: over images when their number is known, else over shards."""
        self._counts_images = n_images is not None
        self._started = time.monotonic()
        total = n_shards if n_images is None else n_images
        self._task = self._progress.add_task("", total=total, rate="")

    def encoded(self, n_images: int, limit: str) -> None:
        """Move the bar by a batch; tell the rate and what limits it."""
        if self._task is None:
            return
        self._n_images += n_images
        rate = self._n_images / max(time.monotonic() - self._started, 1e-9)
        self._progress.update(self._task, rate=f"{rate:.0f} images/s, limit: {limit}")
        if self._counts_images:
            self._progress.advance(self._task, n_images)

    def shard_done(self) -> None:
        """Move the bar by a shard."""
        if self._task is not None and not self._counts_images:
            self._progress.advance(self._task)

    def told(self, text: str) -> None:
        """Say it above the bar."""
        if self._progress.disable:
            note(text)
        else:
            self._progress.console.print(text, highlight=False)
