"""Which of several probes is meant where none is named."""

from pathlib import Path

from linprobe.errors import LinprobeError, ResultError
from linprobe.names import first_few
from linprobe.terminal import Progress, Watch, command, ignore
from linprobe_store.handles.lookup import is_meant
from linprobe_store.handles.newest import newest
from linprobe_store.handles.store import FeatureStore
from linprobe_train.protocol.protocols import DEFAULT
from linprobe_train.results.collect import Collected, collect
from linprobe_train.results.result import ProbeResult


def preferred_folder(
    out: Path,
    store: Path,
    *,
    model: str | None = None,
    data: str | None = None,
    watch: Watch = ignore,
) -> Path:
    """The folder of the probe to predict with, among those in ``out``.

    The newest of the protocol ``default``, or of another where there is none; one whose dataset has
    a newer one of its name in the store comes after the others.

    Parameters
    ----------
    model, data : of this encoder alone, and of this dataset where there is one.
    watch : sees what :func:`collect` tells it, and which probe it is.

    Raises
    ------
    ResultError : there is none.
    """
    every = collect(out, watch=watch)
    probes = [each for each in every if model is None or _is_of(each.result, model)]
    if not probes:
        models = first_few(sorted({each.result.encoder for each in every}))
        raise ResultError(f"no probe of {model!r} in '{out}'", hint=f"there are probes of {models}")

    def rank(probe: Collected) -> tuple[bool, bool, bool, str]:
        result = probe.result
        is_default = result.question.protocol.name == DEFAULT.name
        is_asked = data is not None and result.dataset == data
        return is_asked, not _is_older(result, store), is_default, result.environment.time

    best = max(probes, key=rank)
    line = f"with the probe {best.folder}: {best.label} on {best.result.dataset}"
    if len(probes) > 1:
        line += f", the newest of {len(probes)}; another: {command('predict', 'FOLDER')}"
    watch(Progress(0, None, "results", line=line))
    return best.folder


def _is_of(result: ProbeResult, model: str) -> bool:
    return is_meant(model, result.question.encoder_id, result.encoder)


def _is_older(result: ProbeResult, store: Path) -> bool:
    """Whether the name of the result's dataset means another by now, as far as a store says."""
    try:
        encoder = FeatureStore(store).encoder(result.question.encoder_id)
        meant = newest([each for each in encoder.datasets() if each.name == result.dataset])
    except LinprobeError:
        return False
    return len(meant) == 1 and meant[0].dataset_id != result.question.dataset_id
