"""The commands ``linprobe store ...``: list, check, clean, import, export and copy stores."""

import re
from pathlib import Path
from typing import Annotated

import typer

from linprobe.errors import IntegrityError, NotFoundError
from linprobe.names import short_id
from linprobe.options import FEATURES, JsonOption, NoCsvGuardOption, StoreOption
from linprobe.records import plain
from linprobe.terminal import command, emit, emit_json, human_bytes, lines_only, note, one_line
from linprobe_store import reports
from linprobe_store.care import remove
from linprobe_store.care.copy import copy_store
from linprobe_store.care.export import export_split
from linprobe_store.care.importing import import_files
from linprobe_store.care.verify import verify_store
from linprobe_store.format.spec import DatasetNames, StorageDtype
from linprobe_store.handles.lookup import reading
from linprobe_store.handles.store import FeatureStore

_ENCODER_HELP = "Model name, slug, or beginning of the id."
EncoderOption = Annotated[str | None, typer.Option(help=_ENCODER_HELP)]
_URL = re.compile("[a-z][a-z0-9+.-]+:/")
"""How a path begins that was made of a URL."""
DatasetOption = Annotated[str | None, typer.Option(help="Name, or beginning of the id.")]


def _show(value: object, text: str, as_json: bool) -> None:
    if as_json:
        emit_json(plain(value))
    else:
        emit(text)


def _opened(store: Path) -> FeatureStore:
    """A store that is there; a NotFoundError for a folder that is not, and for a URL."""
    if _URL.match(str(store)):
        raise NotFoundError(
            f"{store}: expected a folder of this machine, found a URL",
            hint=f"copy it first: {command('store copy', 'URL', FEATURES)}",
        )
    with reading(store):
        is_folder = store.is_dir()
    if not is_folder:
        hint = f"fill it with '{command('extract')}' or '{command('store import')}', or name the "
        raise NotFoundError(f"{store}: no such folder", hint=f"{hint}store with --store DIR")
    return FeatureStore(store)


def ls(store: StoreOption = FEATURES, as_json: JsonOption = False) -> None:
    """List encoders, datasets and splits."""
    contents = reports.list_store(_opened(store).listing())
    if as_json or contents.entries or contents.broken:
        broken = reports.broken_json(contents.broken)
        value = {"store": store, "datasets": contents.entries, "broken": broken}
        _show(value, reports.listing_text(contents), as_json)
    else:
        note(f"{store}: empty; fill it with '{command('extract')}' or '{command('store import')}'")


def show(
    encoder: Annotated[str | None, typer.Argument(help=_ENCODER_HELP)] = None,
    store: StoreOption = FEATURES,
    as_json: JsonOption = False,
) -> None:
    """Show everything known about an encoder and its datasets."""
    stored = _opened(store).encoder(encoder, lines_only)
    contents = reports.list_encoder(stored)
    value = {
        "encoder_id": stored.encoder_id,
        "path": stored.path,
        "names": stored.names,
        "spec": stored.spec,
        "has_canary": stored.canary() is not None,
        "provenance": stored.provenance(),
        "datasets": [entry for entry in contents.entries if entry.dataset_id],
        "broken": reports.broken_json(contents.broken),
    }
    _show(value, reports.encoder_text(stored, contents), as_json)
    for item in contents.broken:
        note(item.line)


