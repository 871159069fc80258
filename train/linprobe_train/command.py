"""What ``linprobe-train probe`` was asked, checked before anything is read, and then done."""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast, get_args

from linprobe_train.errors import DataError, OptionError
from linprobe_train.grids import Grid, list_grid
from linprobe_train.memory import parse_bytes
from linprobe_train.protocols import Protocol, protocol_named
from linprobe_train.run import Answer, ProbeOptions, answer
from linprobe_train.stored import open_encoder, open_splits
from linprobe_train.training import FitSettings, SolverName


@dataclass(frozen=True)
class ProbeRequest:
    """The options of ``linprobe-train probe``, as typed."""

    store: Path
    """Feature store."""
    model: str | None
    """Encoder; None for the only one."""
    data: tuple[str, ...]
    """Datasets; () for every dataset of the encoder."""
    protocol: str
    """Name of a protocol."""
    tap: str | None
    """Overrides the protocol's."""
    normalize: bool | None
    """Overrides the protocol's."""
    standardize: bool | None
    """Overrides the protocol's."""
    C: float | None
    """One value of C."""
    grid: str | None
    """Values of C, separated by commas."""
    cv: int
    """Folds; 0 for none."""
    balanced: bool
    """Weigh classes equally."""
    solver: str
    """``linprobe`` or ``sklearn``."""
    memory: str | None
    """Most memory to use."""
    threads: int | None
    """None for all cores."""
    seed: int
    """Of the val cut and the bootstrap."""
    out: Path
    """Folder of results."""


def probe_datasets(request: ProbeRequest, tell: Callable[[str], None]) -> list[Answer]:
    """Answer the request for every dataset; all splits are found before the first fit.

    ``tell`` gets lines of progress.
    """
    options = options_of(request)
    encoder = open_encoder(request.store, request.model)
    tap = options.protocol.tap
    names = request.data or tuple(dataset.dataset_id for dataset in encoder.datasets())
    if not names:
        raise DataError(
            f"{request.store} holds no dataset for {encoder.names.model}",
            hint=f"linprobe-extract run --model {encoder.names.model} --data DIR",
        )
    every = [open_splits(encoder, name, tap) for name in names]

    answers = []
    for splits in every:
        tell(f"probing {splits.dataset.name} with {encoder.names.model} ({options.protocol.name})")
        answers.append(answer(splits, options, request.out, tell))
        if not answers[-1].fresh:
            tell(f"nothing to do: {answers[-1].folder} answers this question")
    return answers


def options_of(request: ProbeRequest) -> ProbeOptions:
    """Check the options and resolve the protocol.

    Raises
    ------
    OptionError : one is out of range, or two contradict each other.
    """
    if request.solver not in get_args(SolverName):
        raise OptionError(
            f"no solver {request.solver!r}; known: {', '.join(get_args(SolverName))}",
            hint="--solver linprobe",
        )
    threads = request.threads if request.threads is not None else os.cpu_count() or 1
    if threads < 1:
        raise OptionError(f"--threads {threads}; expected at least 1", hint="--threads 1")
    protocol = _protocol(request)
    settings = FitSettings(
        normalize=protocol.normalize,
        standardize=protocol.standardize,
        balanced=request.balanced,
        solver=cast("SolverName", request.solver),
        threads=threads,
        memory_bytes=None if request.memory is None else parse_bytes(request.memory),
    )
    if request.cv and (request.cv < 2 or request.C is not None):
        clash = "with --C" if request.C is not None else "is too few folds"
        raise OptionError(f"--cv {request.cv} {clash}", hint="--cv 5 without --C, or --C alone")
    return ProbeOptions(protocol, settings, request.cv, request.seed)


def _protocol(request: ProbeRequest) -> Protocol:
    named = protocol_named(request.protocol)
    changed = replace(
        named,
        tap=named.tap if request.tap is None else request.tap,
        normalize=named.normalize if request.normalize is None else request.normalize,
        standardize=named.standardize if request.standardize is None else request.standardize,
        grid=_grid(request) or named.grid,
    )
    return changed if changed == named else replace(changed, name=f"{named.name}-custom")


def _grid(request: ProbeRequest) -> Grid | None:
    if request.C is not None and request.grid is not None:
        raise OptionError("--C and --grid contradict each other", hint="pass one of them")
    if request.C is not None:
        return list_grid((request.C,))
    if request.grid is None:
        return None
    try:
        return list_grid(tuple(float(value) for value in request.grid.split(",")))
    except ValueError as error:
        raise OptionError(
            f"--grid {request.grid!r} is not a list of numbers", hint="for example --grid 0.1,1,10"
        ) from error
