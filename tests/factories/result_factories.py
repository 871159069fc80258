"""Results for tests of what people do with them: real ones, of small probes on small stores."""

from collections.abc import Mapping
from pathlib import Path

from train_factories import SplitData, features, stored_dataset
from typer.testing import CliRunner

from linprobe.door import app
from linprobe_train.results.collect import Collected, collect

CLASSES = ("ant", "bee", "cat", "dog", "eel", "fox")


def some_splits(n: int = 120, *, noise: float = 1.5, d: int = 10) -> dict[str, SplitData]:
    """Train and test, n rows each, whose labels do not depend on ``noise`` or d."""
    X, y = features(2 * n, d, len(CLASSES), noise=noise)
    return {"train": SplitData(X[:n], y[:n]), "test": SplitData(X[n:], y[n:])}


def command(*words: str | Path) -> str:
    """Run a command of the train stage; its stdout. An expected failure is raised as it is."""
    done = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.stdout


def probed(
    root: Path,
    model: str,
    splits: Mapping[str, SplitData],
    *,
    name: str = "toys",
    classes: tuple[str, ...] = CLASSES,
    keys: Mapping[str, tuple[str, ...]] | None = None,
) -> Collected:
    """Store splits under ``root/features`` and probe them at C = 1 into ``root/results``."""
    encoder = stored_dataset(
        root / "features", splits, classes=classes, name=name, model=model, keys=keys
    )
    where: list[str | Path] = ["--store", root / "features", "--out", root / "results"]
    which = ["--model", encoder.encoder_id, "--data", name]
    command("probe", *where, *which, "--C", "1", "--threads", "1")
    found = collect(root / "results")
    return next(
        one
        for one in found
        if one.result.question.encoder_id == encoder.encoder_id and one.result.dataset == name
    )
