"""The feature store: what extraction writes once and training reads for ever."""

from linprobe_store.canonical import JsonValue, canonical_json, digest_json
from linprobe_store.commits import PartCommit
from linprobe_store.datasets import StoredDataset
from linprobe_store.encoders import StoredEncoder
from linprobe_store.errors import (
    IntegrityError,
    LinprobeError,
    MismatchError,
    NotFoundError,
    StoreError,
)
from linprobe_store.image_features import ImageFeatures, ImageRequest, ImageRows
from linprobe_store.labelmap import LabelMap
from linprobe_store.layout import slugify
from linprobe_store.parts import PartWriter
from linprobe_store.provenance import Provenance
from linprobe_store.records import (
    EncoderNames,
    FeatureArray,
    FeatureBlock,
    LabelArray,
    SkippedSample,
)
from linprobe_store.spec import (
    KEY_VERSION,
    DatasetSpec,
    EncoderSpec,
    PreprocessSpec,
    ShardFingerprint,
    SplitSpec,
    StorageDtype,
    Tap,
)
from linprobe_store.splits import Split
from linprobe_store.store import FeatureStore
from linprobe_store.units import Keys

__all__ = [
    "KEY_VERSION",
    "DatasetSpec",
    "EncoderNames",
    "EncoderSpec",
    "FeatureArray",
    "FeatureBlock",
    "FeatureStore",
    "ImageFeatures",
    "ImageRequest",
    "ImageRows",
    "IntegrityError",
    "JsonValue",
    "Keys",
    "LabelArray",
    "LabelMap",
    "LinprobeError",
    "MismatchError",
    "NotFoundError",
    "PartCommit",
    "PartWriter",
    "PreprocessSpec",
    "Provenance",
    "ShardFingerprint",
    "SkippedSample",
    "Split",
    "SplitSpec",
    "StorageDtype",
    "StoreError",
    "StoredDataset",
    "StoredEncoder",
    "Tap",
    "canonical_json",
    "digest_json",
    "slugify",
]
