"""The one command: ``linprobe VERB``.

A table of verbs; the stage that does the work is imported when its verb is called, so that help
and completion cost nothing.
"""

import os
import sys
from dataclasses import dataclass
from importlib import import_module
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from linprobe.errors import LinprobeError
from linprobe.terminal import emit, install, note, one_line


@dataclass(frozen=True)
class Verb:
    """A command and where it is."""

    words: str
    """What a person types after ``linprobe``."""
    home: str
    """``module:function``; Typer makes the options from the function's signature."""
    help: str
    """One line: the first of the function's docstring."""


_EXTRACT, _STORE, _TRAIN = "linprobe_extract.cli", "linprobe_store.cli", "linprobe_train.cli"
_PACK = "linprobe_extract.pack_cli"
VERBS = (
    Verb("pack", f"{_PACK}:pack", "Pack labelled images into tar shards with splits and a card."),
    Verb(
        "extract", f"{_EXTRACT}:extract", "Run a dataset through a frozen encoder into the store."
    ),
    Verb("probe", f"{_TRAIN}:probe", "Choose C on val, fit on train and val, score on test."),
    Verb("knn", f"{_TRAIN}:knn", "Classify test rows by their nearest training rows."),
    Verb("fewshot", f"{_TRAIN}:fewshot", "Train probes on few rows of each class."),
    Verb("compare", f"{_TRAIN}:compare", "Put results side by side, with paired tests."),
    Verb("report", f"{_TRAIN}:report", "Write an HTML page for each result."),
    Verb(
        "predict",
        "linprobe_train.predict_cli:predict",
        "Classify images, arrays or stored features with a saved probe.",
    ),
    Verb("models", f"{_EXTRACT}:models", "List the models that can be named."),
    Verb("datasets", f"{_PACK}:datasets", "List the datasets that pack knows by name."),
    Verb(
        "doctor",
        f"{_EXTRACT}:doctor",
        "Say what this machine has, lacks, and how fast it will extract.",
    ),
    Verb("store ls", f"{_STORE}:ls", "List encoders, datasets and splits."),
    Verb(
        "store show", f"{_STORE}:show", "Show everything known about an encoder and its datasets."
    ),
    Verb(
        "store verify",
        f"{_STORE}:verify",
        "Check every unit of a store; exit code 1 if one is damaged.",
    ),
    Verb("store gc", f"{_STORE}:gc", "Remove what killed writers left; running ones go on."),
    Verb(
        "store rm",
        f"{_STORE}:rm",
        "Remove an encoder, a dataset, a split, or the parts; asks first.",
    ),
    Verb(
        "store import", f"{_STORE}:import_", "Import features made elsewhere: .npy or .npz arrays."
    ),
    Verb(
        "store export",
        f"{_STORE}:export",
        "Export a split for other programs, features not normalised.",
    ),
    Verb("store copy", f"{_STORE}:copy", "Copy sealed splits, verified; run again, it resumes."),
)

_OF_EXTRACT = ("braceexpand", "huggingface_hub", "open_clip", "PIL", "simplejpeg", "timm", "torch")
EXTRAS = {
    "datasets": "hf",
    **dict.fromkeys(("dask", "distributed"), "cluster"),
    "pyarrow": "parquet",
    **dict.fromkeys(("jinja2", "matplotlib"), "report"),
    **dict.fromkeys((*_OF_EXTRACT, "torchvision", "webdataset"), "extract"),
    "transformers": "transformers",
}
"""The extra that brings a package, by the name that Python imports."""


_SETTINGS: Any = {
    "no_args_is_help": True,
    "pretty_exceptions_enable": False,
    "rich_markup_mode": None,
}


_UsageError: Any = typer.BadParameter.__base__  # of Typer's own click, or the package


class _LazyGroup(TyperGroup):
    """A group whose commands are names and help until one is called."""

    def resolve_command(self, ctx, args):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
        """Find the command that the words name, and import it."""
        name, command, rest = super().resolve_command(ctx, args)
        prefix = "" if ctx.parent is None else f"{self.name} "
        for verb in VERBS:
            if command is not None and verb.words == f"{prefix}{name}":
                command = _loaded(verb)
        return name, command, rest

    def invoke(self, ctx):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202 - Typer's own
        """Run the command that the words name; a name in a complaint of Typer's does not act."""
        try:
            return super().invoke(ctx)
        except _UsageError as error:  # which versions before 0.29 print as it is
            error.message = one_line(error.message)
            raise


def _loaded(verb: Verb):  # type: ignore[no-untyped-def]  # noqa: ANN202 - Typer's own class
    module, _, function = verb.home.partition(":")
    single = typer.Typer(add_completion=False, **_SETTINGS)
    single.command(verb.words.split()[-1])(getattr(import_module(module), function))
    return typer.main.get_command(single)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version  # not before it is asked: it costs as much as Typer

        emit(f"linprobe {version('linprobe')}")
        raise typer.Exit


app = typer.Typer(cls=_LazyGroup, **_SETTINGS)
_store = typer.Typer(cls=_LazyGroup, **_SETTINGS)
for _verb in VERBS:  # what stands for a command in help and completion, until it is called
    *_group, _name = _verb.words.split()
    (_store if _group else app).command(_name, help=_verb.help)(lambda: None)
app.add_typer(_store, name="store", help="Look after feature stores.")


@app.callback()
def linprobe(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Measure how good a frozen encoder's features are, by linear probes."""


def main() -> NoReturn:
    """Run the command; here alone an expected failure becomes two lines and exit code 1."""
    try:
        app()
    except LinprobeError as error:
        _fail(error.message, error.hint)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRAS:
            raise
        _fail(
            f"this needs the package {package}, which is not installed",
            install(EXTRAS[package]),
        )
    except BrokenPipeError:
        # The reader of our stdout (head, less) has left; keep the interpreter's last flush quiet.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    sys.exit(0)


def _fail(message: str, hint: str) -> NoReturn:
    note(f"error: {message}")
    note(f"hint: {hint}")
    sys.exit(1)
