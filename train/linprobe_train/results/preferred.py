"""Which of several probes is meant where none is named."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from linprobe.errors import LinprobeError, ResultError
from linprobe.names import first_few
from linprobe.terminal import Progress, Watch, command, ignore
from linprobe_store.handles.lookup import is_meant
from linprobe_store.handles.newest import newest
from linprobe_store.handles.store import FeatureStore
from linprobe_train.protocol.protocols import DEFAULT
from linprobe_train.results.collect import Collected, collect, folder_of
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

    meant = _meant_by_names(store)

    def rank(probe: Collected) -> tuple[bool, bool, bool, str]:
        result = probe.result
        is_default = result.question.protocol.name == DEFAULT.name
        own = result.question.dataset_id, result.dataset, folder_of(result)
        is_asked = data is not None and is_meant(data, *own)
        return is_asked, not _is_older(result, meant), is_default, result.environment.time

    best = max(probes, key=rank)
    line = f"with the probe {best.folder}: {best.label} on {best.result.dataset}"
    if len(probes) > 1:
        name = best.result.question.protocol.name
        line += (
            f", the newest by {name} among {len(probes)}; another: {command('predict', 'FOLDER')}"
        )
    watch(Progress(0, None, "results", line=line))
    return best.folder


def _is_of(result: ProbeResult, model: str) -> bool:
    return is_meant(model, result.question.encoder_id, result.encoder)


def current(
    results: Sequence[Collected], store: Path, data: Sequence[str] = (), watch: Watch = ignore
) -> tuple[Collected, ...]:
    """Leave out results whose dataset has a newer one of its name in the store.

    Those that ``data`` means by the id of their dataset stay. ``watch`` sees how many go.
    """
    meant = _meant_by_names(store)
    kept = tuple(
        each
        for each in results
        if not _is_older(each.result, meant)
        or any(is_meant(query, each.result.question.dataset_id, folder_of(each.result))
               for query in data)
    )  # fmt: skip
    if len(kept) < len(results):
        line = f"left out: {len(results) - len(kept)} results on older datasets of their names"
        line += "; they go by their folders"
        watch(Progress(0, None, "results", line=line))
    return kept


def _meant_by_names(store: Path) -> Mapping[tuple[str, str], str]:
    """The id of the dataset that a name means, by id of the encoder and name."""
    ids: dict[tuple[str, str], list[str]] = {}
    try:
        for encoder in FeatureStore(store).encoders():
            for dataset in newest(encoder.datasets()):
                ids.setdefault((encoder.encoder_id, dataset.name), []).append(dataset.dataset_id)
    except LinprobeError:
        return {}
    return {key: same[0] for key, same in ids.items() if len(same) == 1}


def _is_older(result: ProbeResult, meant: Mapping[tuple[str, str], str]) -> bool:
    """Whether the name of the result's dataset means another by now, as far as a store says."""
    own = result.question.dataset_id
    return meant.get((result.question.encoder_id, result.dataset), own) != own
