"""Extraction from beginning to end: what is left to do, an encoder for it, a report of it.

torch is imported only when an encoder has to be loaded, so that a finished extraction, a dry run's
plan and every error about arguments or shards come at once.
"""

import os
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from linprobe.errors import ExtractError, NotFoundError
from linprobe.machine import available_cores, decode_threads, thread_count
from linprobe.terminal import Progress, Watch, ignore
from linprobe_extract.encoders.family import EncoderChoice
from linprobe_extract.run.arithmetic import other_precisions, precision_text
from linprobe_extract.run.claims import seal_alone
from linprobe_extract.run.memo import choice_key, encoder_memo
from linprobe_extract.run.ranks import Ranks, Stop, ranks_from_environment, stop_on_signals
from linprobe_extract.run.report import ExtractReport
from linprobe_extract.run.work import Forecast, Work, forecast
from linprobe_extract.shards.caches import FingerprintCache
from linprobe_extract.shards.network import PATIENT, Retry
from linprobe_extract.shards.types import DatasetPlan
from linprobe_store.format.layout import ENCODER_PREFIX, folder_named
from linprobe_store.handles.encoder import StoredEncoder
from linprobe_store.handles.store import FeatureStore

if TYPE_CHECKING:
    from linprobe_extract.encoders.encoder import Encoder


