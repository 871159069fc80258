"""Results for tests of what people do with them: real ones, of small probes on small stores."""

import json
from collections.abc import Mapping
from pathlib import Path

from train_factories import SplitData, features, stored_dataset
from typer.testing import CliRunner

from linprobe.door import app
from linprobe.records import JsonValue, digest_json
from linprobe_train.results.collect import Collected, collect

CLASSES = ("ant", "bee", "cat", "dog", "eel", "fox")
FILES = ("result.json", "probe.json", "probe.safetensors", "predictions.npz", "encoder.json")
VERBS = {
    "probe": ("probe", "--C", "1"),
    "knn": ("knn", "--k", "1,5"),
    "fewshot": ("fewshot", "--shots", "1,2", "--repeats", "2"),
}


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


def signed_again(content: dict[str, JsonValue]) -> bytes:
    """The bytes of a signed file, with the digest that its fields now have: a forger's."""
    body = {name: value for name, value in content.items() if name != "digest"}
    return json.dumps({**body, "digest": digest_json(body)}, indent=2).encode()


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


def where(root: Path) -> list[str]:
    """Options for the store and the results below a folder."""
    return ["--store", str(root / "features"), "--out", str(root / "results")]


def asked(root: Path, verb: str) -> dict[str, object]:
    """Run a verb of the table; the one answer as JSON."""
    words = [*VERBS[verb], *where(root), "--threads", "1", "--json"]
    answer: dict[str, object] = json.loads(command(*words))
    if verb == "probe":
        (answer,) = answer["results"]  # type: ignore[misc]
    return answer
