"""``linprobe extract``, ``doctor`` and ``models``: images to stored features."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from linprobe.terminal import emit, emit_json


class Device(StrEnum):
    """Where the encoder runs."""

    auto = "auto"
    cuda = "cuda"
    cpu = "cpu"


class LabelFrom(StrEnum):
    """Where labels come from."""

    cls = "cls"
    folder = "folder"


class Precision(StrEnum):
    """Arithmetic of the forward pass; auto is bf16 on CUDA and fp32 on a CPU."""

    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"


class PreprocessPath(StrEnum):
    """How image bytes become pixels."""

    fast = "fast"
    exact = "exact"


class StorageDtype(StrEnum):
    """Dtype of the stored rows."""

    float16 = "float16"
    float32 = "float32"


def extract(
    model: Annotated[str, typer.Option(help="ViT-B/16, ARCH:TAG, hf-hub:ORG/REPO, timm:NAME.")],
    data: Annotated[
        str | None, typer.Option(help="Folder of SPLIT/*.tar, its URL, or a known dataset.")
    ] = None,
    store: Annotated[Path, typer.Option(help="The feature store.")] = Path("features"),
    shards: Annotated[
        list[str] | None,
        typer.Option(help="SPLIT=PATTERN with braces, globs, URLs or pipe:, instead of --data."),
    ] = None,
    split: Annotated[
        list[str] | None, typer.Option(help="Only this split; may be repeated.")
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(help="Local checkpoint (.pt, .safetensors), not a download."),
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
        int | None, typer.Option(min=1, help="Decode threads; default: from the cores available.")
    ] = None,
    device: Annotated[Device, typer.Option(help="Where the encoder runs.")] = Device.auto,
    precision: Annotated[
        Precision, typer.Option(help="auto: bf16 on CUDA, fp32 on a CPU.")
    ] = Precision.auto,
    preprocess: Annotated[
        PreprocessPath, typer.Option(help="exact: the model's own transform, bit for bit.")
    ] = PreprocessPath.fast,
    storage_dtype: Annotated[
        StorageDtype, typer.Option(help="float32 where features exceed float16.")
    ] = StorageDtype.float16,
    max_skipped: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of a shard that may be skipped.")
    ] = 0.01,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Run a dataset through a frozen encoder into the store."""
    from linprobe_extract.run.run import RunRequest, run_extraction
    from linprobe_extract.shards.caches import EncoderRequest

    if label_key is not None and label_from is not None:
        raise typer.BadParameter("give --label-key or --label-from, not both")
    if data is not None and shards:
        raise typer.BadParameter("give --data or --shards, not both")

    request = RunRequest(
        encoder=EncoderRequest(
            model,
            None if weights is None else str(weights),
            device,
            precision,
            preprocess,
            storage_dtype,
        ),
        store=store,
        data=data,
        shards=tuple(shards or ()),
        splits=tuple(split or ()),
        name=name,
        label_source=f"json:{label_key}" if label_key else label_from,
        classes_file=classes,
        batch_size=batch_size,
        decode_threads=threads,
        max_skipped=max_skipped,
    )
    raise typer.Exit(run_extraction(request, dry_run=dry_run, as_json=as_json))


def doctor(
    model: Annotated[str, typer.Option(help="The model to time.")] = "ViT-B/16",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say what this machine has and how fast it will extract."""
    from linprobe_extract.doctor import diagnose

    diagnosis = diagnose(model)
    if as_json:
        emit_json(diagnosis.as_json())
    else:
        emit("\n".join(diagnosis.lines()))


def models() -> None:
    """List the models that can be named."""
    from linprobe_extract.encoders.family import known_models

    emit("\n".join(f"{model.name:<50} {model.origin}" for model in known_models()))
