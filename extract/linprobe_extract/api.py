"""What ``linprobe extract`` does, for Python programs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from linprobe.errors import ExtractError
from linprobe.machine import Device
from linprobe.terminal import Watch, ignore
from linprobe_extract.encoders.family import EncoderChoice, Precision, PreprocessPath
from linprobe_extract.pack.by_name import data_folder
from linprobe_extract.run.ranks import ranks_from_environment
from linprobe_extract.run.report import ExtractReport
from linprobe_extract.run.run import Extraction
from linprobe_extract.shards.locate import plan_dataset
from linprobe_extract.shards.types import Pipeline
from linprobe_store.format.spec import StorageDtype

if TYPE_CHECKING:
    from linprobe_extract.encoders.encoder import Encoder


def extract_features(
    model: "str | Encoder",
    data: str | Path | Pipeline | Mapping[str, Pipeline] | None = None,
    store: str | Path = "features",
    *,
    shards: Sequence[str] = (),
    splits: Sequence[str] = (),
    name: str | None = None,
    label_source: str | None = None,
    classes: str | Path | None = None,
    key_prefix: Literal["shard"] | None = None,
    weights: str | Path | None = None,
    device: Device = "auto",
    precision: Precision = "auto",
    preprocess: PreprocessPath = "fast",
    storage_dtype: StorageDtype = "float16",
    taps: Sequence[str] = (),
    batch_size: int | None = None,
    threads: int | None = None,
    max_skipped: float = 0.01,
    keep_parts: bool = False,
    watch: Watch = ignore,
) -> ExtractReport:
    """Run a dataset through a frozen encoder into a feature store, as ``linprobe extract`` does.

    What the store has already is not encoded again; the store is the same however often the call
    was interrupted. Under torchrun or srun, the processes share the shards.

    Parameters
    ----------
    model : name of a model (``"ViT-B/16"``, ``"ARCH:TAG"``, ``"timm:NAME"``), or a loaded encoder.
    data : folder of ``<split>/*.tar`` or its URL, or the name of a known dataset, which is packed
        into ``data/NAME`` when it is not there; None with ``shards``. Or pipelines of samples by
        split, such as a ``wds.WebDataset`` that does not decode; one alone is ``train``.
    store : folder of the feature store; made when it is not there.
    shards : ``"SPLIT=PATTERN"`` instead of ``data``, with braces, globs, URLs or ``pipe:``.
    splits : the splits to extract; empty means all.
    name : what to call the dataset; default is its card's name, else the folder's.
    label_source : ``"cls"``, ``"json:<field>"``, ``"npy"``, ``"txt"`` or ``"folder"``; default is
        what the card or CLIP_benchmark's ``dataset_type.txt`` says, else ``cls``.
    classes : text file of class names, one a line, by label; default is the card's, else
        ``classnames.txt`` beside the shards, else the labels are counted.
    key_prefix : ``"shard"`` puts the shard's name before keys, where every shard counts anew; part
        of the dataset's identity.
    weights : checkpoint in place of the model's own.
    device : where the encoder runs; ``"auto"`` is CUDA where there is one.
    precision : arithmetic of the forward pass; part of the encoder's identity.
    preprocess : ``"exact"`` (the model's own, bit for bit) or ``"fast"`` (JPEGs decode faster)
        or ``"nvjpeg"`` (on the GPU); part of the encoder's identity.
    storage_dtype : dtype of the stored rows; part of the encoder's identity.
    taps : points of the tower to store features of, such as ``("embedding", "last4")``; () for what
        the model gives; part of the encoder's identity.
    batch_size : images a batch; default 256 on CUDA, 16 on a CPU.
    threads : threads that decode, -1 for all cores that this process may use; default from these.
    max_skipped : greatest share of a shard's samples, in [0, 1], without readable image or label.
    keep_parts : keep the parts of sealed splits, which hold every row a second time.
    watch : sees the run as it goes, from any thread.

    Returns
    -------
    What was done, and the ``sealed`` splits: features (n, d) per tap as read-only memory maps.

    Raises
    ------
    ExtractError : the arguments do not fit together, shards failed (the others are stored), or an
        image does not fit the device's memory.
    LinprobeError : the model cannot be loaded or gives other features than it gave before, the
        dataset cannot be packed, the store cannot be written to.

    Examples
    --------
    >>> import torch
    >>> from torchvision.transforms import Compose, Resize, ToTensor
    >>> from linprobe import Encoder, extract_features
    >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 5))
    >>> encoder = Encoder(net, Compose([Resize((8, 8)), ToTensor()]), name="my-net")
    >>> report = extract_features(encoder, "data/pets", "my-features")
    >>> [(split.name, split.array("embedding").shape) for split in report.sealed]    # (n, d)
    [('test', (3, 5)), ('train', (4, 5))]
    """
    checkpoint = None if weights is None else Path(weights)
    model_name = model if isinstance(model, str) else ""
    choice = EncoderChoice(
        model_name, checkpoint, device, precision, preprocess, storage_dtype, tuple(taps)
    )
    if not isinstance(model, str) and choice != EncoderChoice(""):
        raise ExtractError(
            "a loaded encoder has its weights, device, precision, preprocessing and dtype already",
            hint="leave these arguments out, or give the name of the model",
        )
    is_alone = ranks_from_environment().world_size == 1
    source: str | Mapping[str, Pipeline] | None
    if data is None or isinstance(data, str | Path):
        source = data_folder(None if data is None else str(data), may_pack=is_alone)
    else:
        source = data if isinstance(data, Mapping) else {"train": data}
    plan = plan_dataset(
        source,
        shards=shards,
        name=name,
        label_source=label_source,
        classes_file=None if classes is None else Path(classes),
        key_prefix=key_prefix,
    )
    settings = Path(store), tuple(splits), batch_size, threads, max_skipped, keep_parts
    report = Extraction(choice if isinstance(model, str) else model, plan, *settings).run(watch)
    report.check()
    return report
