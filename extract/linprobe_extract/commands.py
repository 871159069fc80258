"""What the commands of ``linprobe-extract`` do, between parsing and the pipeline.

torch is imported only when an encoder has to be loaded, so that a finished command, a dry run's
plan and every error about arguments or shards come at once.
"""

import os
from dataclasses import dataclass, replace
from pathlib import Path

from linprobe_extract.claims import Ranks, open_turns, ranks_from_environment
from linprobe_extract.data_names import data_folder
from linprobe_extract.dry_run import forecast
from linprobe_extract.errors import ExtractError
from linprobe_extract.fingerprints import FingerprintCache
from linprobe_extract.machine import available_cores, decode_threads
from linprobe_extract.memo import EncoderRequest, RequestMemo
from linprobe_extract.result import RunResult, tell
from linprobe_extract.shards import DatasetPlan, plan_dataset
from linprobe_extract.state import seal_complete, state_of
from linprobe_extract.stopping import stop_on_signals
from linprobe_store import FeatureStore, NotFoundError, StoredEncoder
from linprobe_store.layout import encoder_folder
from linprobe_store.terminal import emit, emit_json

BATCH_SIZE = {"cuda": 256, "cpu": 16}
"""Images a batch by device: enough to fill it, small enough for its memory."""


@dataclass(frozen=True)
class RunRequest:
    """The arguments of ``linprobe-extract run``."""

    encoder: EncoderRequest
    """Which tower, and how."""
    store: Path
    """Root of the feature store."""
    data: str | None
    """Folder of shards, its URL, or the name of a known dataset."""
    shards: tuple[str, ...]
    """``SPLIT=PATTERN`` entries instead of ``data``."""
    splits: tuple[str, ...]
    """Splits to extract; empty means all."""
    name: str | None
    """What to call the dataset."""
    label_source: str | None
    """``cls``, ``json:<field>`` or ``folder``; None means what the data says."""
    classes_file: Path | None
    """Class names."""
    batch_size: int | None
    """Images a batch; None means the device's default."""
    decode_threads: int | None
    """Threads that decode; None means from the cores available."""
    max_skipped: float
    """Greatest share of samples of a shard that may be skipped."""


def run_extraction(request: RunRequest, *, dry_run: bool, as_json: bool) -> int:
    """Carry out ``linprobe-extract run``; give the exit code.

    Raises
    ------
    LinprobeError : anything a person can mend, told with what to try.
    """
    ranks = ranks_from_environment()
    plan = plan_dataset(
        data_folder(request.data, may_pack=not dry_run and ranks.world_size == 1),
        shards=request.shards,
        name=request.name,
        label_source=request.label_source,
        classes_file=request.classes_file,
    )
    splits = request.splits or tuple(split.name for split in plan.splits)
    for split in splits:
        plan.split(split)
    _check_feasible(plan, splits, ranks)
    _check_writable(request.store)
    fingerprints = FingerprintCache(request.store / ".cache" / "shards.jsonl", read_only=dry_run)
    stored = _remembered_encoder(request)
    if dry_run:
        return _tell_forecast(request, plan, splits, fingerprints, stored, as_json=as_json)
    if stored is not None:
        state = state_of(plan, splits, stored, fingerprints)
        if not state.todo:
            state = seal_complete(plan, splits, stored, fingerprints)
            return tell(RunResult(plan, stored, state.sealed, None), ranks, as_json=as_json)
    return _encode(request, plan, splits, fingerprints, ranks, as_json=as_json)


def _tell_forecast(
    request: RunRequest,
    plan: DatasetPlan,
    splits: tuple[str, ...],
    fingerprints: FingerprintCache,
    stored: StoredEncoder | None,
    *,
    as_json: bool,
) -> int:
    """Say what would be done; the encoder is loaded, without a GPU where there is none."""
    if stored is None:
        import torch

        from linprobe_extract.loading import load

        # The precision, and with it the id, is that of the device.
        device = request.encoder.device if torch.cuda.is_available() else "cpu"
        encoder = load(replace(request.encoder, device=device))
        spec, folder = encoder.spec, encoder_folder(encoder.names.slug, encoder.spec.encoder_id)
        stored = _known_encoder(request.store, spec.encoder_id)
    else:
        spec, folder = stored.spec, stored.path.name
    told = forecast(state_of(plan, splits, stored, fingerprints), spec, folder)
    if as_json:
        emit_json(told.as_json())
    else:
        emit("\n".join(told.lines()))
    return 0


def memo_of(store: Path) -> RequestMemo:
    """Open the memo of encoder requests beside a store."""
    return RequestMemo(store / ".cache" / "encoders.jsonl")


def _check_feasible(plan: DatasetPlan, splits: tuple[str, ...], ranks: Ranks) -> None:
    """Refuse what could be encoded but not sealed."""
    urls = [shard.url for split in plan.splits for shard in split.shards]
    if ranks.world_size > 1 and any(url.startswith("pipe:") for url in urls):
        raise ExtractError(
            "shards from pipe: commands cannot be shared between processes: only the one that "
            "runs a command learns its fingerprint",
            hint="run one process, or copy the shards to files",
        )
    if plan.classes is None and set(splits) != {split.name for split in plan.splits}:
        raise ExtractError(
            f"the classes of '{plan.name}' have no names, so all its splits are needed to count "
            "them",
            hint="leave out --split, or name the classes with --classes FILE",
        )


def _check_writable(store: Path) -> None:
    """Refuse before minutes of work what would fail at their end."""
    folder = store
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise ExtractError(
            f"cannot write the store '{store}': '{folder}' is not a writable folder",
            hint="choose another place with --store DIR",
        )


def _remembered_encoder(request: RunRequest) -> StoredEncoder | None:
    encoder_id = memo_of(request.store).encoder_id(request.encoder)
    return None if encoder_id is None else _known_encoder(request.store, encoder_id)


def _known_encoder(store: Path, encoder_id: str) -> StoredEncoder | None:
    try:
        return FeatureStore(store).encoder(encoder_id)
    except NotFoundError:
        return None


def _encode(
    request: RunRequest,
    plan: DatasetPlan,
    splits: tuple[str, ...],
    fingerprints: FingerprintCache,
    ranks: Ranks,
    *,
    as_json: bool,
) -> int:
    from linprobe_extract.loading import load, register
    from linprobe_extract.progress import TerminalObserver
    from linprobe_extract.run import Run, RunOptions

    encoder = load(request.encoder, local_rank=ranks.local_rank)
    on_cpu = encoder.device.type == "cpu"
    options = RunOptions(
        splits=splits,
        batch_size=request.batch_size or BATCH_SIZE[encoder.device.type],
        decode_threads=request.decode_threads
        or decode_threads(available_cores(), ranks.local_world_size, on_cpu=on_cpu),
        max_skipped=request.max_skipped,
    )
    stored = register(encoder, request.store, batch_size=options.batch_size)
    memo_of(request.store).remember(request.encoder, stored.encoder_id)
    title = f"{encoder.names.model} on {encoder.device.type}: {plan.name}"
    with stop_on_signals() as stop, TerminalObserver(title, visible=ranks.rank == 0) as observer:
        report = Run(
            plan, encoder, stored, fingerprints, options, open_turns(ranks), observer, stop.event
        ).extract()
    code = tell(RunResult(plan, stored, report.sealed, report), ranks, as_json=as_json)
    return stop.exit_code or code
