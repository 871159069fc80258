"""Options that the commands of several stages share."""

from pathlib import Path
from typing import Annotated

import typer

StoreOption = Annotated[Path, typer.Option("--store", help="Folder of the feature store.")]
OutOption = Annotated[Path, typer.Option("--out", help="Folder of results.")]
NoCsvGuardOption = Annotated[
    bool,
    typer.Option("--no-csv-guard", help="In CSV: no ' before cells that spreadsheets would run."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
FEATURES = Path("features")
RESULTS = Path("results")
