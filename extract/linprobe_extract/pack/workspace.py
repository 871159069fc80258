"""The hidden folder beside the output in which a dataset is packed, until one rename shows it.

::

    .NAME.partial/plan                      digest of the plan that it belongs to
    .NAME.partial/lock                      held while a process packs here
    .NAME.partial/records/<split>-<i>.json  written after the tar that it describes
    .NAME.partial/tars/<split>-<i>.tar      whole and synced
    .NAME.partial/tree/                     the finished layout, just before the rename

A shard is done when its record is there and its tar has the recorded size; everything else is
packed again. What is under ``NAME`` itself is therefore always a whole dataset.
"""

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import cast

from linprobe.disk import write_atomic
from linprobe.errors import PackError
from linprobe_extract.pack.plan import PlannedShard
from linprobe_extract.pack.shard import PackedImage, ShardRecord
from linprobe_extract.shards.card import CARD_NAME, DatasetCard, UnreadableImage


class Workspace:
    """The hidden folder of one output folder.

    Parameters
    ----------
    out : the output folder; nothing is written into it before :meth:`publish`.
    """

    def __init__(self, out: Path) -> None:
        self.out = out.resolve()
        self.folder = self.out.with_name(f".{self.out.name}.partial")
        self.tree = self.folder / "tree"

    @contextmanager
    def opened(self, plan_digest: str, *, restart: bool) -> Iterator[None]:
        """Hold the folder for this plan; what an earlier run of the same plan did is kept.

        Raises
        ------
        PackError : it cannot be created, another process packs here, or it holds the unfinished
            packing of another plan and ``restart`` is not set.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = (self.folder / "lock").open("w")
        except OSError as error:
            raise PackError(
                f"cannot write beside {self.out}: {error.strerror or error}",
                hint="choose an --out folder in a place that you may write to",
            ) from error
        with lock:
            self._acquire(lock.fileno())
            self._claim(plan_digest, restart=restart)
            yield

    def tar_path(self, split: str, index: int) -> Path:
        """Where the tar of a shard lies until the dataset is whole."""
        return self.folder / "tars" / f"{split}-{index}.tar"

    def place(self, split: str, index: int, target: Path) -> None:
        """Put a tar into the tree under its final name.

        A hard link keeps it among the finished tars too, so that a failure from here on costs no
        work; where links cannot be made it is moved.
        """
        tar = self.tar_path(split, index)
        try:
            target.hardlink_to(tar)
        except OSError:
            tar.rename(target)

    def load_record(self, shard: PlannedShard) -> ShardRecord | None:
        """What an earlier run recorded of a shard; None where it is not done."""
        try:
            text = self._record_path(shard.split, shard.index).read_bytes()
            size = self.tar_path(shard.split, shard.index).stat().st_size
        except FileNotFoundError:
            return None
        record = _record_of(json.loads(text.decode()))
        return record if size == record.bytes else None

    def save_record(self, record: ShardRecord) -> None:
        """Mark a shard as done; its tar is there already."""
        content = json.dumps(asdict(record), ensure_ascii=False)
        path = self._record_path(record.split, record.index)
        write_atomic(path, content.encode())

    def publish(self) -> None:
        """Show the finished tree under its name in one rename, in place of what was there."""
        if self.out.exists():
            self.out.rename(self.folder / "replaced")
        self.tree.rename(self.out)
        sync_folder(self.out.parent)
        shutil.rmtree(self.folder)

    def _acquire(self, descriptor: int) -> None:
        """Take the lock or say who has it."""
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise PackError(
                f"another process is packing into {self.out}",
                hint="wait for it to end, or choose another --out folder",
            ) from error

    def _claim(self, plan_digest: str, *, restart: bool) -> None:
        """Make the folder this plan's: keep its own earlier work, refuse another plan's."""
        plan_file = self.folder / "plan"
        found = plan_file.read_text() if plan_file.exists() else None
        if found not in (None, plan_digest) and not restart:
            raise PackError(
                f"{self.folder} holds the unfinished packing of another source or of other options",
                hint=f"choose another --out folder, or pass --overwrite to drop it and replace "
                f"{self.out}",
            )
        if found != plan_digest:
            for name in ("records", "tars"):
                shutil.rmtree(self.folder / name, ignore_errors=True)
        shutil.rmtree(self.tree, ignore_errors=True)
        for name in ("records", "tars"):
            (self.folder / name).mkdir(exist_ok=True)
        write_atomic(plan_file, plan_digest.encode())

    def _record_path(self, split: str, index: int) -> Path:
        """Where the record of a shard lies."""
        return self.folder / "records" / f"{split}-{index}.json"


def check_output(out: Path) -> None:
    """Refuse an output folder that holds anything but a packed dataset; an empty one is fine.

    Raises
    ------
    PackError : ``out`` is no folder, or is neither empty nor has a card.
    """
    if not out.exists() and not out.is_symlink():
        return
    if not out.is_dir():
        raise PackError(f"{out} is not a folder", hint="choose another --out folder")
    if any(out.iterdir()) and not (out / CARD_NAME).exists():
        raise PackError(
            f"{out} is not empty and holds no {CARD_NAME}",
            hint="choose another --out folder; --overwrite replaces only a packed dataset",
        )


def damaged_shards(out: Path, card: DatasetCard) -> list[str]:
    """Shards of the card whose file is gone or has another size."""
    return [
        f"{split}/{shard.name}"
        for split, content in card.splits.items()
        for shard in content.shards
        if not _has_size(out / split / shard.name, shard.bytes)
    ]


def sync_folder(folder: Path) -> None:
    """Write a folder's entries to disk, so that a rename in it survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _has_size(path: Path, n_bytes: int) -> bool:
    """Whether the file is there with that size."""
    try:
        return path.stat().st_size == n_bytes
    except OSError:
        return False


def _record_of(content: dict[str, object]) -> ShardRecord:
    """The record that parsed JSON, written by :meth:`Workspace.save_record`, describes."""
    return ShardRecord(
        split=cast("str", content["split"]),
        index=cast("int", content["index"]),
        bytes=cast("int", content["bytes"]),
        sha256=cast("str", content["sha256"]),
        kept=_images_of(content["kept"]),
        dropped=_images_of(content["dropped"]),
        unreadable=tuple(
            UnreadableImage(**image)
            for image in cast("list[dict[str, str]]", content["unreadable"])
        ),
    )


def _images_of(content: object) -> tuple[PackedImage, ...]:
    """The images that parsed JSON describes."""
    return tuple(
        PackedImage(
            key=cast("str", image["key"]),
            name=cast("str", image["name"]),
            labels=tuple(cast("list[int]", image["labels"])),
            sha256=cast("str", image["sha256"]),
        )
        for image in cast("list[dict[str, object]]", content)
    )
