"""The folder beside the output in which a dataset is packed, until one rename shows it.

::

    tmp-NAME.pack/plan                      digest of the plan that it belongs to
    tmp-NAME.pack/records/<split>-<i>.json  written after the tar that it describes
    tmp-NAME.pack/tars/<split>-<i>.tar      whole and synced
    tmp-NAME.pack/tmp-.../                  the finished layout, just before the rename

A shard is done when its record is there and its tar has the recorded size.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from linprobe.disk import (
    STAGING_PREFIX,
    Staging,
    make_folders,
    store_errors,
    sync_tree,
    write_atomic,
)
from linprobe.errors import PackError, StoreError
from linprobe.records import encode, read
from linprobe_extract.pack.plan import PlannedShard
from linprobe_extract.pack.shard import ShardRecord
from linprobe_extract.shards.card import CARD_NAME


class Workspace:
    """The folder in which the dataset of ``out`` is packed; :meth:`publish` alone writes there."""

    def __init__(self, out: Path) -> None:
        self.out = out.resolve()
        self._name = f"{self.out.name}.pack"
        self.folder = self.out.with_name(STAGING_PREFIX + self._name)

    @contextmanager
    def opened(self, plan_digest: str, *, restart: bool) -> Iterator[None]:
        """Hold the folder for this plan; what an earlier run of the same plan did is kept.

        PackError where it holds another plan's work and ``restart`` is not set; StoreError where
        another process packs here.
        """
        make_folders(self.out.parent)
        with Staging(self.out.parent, resume_as=self._name) as staging:
            earlier = self._earlier_plan()
            if earlier not in (None, plan_digest) and not restart:
                trouble = "holds unfinished packing of another source or of other options"
                hint = f"choose another --out, or --overwrite to drop it and replace {self.out}"
                raise PackError(f"{self.folder} {trouble}", hint=hint)
            if earlier != plan_digest:
                for name in ("records", "tars"):
                    shutil.rmtree(self.folder / name, ignore_errors=True)
            for leftover in self.folder.glob(f"{STAGING_PREFIX}*"):
                shutil.rmtree(leftover, ignore_errors=True)
            for half in self.folder.glob("*/.*"):
                half.unlink()
            write_atomic(self.folder / "plan", plan_digest.encode())
            for name in ("records", "tars"):
                make_folders(self.folder / name, below=self.folder)
            yield
            staging.drop()

    def tar_path(self, shard: PlannedShard | ShardRecord) -> Path:
        """Where the tar of a shard lies until the dataset is whole."""
        return self.folder / "tars" / f"{shard.split}-{shard.index}.tar"

    def load_record(self, shard: PlannedShard) -> ShardRecord | None:
        """What an earlier run recorded of a shard; None where it is not done."""
        path, hint = self._record_path(shard), f"remove {self.folder} and pack again"
        if not path.exists():
            return None
        record = read(ShardRecord, path, error=PackError, hint=hint)
        return record if has_size(self.tar_path(shard), record.bytes) else None

    def save_record(self, record: ShardRecord) -> None:
        """Mark a shard as done; its tar is there already."""
        write_atomic(self._record_path(record), encode(record))

    def publish(self, tree: Staging) -> None:
        """Show the finished tree in one rename, in place of what was there; else StoreError."""
        with store_errors(self.out):
            sync_tree(tree.path)  # a full disk is told before what was there is taken away
        with Staging(self.folder) as replaced:
            if self.out.exists():
                replaced.take(self.out)
            if not tree.publish(self.out):
                raise PackError(f"another process made {self.out} meanwhile", hint="run it again")

    def clear(self, plan_digest: str) -> None:
        """Remove what a run of this plan left when it was killed after showing its dataset."""
        if self.folder.exists() and self._earlier_plan() in (None, plan_digest):
            with (
                suppress(StoreError),  # another process packs here, or it cannot be removed
                Staging(self.out.parent, resume_as=self._name) as staging,
            ):
                staging.drop()

    def _earlier_plan(self) -> str | None:
        plan_file = self.folder / "plan"
        return plan_file.read_text() if plan_file.exists() else None

    def _record_path(self, shard: PlannedShard | ShardRecord) -> Path:
        return self.folder / "records" / f"{shard.split}-{shard.index}.json"


def check_output(out: Path) -> None:
    """Raise PackError unless ``out`` is a packed dataset, an empty folder or not there."""
    if out.is_dir():
        if any(out.iterdir()) and not (out / CARD_NAME).exists():
            hint = "choose another --out folder; --overwrite replaces only a packed dataset"
            raise PackError(f"{out} is not empty and holds no {CARD_NAME}", hint=hint)
    elif out.exists() or out.is_symlink():
        raise PackError(f"{out} is not a folder", hint="choose another --out folder")


def has_size(path: Path, n_bytes: int) -> bool:
    """Whether the file is there with that size."""
    try:
        return path.stat().st_size == n_bytes
    except OSError:
        return False
