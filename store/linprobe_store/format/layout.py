"""Names and sizes of the format: the one place that knows where things lie in a store.

::

    <root>/FORMAT
    <root>/enc-<slug>-<12 hex>/encoder.json  names.json  provenance.jsonl  canary/
    <root>/enc-.../parts/part-<slug>-<12 hex>/COMMIT.json  data.zarr/
    <root>/enc-.../sets/ds-<slug>-<12 hex>/dataset.json  names.json
    <root>/enc-.../sets/ds-.../<split>/COMMIT.json  data.zarr/
"""

import re

from linprobe.disk import STAGING_PREFIX
from linprobe.errors import MismatchError
from linprobe.names import short_id, slugify
from linprobe.records import JsonValue

FORMAT_NAME = "linprobe-store"
FORMAT_VERSION = 3
FORMAT_FIELDS: dict[str, JsonValue] = {"format": FORMAT_NAME, "version": FORMAT_VERSION}

FORMAT_FILE = "FORMAT"
FORMAT_LINE = f"{FORMAT_NAME} {FORMAT_VERSION}\n".encode()
COMMIT_FILE = "COMMIT.json"
PACKED_FILE = "PACKED.json"
DATA_FOLDER = "data.zarr"
ENCODER_FILE = "encoder.json"
DATASET_FILE = "dataset.json"
NAMES_FILE = "names.json"
PROVENANCE_FILE = "provenance.jsonl"
CANARY_FOLDER = "canary"
PARTS_FOLDER = "parts"
SETS_FOLDER = "sets"

ENCODER_PREFIX = "enc-"
DATASET_PREFIX = "ds-"
PART_PREFIX = "part-"

INNER_ROWS = 2048
"""Rows of an inner chunk of features: 2048 rows of 2 bytes are whole 4 KiB pages for any d."""
INNER_BYTES = 1 << 20
"""Bytes of an inner chunk of the one-dimensional arrays."""
MAX_SHARD_FILE_BYTES = 256 << 20
"""Payload of one shard file at most; a larger array continues in the next file."""

MAX_METADATA_BYTES = 1 << 20
"""Bytes of a ``zarr.json`` at most; ours have some hundreds."""

MAX_ENCODER_BYTES = 1 << 20
"""Bytes of an ``encoder.json`` at most; those of timm have some thousands."""
MAX_NAMES_BYTES = 1 << 16
"""Bytes of a ``names.json`` at most: every line of a listing repeats the names."""

LABELS = "labels"
KEYS_BYTES = "keys_bytes"
KEYS_OFFSETS = "keys_offsets"
IMAGE_SHA256 = "image_sha256"
"""Of the array that says of which image each row is; a unit of imported features has none."""
FEATURES_PREFIX = "features_"
"""Of the name of the array that holds the features of a tap."""


def folder_named(prefix: str, name: str, full_id: str) -> str:
    """Folder name of an encoder, a dataset or a part: readable, and ending in its id's digits."""
    return f"{prefix}{slugify(name)}-{short_id(full_id)}"


def check_split_name(split: str) -> None:
    """Refuse, by a MismatchError, a split name that cannot be a folder."""
    if not re.fullmatch("[A-Za-z0-9_][A-Za-z0-9._-]*", split) or split.startswith(STAGING_PREFIX):
        raise MismatchError(
            f"a split cannot be called {split!r}",
            hint="use letters, digits, '.', '_' and '-', such as train, val or test",
        )
