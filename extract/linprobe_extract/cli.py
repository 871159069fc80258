"""``linprobe extract``, ``doctor`` and ``models``: images to stored features."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from linprobe.machine import Device
from linprobe.options import FEATURES, JsonOption, StoreOption
from linprobe.records import JsonValue, plain
from linprobe.terminal import emit, emit_json, note, watching
from linprobe_extract.encoders.family import EncoderChoice, Precision, PreprocessPath
from linprobe_store.format.spec import StorageDtype

LabelFrom = Literal["cls", "npy", "txt", "folder"]
"""Where labels come from, beside the fields of a ``.json``."""


def extract(
    model: Annotated[
        str | None,
        typer.Option(help="ViT-B/16, ARCH:TAG, hf-hub:ORG/REPO, timm:NAME, hf:ORG/NAME."),
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Folder of SPLIT/*.tar, its URL, or a known dataset.")
    ] = None,
    store: StoreOption = FEATURES,
    shards: Annotated[
        list[str] | None,
        typer.Option(help="SPLIT=PATTERN with braces, globs, URLs or pipe:, instead of --data."),
    ] = None,
    split: Annotated[
        list[str] | None, typer.Option(help="Only this split; may be repeated.")
    ] = None,
    encoder: Annotated[
        str | None,
        typer.Option(help="package.module:function, which gives your own (module, transform)."),
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="Local checkpoint (.pt, .safetensors), not a download.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="What to call the dataset.")] = None,
    label_key: Annotated[
        str | None, typer.Option(help="Take labels from this field of the samples' .json.")
    ] = None,
    label_from: Annotated[
        LabelFrom | None, typer.Option(help="Where labels come from, if not from a JSON field.")
    ] = None,
    classes: Annotated[
        Path | None, typer.Option(help="Class names, one a line, instead of classnames.txt.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Images a batch; default: 256 on CUDA, 16 on a CPU.")
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(help="Decode threads, -1 for all cores; default: from the cores available."),
    ] = None,
    device: Annotated[Device, typer.Option(help="Where the encoder runs.")] = "auto",
    precision: Annotated[
        Precision, typer.Option(help="auto: 16 bits where the device multiplies in them.")
    ] = "auto",
    preprocess: Annotated[
        PreprocessPath,
        typer.Option(help="exact: the model's own transform, bit for bit; nvjpeg: on the GPU."),
    ] = "fast",
    storage_dtype: Annotated[
        StorageDtype, typer.Option(help="float32 where features exceed float16.")
    ] = "float16",
    taps: Annotated[
        str | None,
        typer.Option(
            help="What to store: embedding, pre_projection, cls, patch_mean, block-N, last4; "
            "several with commas. Default: what the model gives."
        ),
    ] = None,
    max_skipped: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of a shard that may be skipped.")
    ] = 0.01,
    key_prefix: Annotated[
        Literal["shard"] | None,
        typer.Option(help="Put the shard's name before keys, where every shard counts anew."),
    ] = None,
    keep_parts: Annotated[
        bool, typer.Option("--keep-parts", help="Keep the parts of splits that are sealed.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Run a dataset through a frozen encoder into the store."""
    from linprobe_extract.pack.by_name import data_folder
    from linprobe_extract.run.ranks import ranks_from_environment
    from linprobe_extract.run.report import forecast_text, report_json, report_text, run_text
    from linprobe_extract.run.run import Extraction
    from linprobe_extract.shards.locate import plan_dataset

    if (model is None) == (encoder is None):
        raise typer.BadParameter("give --model, or --encoder package.module:function")
    model = model or f"py:{encoder}"
    if label_key is not None and label_from is not None:
        raise typer.BadParameter("give --label-key or --label-from, not both")
    if data is not None and shards:
        raise typer.BadParameter("give --data or --shards, not both")
    ranks = ranks_from_environment()
    plan = plan_dataset(
        data_folder(data, may_pack=not dry_run and ranks.world_size == 1),
        shards=shards or (),
        name=name,
        label_source=f"json:{label_key}" if label_key else label_from,
        classes_file=classes,
        key_prefix=key_prefix,
    )
    points = () if taps is None else tuple(name.strip() for name in taps.split(","))
    choice = EncoderChoice(model, weights, device, precision, preprocess, storage_dtype, points)
    settings = store, tuple(split or ()), batch_size, threads, max_skipped, keep_parts
    extraction = Extraction(choice, plan, *settings)
    if dry_run:
        forecast = extraction.forecast()
        _show(forecast_text(forecast), plain(forecast), as_json=as_json)
        return
    with watching(f"{model}: {plan.name}", visible=ranks.rank == 0) as watch:
        report = extraction.run(watch, until_signal=True)
    note(run_text(report.run))
    if ranks.world_size == 1 or (report.run.has_sealed if report.run else ranks.rank == 0):
        _show(report_text(report), report_json(report), as_json=as_json)
    report.check()
    raise typer.Exit(report.exit_code)


def _show(text: str, json: JsonValue, *, as_json: bool) -> None:
    if as_json:
        emit_json(json)
    else:
        emit(text)


def doctor(
    model: Annotated[str, typer.Option(help="The model to time.")] = "ViT-B/16",
    as_json: JsonOption = False,
) -> None:
    """Say what this machine has, lacks, and how fast it will extract."""
    from linprobe_extract.doctor import diagnose

    diagnosis = diagnose(model)
    if as_json:
        checks = {c.name: {"found": c.state, "advice": c.advice} for c in diagnosis.checks}
        rate = round(diagnosis.images_per_s, 2)
        emit_json({"checks": checks, "verdict": diagnosis.verdict, "images_per_s": rate})
    else:
        for check in diagnosis.checks:
            emit(f"{check.name:<9}{check.state}")
        emit(f"meaning  {diagnosis.verdict}")
        for advice in [c.advice for c in diagnosis.checks if c.advice] or ["nothing"]:
            emit(f"missing  {advice}")


def models(as_json: JsonOption = False) -> None:
    """List the models that can be named."""
    from linprobe_extract.encoders.family import known_models

    if as_json:
        emit_json({"models": plain(known_models())})
        return
    emit("\n".join(f"{name:<50} {origin}" for name, origin in known_models().items()))
