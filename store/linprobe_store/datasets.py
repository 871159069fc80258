"""A dataset in the store: its spec and its sealed splits, for one encoder."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from linprobe_store.errors import NotFoundError
from linprobe_store.layout import STAGING_PREFIX, short_id
from linprobe_store.spec import DatasetSpec
from linprobe_store.splits import Split, open_split

if TYPE_CHECKING:
    from linprobe_store.encoders import StoredEncoder


@dataclass(frozen=True)
class StoredDataset:
    """A dataset for which an encoder has sealed splits."""

    encoder: "StoredEncoder"
    """Encoder that made the features."""
    spec: DatasetSpec
    """Identity of the dataset."""
    name: str
    """What people call it; not hashed."""
    path: Path
    """Folder of the dataset."""

    @property
    def dataset_id(self) -> str:
        """Sha256 of the spec, 64 hex digits."""
        return self.spec.dataset_id

    @property
    def short_id(self) -> str:
        """First 12 hex digits of the id."""
        return short_id(self.dataset_id)

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the sealed splits, sorted; packed and damaged ones are among them."""
        return tuple(
            sorted(
                path.name
                for path in self.path.iterdir()
                if path.is_dir() and not path.name.startswith((STAGING_PREFIX, "."))
            )
        )

    def split(self, name: str) -> Split:
        """Open and verify a sealed split.

        Raises
        ------
        NotFoundError : it is not sealed.
        IntegrityError : it is damaged.
        """
        return open_split(self.encoder, self, self.split_path(name))

    def split_path(self, name: str) -> Path:
        """Folder of a sealed split, which may be damaged.

        Raises
        ------
        NotFoundError : there is none.
        """
        path = self.path / name
        if name.startswith((STAGING_PREFIX, ".")) or "/" in name or not path.is_dir():
            sealed = ", ".join(self.splits) or "none"
            raise NotFoundError(
                f"{self.path}: split {name!r} is not sealed",
                hint=f"sealed are: {sealed}; extract the rest with linprobe-extract run",
            )
        return path