@dataclass(frozen=True)
class Extraction:
    """A dataset to be run through an encoder into a store."""

    encoder: "EncoderChoice | Encoder"
    """Which encoder: chosen, and loaded when it is needed; or loaded already."""
    plan: DatasetPlan
    store: Path
    """Folder of the feature store."""
    splits: tuple[str, ...] = ()
    """Splits to extract and seal; empty means all."""
    batch_size: int | None = None
    """Images a batch; None means the encoder's own."""
    threads: int | None = None
    """Threads that decode, -1 for all cores; None means from the cores available."""
    max_skipped: float = 0.01
    """Greatest share of samples of a shard that may be skipped, in [0, 1]."""
    keep_parts: bool = False
    """Whether parts stay when all splits are sealed; they hold every row a second time."""
    retry: Retry = PATIENT
    """How long servers that fail are asked again."""

    def __post_init__(self) -> None:
        if self.threads is not None:
            thread_count(self.threads)  # refused before a model is loaded
        if self.batch_size is not None and self.batch_size < 1:
            what = f"batches of {self.batch_size}; expected at least 1 image"
            raise ExtractError(what, hint="leave the batch size out, or give 16")
        if not 0 <= self.max_skipped <= 1:
            what = f"max_skipped = {self.max_skipped:g}; expected a share from 0 to 1"
            raise ExtractError(what, hint="leave it out, or give 0.01")

    def forecast(self) -> Forecast:
        """Count what is left to do, and write nothing; an encoder new to the store is loaded.

        Raises LinprobeError as :meth:`run`.
        """
        work = self._work(ranks_from_environment(), read_only=True)
        encoder = self.encoder
        # What ``auto`` was on another machine that shares the store says nothing of this one.
        is_open = isinstance(encoder, EncoderChoice) and encoder.precision == "auto"
        if work.stored is not None and not (is_open and work.todo):
            return forecast(work, work.stored.spec, work.stored.path.name)
        from linprobe_extract.encoders.register import canary_rate

        if isinstance(encoder, EncoderChoice):
            import torch

            from linprobe_extract.encoders.loading import load_encoder

            # The precision, and with it the id, is that of the device.
            device = encoder.device if torch.cuda.is_available() else "cpu"
            encoder = load_encoder(replace(encoder, device=device))
        work = replace(work, stored=self._stored(encoder.spec.encoder_id))
        folder = folder_named(ENCODER_PREFIX, encoder.names.slug, encoder.spec.encoder_id)
        return replace(
            forecast(work, encoder.spec, folder),
            precision_reason=encoder.precision_reason,
            other_precisions=other_precisions(self.encoder, encoder.spec, self.store),
            images_per_s=canary_rate(encoder),
        )

    def run(self, watch: Watch = ignore, *, until_signal: bool = False) -> ExtractReport:
        """Encode the shards that have no part yet, and seal the splits that are complete.

        With ``until_signal``, the first SIGINT or SIGTERM lets it finish the shards at hand and
        report. Shards that failed are in the report's ``run.failed``.

        Raises
        ------
        LinprobeError : an unknown split, a store that cannot be written to, an encoder that
            cannot be loaded or gives other features than it gave before, a full disk.
        """
        ranks = ranks_from_environment()
        first = watch if ranks.rank == 0 else ignore
        work = self._work(ranks, read_only=False, watch=first)
        if work.stored is not None and not work.todo:
            return ExtractReport(work.stored, self.plan.name, seal_alone(work, first), run=None)
        from linprobe_extract.encoders.loading import load_encoder
        from linprobe_extract.encoders.register import canary_rate, register
        from linprobe_extract.run.encode import Run

        encoder = self.encoder
        if isinstance(encoder, EncoderChoice):
            watch(Progress(0, None, "images", detail=f"loading {encoder.model}"))
            encoder = load_encoder(encoder, local_rank=ranks.local_rank)
        on_cpu = encoder.device.type == "cpu"
        batch_size = self.batch_size or encoder.batch_size
        stored = register(encoder, self.store, batch_size=batch_size)
        precision, reason = encoder.spec.precision, encoder.precision_reason
        line = precision_text(precision, reason, canary_rate(encoder))
        first(Progress(0, None, "images", line=line))
        for line in other_precisions(self.encoder, encoder.spec, self.store):
            watch(Progress(0, None, "images", line=line))  # a process may differ from the others
        if isinstance(self.encoder, EncoderChoice):
            encoder_memo(self.store).put(choice_key(self.encoder), stored.encoder_id)
        after = "the batch at hand" if on_cpu else "the shards at hand"
        with stop_on_signals(after) if until_signal else nullcontext(Stop()) as stop:
            run = Run(
                work=replace(work, stored=stored),
                encoder=encoder,
                batch_size=batch_size,
                decode_threads=decode_threads(
                    available_cores(), ranks.local_world_size, on_cpu=on_cpu
                )
                if self.threads is None
                else thread_count(self.threads),
                max_skipped=self.max_skipped,
                ranks=ranks,
                watch=watch,
                stop=stop,
            ).extract()
        return ExtractReport(stored, self.plan.name, run.sealed, run, stop.exit_code)

    def _work(self, ranks: Ranks, *, read_only: bool, watch: Watch = ignore) -> Work:
        splits = self.splits or tuple(split.name for split in self.plan.splits)
        for name in splits:
            self.plan.split(name)
        self._check(splits, ranks)
        if isinstance(self.encoder, EncoderChoice):
            encoder_id = encoder_memo(self.store).get(choice_key(self.encoder))
        else:
            encoder_id = self.encoder.spec.encoder_id
        stored = None if encoder_id is None else self._stored(encoder_id, watch)
        fingerprints = FingerprintCache(self.store, read_only=read_only, retry=self.retry)
        fingerprints.look_up(shard for split in self.plan.splits for shard in split.shards)
        return Work(self.plan, splits, stored, fingerprints, self.keep_parts)

    def _stored(self, encoder_id: str, watch: Watch = ignore) -> StoredEncoder | None:
        """The encoder in the store; ``watch`` sees what else there cannot be opened."""
        with suppress(NotFoundError):
            stored = FeatureStore(self.store).encoder(encoder_id, watch)
            stored.listing().tell(watch)
            return stored
        return None

    def _check(self, splits: tuple[str, ...], ranks: Ranks) -> None:
        """Refuse before minutes of work what would fail at their end."""
        kinds = {shard.kind for split in self.plan.splits for shard in split.shards}
        if ranks.world_size > 1 and not kinds.isdisjoint(("command", "pipeline")):
            raise ExtractError(
                "shards from pipe: commands and pipelines cannot be shared between processes: only "
                "the one that reads them learns their fingerprints",
                hint="run one process, or copy the shards to files",
            )
        if self.plan.classes is None and len(set(splits)) < len(self.plan.splits):
            raise ExtractError(
                f"the classes of '{self.plan.name}' have no names, so all its splits are needed "
                "to count them",
                hint="leave out --split, or name the classes with --classes FILE",
            )

        folder = next(path for path in (self.store, *self.store.parents) if path.exists())
        if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
            raise ExtractError(
                f"cannot write the store '{self.store}': '{folder}' is not a writable folder",
                hint="choose another place with --store DIR",
            )