def verify(
    store: StoreOption = FEATURES,
    deep: Annotated[bool, typer.Option("--deep", help="Read and check every byte.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Check every unit of a store; exit code 1 if one is damaged."""
    units = tuple(verify_store(_opened(store), deep=deep))
    value = {"store": store, "deep": deep, "units": units}
    _show(value, reports.verification_text(units, store), as_json)
    if problems := [unit for unit in units if unit.problem]:
        clean = command("store gc", damaged=True, deep=deep, store=store)
        raise IntegrityError(
            f"{store}: {len(problems)} of {len(units)} units have a problem",
            hint="copy them again from where they are whole, or remove what is damaged with "
            f"'{clean}' and make it again",
        )


def gc(
    store: StoreOption = FEATURES,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    damaged: Annotated[
        bool, typer.Option("--damaged", help="Also remove what fails verify because of damage.")
    ] = False,
    deep: Annotated[bool, typer.Option("--deep", help="With --damaged: check every byte.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Remove what killed writers left; running ones go on."""
    opened = _opened(store)
    leftovers = list(remove.find_leftovers(opened, watch=lines_only))
    if damaged:
        leftovers += remove.find_damaged(opened, deep=deep, watch=lines_only)
    if not dry_run:
        remove.remove_leftovers(leftovers)
    if as_json:
        emit_json({"store": str(store), "dry_run": dry_run, "leftovers": plain(leftovers)})
        return
    for item in leftovers:
        emit(one_line(f"{item.path}  {human_bytes(item.bytes)}  {item.why}"))
    total = human_bytes(sum(item.bytes for item in leftovers))
    note(f"{'would remove' if dry_run else 'removed'} {len(leftovers)}, {total}")


def rm(
    encoder: Annotated[str, typer.Argument(help=_ENCODER_HELP)],
    store: StoreOption = FEATURES,
    dataset: DatasetOption = None,
    split: Annotated[str | None, typer.Option(help="Only this split.")] = None,
    parts: Annotated[bool, typer.Option("--parts", help="Only the parts; splits stay.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Remove an encoder, a dataset, a split, or the parts; asks first."""
    opened = _opened(store)
    path = remove.find_unit(opened, encoder, dataset, split, parts=parts, watch=lines_only)
    n_bytes = remove.folder_bytes(path)
    if not yes:
        question = one_line(f"remove {path} ({human_bytes(n_bytes)})?")
        typer.confirm(question, abort=True, err=True)
    remove.remove_folder(path)
    value = {"store": store, "removed": path, "bytes": n_bytes}
    _show(value, one_line(f"removed {path}  {human_bytes(n_bytes)}"), as_json)


def import_(
    split: Annotated[
        list[str],
        typer.Option(
            help="NAME=FILE.npz, NAME=FILE.npz:FEATURES,LABELS, or NAME=FEATURES.npy,LABELS.npy; "
            "give all splits in one command."
        ),
    ],
    encoder_name: Annotated[str, typer.Option(help="Name of the encoder.")],
    dataset: Annotated[str, typer.Option(help="Name of the dataset.")],
    store: StoreOption = FEATURES,
    tap: Annotated[str, typer.Option(help="Where the features come from.")] = "embedding",
    classes: Annotated[Path | None, typer.Option(help="Class names by label, one a line.")] = None,
    metric: Annotated[
        str | None, typer.Option(help="Headline metric of the dataset, such as mean_per_class.")
    ] = None,
    storage_dtype: Annotated[
        StorageDtype | None, typer.Option(help="Default: as the files.")
    ] = None,
    encoder_id: Annotated[
        str | None,
        typer.Option(
            help="Your word that features imported with the same one are of one encoder: probes of "
            "one dataset then take those of another."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Import features made elsewhere: .npy or .npz arrays."""
    opened = FeatureStore(store)
    listing = opened.listing()
    listing.tell(lines_only)
    before = listing.sound
    names = DatasetNames(dataset, metric)
    splits = import_files(
        opened,
        split,
        encoder_name,
        names,
        tap=tap,
        classes=classes,
        storage_dtype=storage_dtype,
        asserted_id=encoder_id,
    )
    own, kept, ours = splits[0].encoder_names, splits[0].dataset_names, splits[0].encoder_id
    is_new = all(encoder.encoder_id != ours for encoder in before)
    others = [encoder.short_id for encoder in before if is_new and encoder.names == own]
    if others:
        note(
            f"{own.model!r} is already the name of other features ({', '.join(others)}); "
            f"these are {short_id(ours)}; where they are of one encoder, import all with the same "
            "--encoder-id"
        )
    if kept.name != dataset:
        note(f"these rows are in the store already as {kept.name!r}, and keep that name")
    if metric not in (None, kept.metric):
        note(
            f"{kept.name!r} keeps the metric it was imported with ({kept.metric or 'none'}); "
            f"score by another with '{command('probe', metric=metric)}'"
        )
    rows = [{"name": s.name, "rows": s.n, "digest": s.digest, "path": s.path} for s in splits]
    value = {"encoder_id": ours, "dataset_id": splits[0].dataset_id, "splits": rows}
    _show(value, reports.imported_text(splits), as_json)


def export(
    out: Annotated[Path, typer.Argument(help="File to write: .npz, .npy (and .csv), .parquet.")],
    split: Annotated[str, typer.Option(help="Split, such as train.")],
    store: StoreOption = FEATURES,
    encoder: EncoderOption = None,
    dataset: DatasetOption = None,
    tap: Annotated[str, typer.Option(help="Which features.")] = "embedding",
    no_csv_guard: NoCsvGuardOption = False,
    as_json: JsonOption = False,
) -> None:
    """Export a split for other programs, features not normalised."""
    opened = _opened(store).split(split, encoder=encoder, dataset=dataset, watch=lines_only)
    paths = export_split(opened, tap, out, csv_guard=not no_csv_guard)
    n_bytes = sum(path.stat().st_size for path in paths)
    value = {"paths": paths, "rows": opened.n, "bytes": n_bytes}
    _show(value, "\n".join(one_line(str(path)) for path in paths), as_json)


def copy(
    source: Annotated[str, typer.Argument(help="Store: a folder, or a URL such as s3://...")],
    target: Annotated[str, typer.Argument(help="The same; made if it is not there.")],
    encoder: EncoderOption = None,
    dataset: DatasetOption = None,
    pack: Annotated[
        bool, typer.Option("--pack", help="Compress for a slow link; copy from there unpacks.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Copy sealed splits, verified; run again, it resumes."""
    copies = []
    ways = {"encoder": encoder, "dataset": dataset}
    for copied in copy_store(source, target, **ways, pack=pack, watch=lines_only):
        note(f"{copied.outcome}: {copied.folder}  {human_bytes(copied.bytes)}")
        copies.append(copied)
    n_new = sum(item.outcome == "copied" for item in copies)
    total = human_bytes(sum(item.bytes for item in copies))
    text = f"{n_new} splits copied ({total}), {len(copies) - n_new} there already: {target}"
    _show({"source": source, "target": target, "splits": copies}, text, as_json)
