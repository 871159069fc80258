"""Table of what hostile bytes did to every reader: ``show_hostile.py --inputs N``."""

import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

sys.path.insert(0, str(Path(__file__).parents[1] / "factories"))
from hostile_run import run_readers


def main(
    inputs: Annotated[int, typer.Option(help="Inputs for each reader.")] = 2000,
    seed: Annotated[int, typer.Option(help="Of the random numbers.")] = 1,
    only: Annotated[list[str] | None, typer.Option(help="Beginning of a reader's name.")] = None,
) -> None:
    """Print a line for every reader; exit code 1 where anything escaped."""
    with tempfile.TemporaryDirectory(prefix="hostile-") as folder:
        rows = run_readers(Path(folder), inputs, seed=seed, names=tuple(only or ()), timeout_s=7200)
    head = ("reader", "inputs", "right", "refused", "else", "worst s", "worst MB")
    typer.echo(f"{head[0]:<45}" + "".join(f"{name:>10}" for name in head[1:]))
    for row in rows:
        counts = (row["inputs"], row["right"], row["refused"], len(row["escapes"]))
        numbers = "".join(f"{count:>10,}" for count in counts)
        typer.echo(f"{row['reader']:<45}{numbers}{row['worst_s']:>10.2f}{row['worst_mb']:>10.0f}")
        for escape in row["escapes"][:5]:
            typer.echo(f"    {escape}")
    total = sum(row["inputs"] for row in rows)
    escaped = sum(len(row["escapes"]) for row in rows)
    typer.echo(f"{len(rows)} readers, {total:,} inputs, {escaped} neither right nor refused")
    raise typer.Exit(int(escaped > 0))


if __name__ == "__main__":
    typer.run(main)
