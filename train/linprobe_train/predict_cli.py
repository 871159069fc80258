"""``linprobe predict``: a saved probe on images, arrays or stored features."""

from collections import Counter
from pathlib import Path
from typing import Annotated, Literal

import typer

from linprobe.errors import OptionError
from linprobe.machine import Device
from linprobe.options import (
    FEATURES,
    RESULTS,
    JsonOption,
    NoCsvGuardOption,
    OutOption,
    StoreOption,
)
from linprobe.terminal import emit, emit_json, lines_only, note

IGNORED = {"orientation_ignored": ": not turned as their EXIF says, as those of the dataset"}
"""What a remark of the encoder of images means to who predicts."""
PredictFormat = Literal["table", "csv", "jsonl"]


def predict(
    probe: Annotated[
        Path | None, typer.Argument(help="Folder of a result; default the newest in --out.")
    ] = None,
    images: Annotated[
        list[str] | None,
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
    no_csv_guard: NoCsvGuardOption = False,
    weights: Annotated[
        Path | None, typer.Option(help="Checkpoint of the encoder, where one was extracted with.")
    ] = None,
    device: Annotated[Device, typer.Option(help="Where images are encoded.")] = "auto",
    out: OutOption = RESULTS,
    as_json: JsonOption = False,
) -> None:
    """Classify images, arrays or stored features with a saved probe."""
    from linprobe_store.format.spec import SkippedSample
    from linprobe_store.image_encoder import ImageRequest
    from linprobe_train.results.on_images import encoder_of, stored_encoder_of
    from linprobe_train.results.preferred import preferred_folder
    from linprobe_train.results.saved_probe import load_probe
    from linprobe_train.show.text import predicted_lines, predictions_json
    from linprobe_train.tasks import predict as task

    if images and features:
        raise OptionError("--images and --features contradict each other", hint="pass one of them")
    if top < 1:
        raise OptionError(f"--top {top}; expected at least 1", hint="--top 5")
    if "" in (images or ()):
        raise OptionError("--images is empty", hint="--images FOLDER, a file or a shard")
    ways = {"model": model, "data": data}
    saved = load_probe(probe or preferred_folder(out, store, **ways, watch=lines_only))
    top = min(top, len(saved.classes))
    skipped: list[SkippedSample] = []
    notes: Counter[str] = Counter()
    if images:
        encoder = encoder_of(saved, store)
        paths, upright = tuple(map(Path, images)), saved.card.upright
        request = ImageRequest(encoder, saved.card.encoder, weights, device, paths, upright)
        blocks = task.predict_images(saved, request, top, skipped, notes)
    elif features is not None:
        blocks = task.predict_file(saved, features, top)
    else:
        stored = stored_encoder_of(saved, store, model, lines_only)
        dataset = stored.dataset(data or task.dataset_of(saved), lines_only)
        blocks = task.predict_rows(saved, dataset.split(split), top)
    if as_json:
        emit_json(predictions_json(blocks, saved.classes, skipped))
    else:
        for line in predicted_lines(form, blocks, saved.classes, top, guard=not no_csv_guard):
            emit(line)
    for sample in skipped:
        note(f"skipped: {sample.key} ({sample.reason})")
    for remark, count in notes.items():
        note(f"noted: {count} {remark}{IGNORED.get(remark, '')}")
