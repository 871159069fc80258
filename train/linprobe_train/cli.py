"""The command line of the train stage: parse, call one library function, print.

Imports stay light: a stored answer is shown without loading the solver's libraries.

Commands on what the probe left: parse, call one library function, print.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from linprobe.machine import Device
from linprobe.terminal import emit, emit_json, note

if TYPE_CHECKING:
    from linprobe_train.tasks.probe import ProbeRequest

StoreOption = Annotated[Path, typer.Option("--store", help="Feature store.")]
OutOption = Annotated[Path, typer.Option("--out", help="Folder of results.")]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object.")]
FEATURES, RESULTS = Path("features"), Path("results")
CompareFormat = Literal["text", "markdown", "csv", "html"]
PredictFormat = Literal["table", "csv", "jsonl"]


def compare(
    folders: Annotated[
        list[Path] | None, typer.Argument(help="Folders of results; default all in --out.")
    ] = None,
    out: OutOption = RESULTS,
    store: StoreOption = FEATURES,
    data: Annotated[
        list[str] | None, typer.Option(help="Only this dataset; may be repeated.")
    ] = None,
    form: Annotated[CompareFormat, typer.Option("--format", help="Of the output.")] = "text",
    seed: Annotated[int, typer.Option(help="Of the bootstrap.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Put results side by side, with paired tests."""
    from linprobe_train.results.collect import collect, of_datasets
    from linprobe_train.show.compare_text import FORMATS, compare_json
    from linprobe_train.tasks.compare import compare as compare_results

    results = of_datasets(collect(out, folders or (), note), data or ())
    found = compare_results(results, store=store, seed=seed, strict=bool(folders))
    if as_json:
        emit_json(compare_json(found))
    else:
        emit(FORMATS[form](found))


def predict(
    probe: Annotated[
        Path | None, typer.Argument(help="Folder of a result; default the only one in --out.")
    ] = None,
    images: Annotated[
        list[Path] | None,
        typer.Option(help="Image file, folder or shard, repeatable; needs linprobe[extract]."),
    ] = None,
    features: Annotated[
        Path | None, typer.Option(help=".npy or .npz of features, instead of the store.")
    ] = None,
    store: StoreOption = FEATURES,
    model: Annotated[str | None, typer.Option(help="Encoder; default the probe's.")] = None,
    data: Annotated[str | None, typer.Option(help="Dataset; default the probe's.")] = None,
    split: Annotated[str, typer.Option(help="Split of the dataset.")] = "test",
    top: Annotated[int, typer.Option(help="Classes to give, most probable first.")] = 5,
    form: Annotated[PredictFormat, typer.Option("--format", help="Of the output.")] = "table",
    weights: Annotated[
        Path | None, typer.Option(help="Checkpoint of the encoder, where one was extracted with.")
    ] = None,
    device: Annotated[Device, typer.Option(help="Where images are encoded.")] = "auto",
    out: OutOption = RESULTS,
    as_json: JsonOption = False,
) -> None:
    """Classify images or features with a saved probe."""
    from linprobe_train.show.text import predicted_lines, predictions_json
    from linprobe_train.tasks.predict import PredictRequest, start_prediction, told_skips

    request = PredictRequest(
        probe, out, store, model, data, split, features, tuple(images or ()), weights, device, top
    )
    found = start_prediction(request)
    if as_json:
        emit_json(predictions_json(found.blocks, found.saved.classes, found.skipped.samples))
    else:
        for line in predicted_lines(form, found.blocks, found.saved.classes, found.top):
            emit(line)
    for line in told_skips(found.skipped.samples):
        note(line)


ModelOption = Annotated[str | None, typer.Option(help="Encoder; default the only one.")]
DataOption = Annotated[str | None, typer.Option(help="Dataset; default the only one.")]
TapOption = Annotated[str, typer.Option(help="embedding or pre_projection.")]
ThreadsOption = Annotated[int | None, typer.Option(help="Threads; default all cores.")]


