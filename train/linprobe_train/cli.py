"""The command line of the train stage: parse, call one library function, print.

Imports stay light: a stored answer is shown without loading the solver's libraries.
"""

from pathlib import Path
from typing import Annotated

import typer

from linprobe_store.terminal import new_app, run
from linprobe_train.cli_results import (
    compare_command,
    fewshot_command,
    knn_command,
    predict_command,
    probe_each,
    probe_everything,
    report_command,
)

EVERY = typer.Option("--all", help="Every encoder and dataset of the store.")
BACKEND = typer.Option("--joblib-backend", help="With --all: loky, threading, dask, ...")
DATASETS = typer.Option(help="Dataset, repeatable; default all.")
PROTOCOL = typer.Option(help="default, clip-paper, clip-readme or dino.")
NORMALIZE = typer.Option("--normalize/--no-normalize", help="L2-normalise rows.")
STANDARDIZE = typer.Option("--standardize/--no-standardize", help="Standardise features.")

app = new_app("Train and score linear probes on stored features. CPU only.")
app.command("compare")(compare_command)
app.command("knn")(knn_command)
app.command("fewshot")(fewshot_command)
app.command("predict")(predict_command)
app.command("report")(report_command)


@app.callback()
def root() -> None:
    """Train and score linear probes on stored features. CPU only."""


@app.command()
def probe(
    store: Annotated[Path, typer.Option(help="Feature store.")] = Path("features"),
    model: Annotated[str | None, typer.Option(help="Encoder; default the only one.")] = None,
    data: Annotated[list[str] | None, DATASETS] = None,
    protocol: Annotated[str, PROTOCOL] = "default",
    tap: Annotated[str | None, typer.Option(help="embedding or pre_projection.")] = None,
    normalize: Annotated[bool | None, NORMALIZE] = None,
    standardize: Annotated[bool | None, STANDARDIZE] = None,
    c_value: Annotated[float | None, typer.Option("--C", help="One value of C, no sweep.")] = None,
    grid: Annotated[str | None, typer.Option(help="Values of C: 0.1,1,10.")] = None,
    cv: Annotated[int, typer.Option(help="Folds of cross-validation; 0 uses val.")] = 0,
    balanced: Annotated[bool, typer.Option("--balanced", help="Weigh classes equally.")] = False,
    solver: Annotated[str, typer.Option(help="linprobe or sklearn.")] = "linprobe",
    memory: Annotated[str | None, typer.Option(help="Most memory to use, such as 4GB.")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads; default all cores.")] = None,
    seed: Annotated[int, typer.Option(help="Of the val cut and the bootstrap.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder of results.")] = Path("results"),
    every: Annotated[bool, EVERY] = False,
    jobs: Annotated[int | None, typer.Option(help="With --all: probes at once.")] = None,
    backend: Annotated[str, BACKEND] = "loky",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Choose C on val, fit on train and val, score on test, store the result."""
    from linprobe_train.command import ProbeRequest

    request = ProbeRequest(
        store,
        model,
        tuple(data or ()),
        protocol,
        tap,
        normalize,
        standardize,
        c_value,
        grid,
        cv,
        balanced,
        solver,
        memory,
        threads,
        seed,
        out,
    )
    if every:
        probe_everything(request, jobs, backend, as_json=as_json)
    else:
        probe_each(request, as_json=as_json)


def main() -> None:
    """Run ``linprobe-train``."""
    run(app)
