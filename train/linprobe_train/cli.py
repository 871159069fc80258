"""The commands of the train stage: parse, import what is needed, call one function, print."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from linprobe.errors import OptionError, StoreError
from linprobe.machine import thread_count
from linprobe.names import parse_wholes
from linprobe.options import (
    FEATURES,
    RESULTS,
    JsonOption,
    NoCsvGuardOption,
    OutOption,
    StoreOption,
)
from linprobe.terminal import command, emit, emit_json, lines_only, note, one_line, watching
from linprobe_train.protocol.protocols import parse_grid, protocol_named, protocols_help

CompareFormat = Literal["text", "markdown", "csv", "html"]
ModelOption = Annotated[str | None, typer.Option(help="Encoder; default the only one.")]
DataOption = Annotated[str | None, typer.Option(help="Dataset; default the only one.")]
TAP_HELP = "embedding, pre_projection, cls, patch_mean, block-N, last4; several joined by +."
TapOption = Annotated[str, typer.Option(help=TAP_HELP)]
ThreadsOption = Annotated[int | None, typer.Option(help="Threads; default and -1: all cores.")]
SeedOption = Annotated[int, typer.Option(help="Of the random numbers.")]
FoldersArgument = Annotated[
    list[Path] | None, typer.Argument(help="Folders of results; default all in --out.")
]
MetricOption = Annotated[
    str | None,
    typer.Option(help="Take the best C by this metric; default the protocol's rule."),
]
WorkersOption = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS|N", help="On the workers of a Dask scheduler, or N started here."
    ),
]
SlowerOption = Annotated[
    bool,
    typer.Option("--even-if-slower", help="With --workers: also where one machine is faster."),
]
DataListOption = Annotated[list[str] | None, typer.Option(help="Dataset, repeatable; default all.")]


def probe(
    store: StoreOption = FEATURES,
    model: ModelOption = None,
    data: DataListOption = None,
    protocol: Annotated[str, typer.Option(help=protocols_help())] = "default",
    tap: Annotated[str | None, typer.Option(help=TAP_HELP)] = None,
    normalize: Annotated[bool | None, typer.Option(help="L2-normalise rows.")] = None,
    standardize: Annotated[bool | None, typer.Option(help="Standardise features.")] = None,
    c_value: Annotated[float | None, typer.Option("--C", help="One value of C, no sweep.")] = None,
    grid: Annotated[str | None, typer.Option(help="Values of C: 0.1,1,10.")] = None,
    coarse_rows: Annotated[
        int | None,
        typer.Option(help="Search so many rows first, all only where those leave C in doubt."),
    ] = None,
    metric: MetricOption = None,
    cv: Annotated[int, typer.Option(help="Take the best C over K folds; 0 for the rule.")] = 0,
    balanced: Annotated[bool, typer.Option("--balanced", help="Weigh classes equally.")] = False,
    solver: Annotated[
        Literal["linprobe", "sklearn"], typer.Option(help="Ours, or scikit-learn's.")
    ] = "linprobe",
    memory: Annotated[str | None, typer.Option(help="Most memory to use, such as 4GB.")] = None,
    threads: ThreadsOption = None,
    seed: Annotated[int, typer.Option(help="Of the val cut and the bootstrap.")] = 0,
    out: OutOption = RESULTS,
    every: Annotated[
        bool, typer.Option("--all", help="Every encoder and dataset of the store.")
    ] = False,
    jobs: Annotated[int | None, typer.Option(help="With --all: probes at once.")] = None,
    workers: WorkersOption = None,
    even_if_slower: SlowerOption = False,
    as_json: JsonOption = False,
) -> None:
    """Choose C on val, fit on train and val, score on test."""
    from linprobe_train.protocol.splits import find_splits
    from linprobe_train.show import text
    from linprobe_train.solver.fit import FitSettings
    from linprobe_train.solver.memory import parse_bytes
    from linprobe_train.tasks import probe as task
    from linprobe_train.tasks.grid import check_outcomes, list_tasks
    from linprobe_train.tasks.probe_all import Pool, probe_all

    if not every and jobs is not None:
        raise OptionError(f"--jobs {jobs} without --all", hint="add --all, or leave it out")
    if every and even_if_slower:
        raise OptionError("--even-if-slower with --all, which spreads probes", hint="leave it out")
    named = protocol_named(protocol).changed(
        tap=tap,
        normalize=normalize,
        standardize=standardize,
        grid=parse_grid(c_value, grid),
        coarse_rows=coarse_rows,
    )
    settings = FitSettings(
        normalize=named.normalize,
        standardize=named.standardize,
        balanced=balanced,
        solver=solver,
        threads=thread_count(threads),
        memory_bytes=None if memory is None else parse_bytes(memory),
        workers=None if every else workers,
        even_if_slower=even_if_slower,
    )
    recipe, datasets = task.Recipe(named, settings, metric, cv, seed), tuple(data or ())
    with watching("probing") as watch:
        if every:
            pool = Pool(jobs, workers, threads, settings.memory_bytes)
            task_list = list_tasks(store, model, datasets, watch)
            outcomes = probe_all(store, task_list.tasks, recipe, out, pool, watch)
            json, lines = text.outcomes_json(outcomes, task_list), text.outcomes_text(outcomes)
        else:
            opened = find_splits(store, model, datasets, named.tap, watch)
            answers = [task.probe(splits, recipe, out, watch) for splits in opened]
            lines = "\n".join(text.answer_text(answer, store) for answer in answers)
            json = text.answers_json(answers)
    emit_json(json) if as_json else emit(lines)
    if every:
        check_outcomes(outcomes, task_list.left_out)


def knn(
    store: StoreOption = FEATURES,
    model: ModelOption = None,
    data: DataOption = None,
    tap: TapOption = "embedding",
    k: Annotated[str, typer.Option(help="Numbers of neighbours.")] = "10,20,100,200",
    temperature: Annotated[float, typer.Option("--T", help="Of exp(cosine / T).")] = 0.07,
    threads: ThreadsOption = None,
    seed: SeedOption = 0,
    out: OutOption = RESULTS,
    as_json: JsonOption = False,
) -> None:
    """Classify test rows by their nearest training rows."""
    from linprobe_train.protocol.splits import find_one
    from linprobe_train.show.text import answer_json, knn_text
    from linprobe_train.tasks.knn import knn as nearest_neighbours

    counts, threads = parse_wholes("--k", k), thread_count(threads)
    if not 0 < temperature < float("inf"):
        raise OptionError(f"T = {temperature}; expected more than 0", hint="--T 0.07")
    splits = find_one(store, model, data, tap, lines_only)
    with watching("k-NN") as watch:
        answer = nearest_neighbours(
            splits, counts, temperature, out, seed=seed, threads=threads, watch=watch
        )
    emit_json(answer_json(answer)) if as_json else emit(knn_text(answer))


def fewshot(
    store: StoreOption = FEATURES,
    model: ModelOption = None,
    data: DataOption = None,
    tap: TapOption = "embedding",
    shots: Annotated[str, typer.Option(help="Training rows of each class.")] = "1,2,4,8,16",
    repeats: Annotated[int, typer.Option(help="Draws, for mean and deviation.")] = 5,
    metric: Annotated[
        str | None, typer.Option(help="What results are in; default the dataset's own.")
    ] = None,
    threads: ThreadsOption = None,
    seed: SeedOption = 0,
    out: OutOption = RESULTS,
    as_json: JsonOption = False,
) -> None:
    """Train probes on few rows of each class."""
    from linprobe_train.protocol.splits import find_one
    from linprobe_train.show.plots import write_fewshot_plot
    from linprobe_train.show.text import answer_json, fewshot_text
    from linprobe_train.tasks.fewshot import fewshot as few_shots

    counts, threads = parse_wholes("--shots", shots), thread_count(threads)
    if repeats < 1:
        raise OptionError(f"{repeats} draws; expected at least 1", hint="--repeats 5")
    splits = find_one(store, model, data, tap, lines_only)
    with watching("few-shot") as watch:
        answer = few_shots(
            splits, counts, repeats, out, seed=seed, metric=metric, threads=threads, watch=watch
        )
    plot: Path | str | None
    try:
        plot = write_fewshot_plot(answer.folder, answer.result)
    except StoreError as error:  # the answer is there all the same
        plot = f"not written: {error}"
    emit_json(answer_json(answer)) if as_json else emit(fewshot_text(answer, plot))


def compare(
    folders: FoldersArgument = None,
    out: OutOption = RESULTS,
    store: StoreOption = FEATURES,
    data: DataListOption = None,
    form: Annotated[CompareFormat, typer.Option("--format", help="Of the output.")] = "text",
    no_csv_guard: NoCsvGuardOption = False,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Put results side by side, with paired tests."""
    from linprobe_train.results.collect import collect, of_datasets
    from linprobe_train.results.preferred import current
    from linprobe_train.show.compare_text import FORMATS, compare_csv, compare_json
    from linprobe_train.tasks.compare import compare as compare_results

    results = of_datasets(collect(out, folders or (), lines_only), data or ())
    results = results if folders else current(results, store, data or (), lines_only)
    comparisons = compare_results(results, store=store, seed=seed, strict=bool(folders))
    if as_json:
        emit_json(compare_json(comparisons))
    elif form == "csv":
        emit(compare_csv(comparisons, guard=not no_csv_guard))
    else:
        emit(FORMATS[form](comparisons))


def report(
    folders: FoldersArgument = None,
    out: OutOption = RESULTS,
    store: StoreOption = FEATURES,
    shards: Annotated[
        Path | None, typer.Option(help="Folder of the shards, for pictures; default data/DATASET.")
    ] = None,
    template: Annotated[
        Path | None, typer.Option(help="Jinja template that extends report.html.j2.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write an HTML page for each result."""
    from linprobe_train.results.collect import collect
    from linprobe_train.results.preferred import current
    from linprobe_train.show.report import Places, shards_of, write_report

    paths = []
    results = collect(out, folders or (), lines_only)
    for collected in results if folders else current(results, store, watch=lines_only):
        beside = shards or shards_of(collected.result.dataset)
        paths.append(str(write_report(collected, Places(store, beside, template))))
        if not as_json:
            emit(one_line(paths[-1]))
    if as_json:
        emit_json({"reports": paths})
    else:
        beside = None if out == RESULTS else out
        note(f"next: {command('predict', store=store, out=beside, images='FOLDER')}")