def knn(
    store: StoreOption = FEATURES,
    model: ModelOption = None,
    data: DataOption = None,
    tap: TapOption = "embedding",
    k: Annotated[str, typer.Option(help="Numbers of neighbours.")] = "10,20,100,200",
    temperature: Annotated[float, typer.Option("--T", help="Of exp(cosine / T).")] = 0.07,
    threads: ThreadsOption = None,
    seed: Annotated[int, typer.Option(help="Of the bootstrap.")] = 0,
    out: OutOption = RESULTS,
    as_json: JsonOption = False,
) -> None:
    """Classify test rows by their nearest training rows."""
    from linprobe.machine import thread_count
    from linprobe.names import parse_wholes
    from linprobe_train.protocol.splits import open_encoder, open_splits
    from linprobe_train.show.text import keyed_json, knn_text
    from linprobe_train.tasks.knn import KnnOptions
    from linprobe_train.tasks.knn import knn as nearest_neighbours

    options = KnnOptions(parse_wholes("--k", k), temperature, thread_count(threads), seed)
    encoder = open_encoder(store, model)
    found = nearest_neighbours(
        open_splits(encoder, encoder.dataset(data).dataset_id, tap), options, out, note
    )
    emit_json(keyed_json(found)) if as_json else emit(knn_text(found))


def fewshot(
    store: StoreOption = FEATURES,
    model: ModelOption = None,
    data: DataOption = None,
    tap: TapOption = "embedding",
    shots: Annotated[str, typer.Option(help="Training rows of each class.")] = "1,2,4,8,16",
    repeats: Annotated[int, typer.Option(help="Draws, for mean and deviation.")] = 5,
    threads: ThreadsOption = None,
    seed: Annotated[int, typer.Option(help="Of the draws.")] = 0,
    out: OutOption = RESULTS,
    as_json: JsonOption = False,
) -> None:
    """Train probes on few rows of each class."""
    from linprobe.machine import thread_count
    from linprobe.names import parse_wholes
    from linprobe_train.protocol.splits import open_encoder, open_splits
    from linprobe_train.show.plots import write_fewshot_plot
    from linprobe_train.show.text import fewshot_text, keyed_json
    from linprobe_train.tasks.fewshot import FewshotOptions
    from linprobe_train.tasks.fewshot import fewshot as few_shots

    options = FewshotOptions(parse_wholes("--shots", shots), repeats, seed, thread_count(threads))
    encoder = open_encoder(store, model)
    splits = open_splits(encoder, encoder.dataset(data).dataset_id, tap)
    found = few_shots(splits, options, out, note)
    plot = write_fewshot_plot(found.folder, found.result)
    emit_json(keyed_json(found)) if as_json else emit(fewshot_text(found, plot))


def report(
    folders: Annotated[
        list[Path] | None, typer.Argument(help="Folders of results; default all in --out.")
    ] = None,
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
    from linprobe_train.show.report import Places, write_report

    paths = []
    for one in collect(out, folders or (), note):
        beside = shards or Path("data") / one.result.dataset
        paths.append(str(write_report(one, Places(store, beside, template))))
        if not as_json:
            emit(paths[-1])
    if as_json:
        emit_json({"reports": paths})


def probe_each(request: "ProbeRequest", *, as_json: bool) -> None:
    """``probe``: one encoder, its datasets in turn."""
    from linprobe_train.show.text import answer_text, answers_json
    from linprobe_train.tasks.probe import probe_datasets

    answers = probe_datasets(request, note)
    if as_json:
        emit_json(answers_json(answers))
    else:
        emit("\n".join(answer_text(one, request.store) for one in answers))


def probe_everything(
    request: "ProbeRequest", jobs: int | None, backend: str, *, as_json: bool
) -> None:
    """``probe --all``."""
    from dataclasses import asdict

    from linprobe_train.tasks.probe_all import Pool, check_outcomes, probe_all, summary

    outcomes = probe_all(request, Pool(jobs, backend), note)
    if as_json:
        emit_json({"probes": [asdict(one) for one in outcomes]})
    else:
        emit(summary(outcomes))
    check_outcomes(outcomes)


EVERY = typer.Option("--all", help="Every encoder and dataset of the store.")
BACKEND = typer.Option("--joblib-backend", help="With --all: loky, threading, dask, ...")
DATASETS = typer.Option(help="Dataset, repeatable; default all.")
PROTOCOL = typer.Option(help="default, clip-paper, clip-readme or dino.")
NORMALIZE = typer.Option("--normalize/--no-normalize", help="L2-normalise rows.")
STANDARDIZE = typer.Option("--standardize/--no-standardize", help="Standardise features.")


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
    """Choose C on val, fit on train and val, score on test."""
    from linprobe_train.tasks.probe import ProbeRequest

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
