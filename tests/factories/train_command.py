"""A small store and the probe command on it."""

from pathlib import Path

from train_factories import SplitData, features
from typer.testing import CliRunner

from linprobe.door import app

CLASSES = ("ant", "bee", "cat", "dog")


def some_splits(*names: str, n: int = 160) -> dict[str, SplitData]:
    """Splits of one distribution, cut from one draw."""
    X, y = features(n * len(names), 10, len(CLASSES), noise=1.5)
    cuts = (slice(i * n, (i + 1) * n) for i in range(len(names)))
    return {name: SplitData(X[cut], y[cut]) for name, cut in zip(names, cuts, strict=True)}


def probe(tmp_path: Path, *options: str) -> str:
    """Run the command; its stdout. An expected failure is raised as it is."""
    base = ["probe", "--store", str(tmp_path / "features"), "--out", str(tmp_path / "results")]
    done = CliRunner().invoke(app, [*base, "--threads", "1", *options], catch_exceptions=False)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.stdout


def only_folder(tmp_path: Path) -> Path:
    """The one folder of results."""
    (folder,) = (tmp_path / "results").iterdir()
    return folder
