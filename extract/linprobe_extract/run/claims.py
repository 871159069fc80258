"""Which shards this process takes, and who seals: by leases that all processes of a store see.

Alone, under torchrun or srun, in an array of jobs or as two commands of two people: whoever is
free takes the next shard that has no part and no living holder, so that fast ones do more. A shard
encoded twice, by one that was taken for dead and woke up, is committed once.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from linprobe.errors import StoreError
from linprobe.leases import Leases, Sighting
from linprobe.names import first_few
from linprobe.records import digest_json, plain
from linprobe.terminal import Progress, Watch
from linprobe_extract.run.work import Work
from linprobe_extract.shards.fetch import N_AHEAD
from linprobe_extract.shards.types import Shard
from linprobe_store.format.layout import folder_named
from linprobe_store.handles.split import Split

IsOver = Callable[[], bool]
"""Whether to wait no longer."""
Tell = Callable[[str], None]
"""Sees a line for a person."""
_STEP_S = 0.1
"""Seconds within which who waits sees that it is over."""


def lease_name(shard: Shard) -> str:
    """Name of the lease of a shard: the same for all that are given the same card, or path."""
    known = shard.fingerprint
    content = [shard.kind, _place(shard)] if known is None else plain(known)
    return folder_named("part-", shard.name, digest_json(content))


def _place(shard: Shard) -> str:
    return str(Path(shard.url).absolute()) if shard.kind == "file" else shard.url


class Claims:
    """The shards of a run that fall to this process, one after the other.

    Parameters
    ----------
    work : what was left to do when the run began.
    leases : those of the encoder's folder, entered.
    n_others : processes of the same run that may not have taken anything yet.
    tell : sees a line where this process waits for others.
    """

    def __init__(self, work: Work, leases: Leases, n_others: int, tell: Tell) -> None:
        self._work = work
        self._leases = leases
        self._n_others = n_others
        self._tell = tell
        self._open = {lease_name(shard): shard for shard in work.todo}
        self._held: dict[str, Shard] = {}
        self._ahead: Shard | None = None
        self.failed_elsewhere: list[Shard] = []
        """Shards that another process, which is still there, has tried in vain."""

    def take(self, is_over: IsOver) -> Iterator[Shard]:
        """Yield what was taken before and is not settled, then the next one, and wait for others.

        Ends when every shard has a part, is held by this process, or has failed; or ``is_over``.
        """
        yield from tuple(self._held.values())
        patience = _Patience(self._leases, is_over, self._tell)
        while not is_over():
            shard, self._ahead = self._ahead or self._next(), None
            if shard is not None:
                yield shard
                continue
            if not self._open:
                return
            patience.wait(f"{len(self._open)} shards", self._others().values())

    def may_take_ahead(self) -> bool:
        """Take a shard before it is due; whether :meth:`take` has one without waiting.

        The last ones go to whoever is free.
        """
        if self._ahead is None:
            n_taken = max(len(self._others()), N_AHEAD * self._n_others)
            if len(self._open) - len(self._others()) > n_taken:
                self._ahead = self._next()
        return self._ahead is not None

    def settle(self, shard: Shard, *, has_failed: bool) -> None:
        """Give the lease of a shard back that has its part; keep that of one that has failed."""
        name = lease_name(shard)
        if self._held.pop(name, None) is None:
            return
        if has_failed:
            with suppress(StoreError):
                self._leases.fail(name)
        else:
            self._leases.release(name)

    def _others(self) -> dict[str, Sighting]:
        """Leases of others on what is left, as last seen."""
        return {name: s for name, s in self._leases.seen.items() if name in self._open}

    def _next(self) -> Shard | None:
        """Take the first shard that has no part and no living holder."""
        seen = self._leases.look(self._leases.pace.poll_s)
        closed, taken = [], None
        for name, shard in self._open.items():
            sighting = seen.get(name)
            if sighting is not None and not self._leases.is_stale(name):
                if sighting.holder is not None and sighting.holder.has_failed:
                    closed.append(name)
                    self.failed_elsewhere.append(shard)
            elif self._work.is_done_by_now(shard):
                closed.append(name)
            elif self._leases.take(name):
                closed.append(name)
                # The one before may have committed it between the two looks.
                if not self._work.is_done_by_now(shard):
                    self._held[name] = taken = shard
                    break
                self._leases.release(name)
        for name in closed:
            del self._open[name]
        return taken


def seal(work: Work, leases: Leases, is_over: IsOver, tell: Tell) -> tuple[tuple[Split, ...], bool]:
    """Seal the splits whose parts are all there, unless another process does: wait for it then.

    Parameters
    ----------
    work : as it stands now.
    is_over : ends the waiting; sealing goes on.

    Returns
    -------
    The splits that are sealed then, in order, and whether this process has sealed any.

    Raises
    ------
    LinprobeError : as :meth:`Work.seal` does.
    """
    shards = [[split.name, *map(lease_name, split.shards)] for split in work.plan.splits]
    identity = [shards, work.plan.label_source, work.plan.classes]
    name = folder_named("seal-", work.plan.name, digest_json(plain(identity)))
    patience = _Patience(leases, is_over, tell)
    while True:
        seen = leases.look().get(name)
        if seen is None:
            work = work.again()
            if len(work.sealed) == len(work.splits):
                return work.seal(), False  # which removes parts that are left
        # Also after who died while it sealed, or cleared up after it.
        if (seen is None or leases.is_stale(name)) and leases.take(name):
            try:
                return _sealed(work.again()), True
            finally:
                leases.release(name)
        if is_over():
            return tuple(work.again().sealed.values()), False
        patience.wait("the seal", [] if seen is None else [seen])


def seal_alone(work: Work, watch: Watch) -> tuple[Split, ...]:
    """Seal, as :func:`seal` does, what has all its parts before anything is encoded."""
    assert work.stored is not None
    if len(work.sealed) == len(work.splits):
        return work.seal()  # which may have to declare a metric, and needs no lease
    with Leases(work.stored.path) as leases:
        tell = lambda line: watch(Progress(0, None, "splits", line=line))  # noqa: E731
        return seal(work, leases, lambda: False, tell)[0]


def _sealed(work: Work) -> tuple[Split, ...]:
    try:
        return work.seal()
    except StoreError:
        # Another one, which took this process for dead, may have sealed and removed the parts.
        after = work.again()
        if len(after.sealed) < len(after.splits):
            raise
        return after.seal()


class _Patience:
    """Waiting for others, and saying so once it takes longer than a moment."""

    def __init__(self, leases: Leases, is_over: IsOver, tell: Tell) -> None:
        self._pace = leases.pace
        self._is_over = is_over
        self._tell = tell
        self._started = time.monotonic()
        self._told: set[str] = set()

    def wait(self, what: str, sightings: Iterable[Sighting]) -> None:
        """Wait until it is time for the next look at the leases of others."""
        holders = {f"process {h.pid} on {h.host}" for s in sightings if (h := s.holder)}
        now = time.monotonic()
        if now - self._started > self._pace.beat_s and not holders <= self._told:
            self._tell(
                f"waiting for {what} in the hands of {first_few(sorted(holders))}; who falls "
                f"silent for {self._pace.patience_s:g} s is followed by this one; interrupt it to "
                "leave them to the others"
            )
            self._told |= holders
        until = now + self._pace.poll_s
        while not self._is_over() and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, _STEP_S))
