"""Commands on what the probe left: parse, call one library function, print."""

from pathlib import Path
from typing import Annotated

import typer

from linprobe_store.terminal import emit, emit_json, note

StoreOption = Annotated[Path, typer.Option("--store", help="Feature store.")]
OutOption = Annotated[Path, typer.Option("--out", help="Folder of results.")]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object.")]
FEATURES, RESULTS = Path("features"), Path("results")


def compare_command(
    folders: Annotated[
        list[Path] | None, typer.Argument(help="Folders of results; default all in --out.")
    ] = None,
    out: OutOption = RESULTS,
    store: StoreOption = FEATURES,
    data: Annotated[
        list[str] | None, typer.Option(help="Only this dataset; may be repeated.")
    ] = None,
    form: Annotated[str, typer.Option("--format", help="text, markdown, csv or html.")] = "text",
    seed: Annotated[int, typer.Option(help="Of the bootstrap.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Put results side by side on the same test rows, with paired tests."""
    from linprobe_train.collected import collect, of_datasets
    from linprobe_train.compare import compare
    from linprobe_train.compare_output import compare_json, writer_named

    write = writer_named(form)
    results = of_datasets(collect(out, folders or (), note), data or ())
    found = compare(results, store=store, seed=seed, strict=bool(folders))
    if as_json:
        emit_json(compare_json(found))
    else:
        emit(write(found))
