"""Other readers read what we write; what other writers leave, we map equal or refuse."""

import json
import math
import os
from pathlib import Path
from typing import Any, Literal

import google_crc32c
import numpy as np
import pytest
import tensorstore
import xarray
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from store_factories import encoder_spec, sealed_split, table_of
from zarr.codecs import BytesCodec, Crc32cCodec, ShardingCodec, TransposeCodec

from linprobe.errors import StoreError
from linprobe_store.arrays.mapping import map_array
from linprobe_store.format.zarr_v3 import ArrayGeometry, array_json, parse_geometry


@pytest.mark.parametrize("sizes", [(0,), (1,), (2047, 2), (2500, 0, 2500)])
def test_zarr_xarray_and_tensorstore_read_what_we_write(
    tmp_path: Path, sizes: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("linprobe_store.arrays.unit_writer.MAX_SHARD_FILE_BYTES", 2048 * 5 * 2)
    split, _ = sealed_split(tmp_path, sizes, encoder_spec(5, 3))
    data = split.path / "data.zarr"

    group = split.zarr()
    dataset = xarray.open_zarr(data, consolidated=False, chunks=None)

    assert dict(group.attrs)["linprobe"] == {
        "format": "linprobe-store",
        "version": 3,
        "kind": "split",
        "split": "train",
        "encoder_id": split.encoder_id,
        "dataset_id": split.dataset_id,
    }
    ours: dict[str, NDArray[Any]] = {
        "features_embedding": np.concatenate([np.empty((0, 5), "f2"), *split.maps("embedding")]),
        "features_pre_projection": np.asarray(split.rows(range(split.n), "pre_projection")),
        "labels": np.asarray(split.labels),
        "image_sha256": np.empty((0, 32), np.uint8),
    }
    if split.n:
        assert split.image_sha256 is not None
        ours["image_sha256"] = split.image_sha256
    else:
        del ours["image_sha256"]
    for name, expected in ours.items():
        theirs = tensorstore.open(
            {"driver": "zarr3", "kvstore": f"file://{data / name}/"}, read=True
        ).result()
        array = group[name]
        assert isinstance(array, zarr.Array)
        np.testing.assert_array_equal(array[...], expected)
        np.testing.assert_array_equal(dataset[name].to_numpy(), expected)
        np.testing.assert_array_equal(theirs.read().result(), expected)
    assert dataset["features_embedding"].dims == ("sample", "embedding_feature")
    assert dataset["labels"].dims == ("sample",)
    assert dataset["labels"].dtype == np.int64


def test_zarr_finds_every_chunk_stored(tmp_path: Path) -> None:
    split, _ = sealed_split(tmp_path, (4097,))
    group = split.zarr()

    for _, array in group.arrays():
        assert array.nchunks_initialized == array.nchunks


def _create(
    path: Path, shape: tuple[int, int], dtype: str, inner: int, outer: int
) -> "zarr.Array[Any]":
    """An array of zarr-python in the layout of the store."""
    return zarr.create_array(
        path,
        shape=shape,
        dtype=dtype,
        chunks=(outer, shape[1]),
        filters=None,
        compressors=None,
        serializer=_sharding((inner, shape[1])),
        config={"write_empty_chunks": True},
    )


def _sharding(
    chunk_shape: tuple[int, int],
    *,
    index_location: Literal["start", "end"] = "end",
    index_crc: bool = True,
) -> ShardingCodec:
    index_codecs: list[Any] = [BytesCodec(), *([Crc32cCodec()] if index_crc else [])]
    return ShardingCodec(
        chunk_shape=chunk_shape,
        codecs=[BytesCodec()],
        index_codecs=index_codecs,
        index_location=index_location,
    )


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(0, 30),
    d=st.integers(1, 4),
    inner=st.integers(1, 6),
    per_file=st.integers(1, 4),
    dtype=st.sampled_from(["float16", "float32", "int64"]),
    order=st.randoms(use_true_random=False),
)
def test_what_zarr_writes_in_our_layout_in_any_order_maps_equal(
    tmp_path_factory: pytest.TempPathFactory,
    n: int,
    d: int,
    inner: int,
    per_file: int,
    dtype: str,
    order: Any,  # noqa: ANN401 - hypothesis gives a Random
) -> None:
    path = tmp_path_factory.mktemp("zarr") / "a"
    array = _create(path, (n, d), dtype, inner, inner * per_file)
    expected = np.arange(n * d).reshape(n, d).astype(dtype)
    starts = list(range(0, n, inner))
    order.shuffle(starts)
    for start in starts:
        array[start : start + inner] = expected[start : start + inner]

    mapped = map_array(path, table_of(path))

    np.testing.assert_array_equal(mapped.whole(), expected)
    np.testing.assert_array_equal(mapped.take(np.arange(n)), expected)


@pytest.mark.parametrize("n", [1, 7, 8, 9, 24])
def test_what_tensorstore_writes_in_any_order_maps_equal(tmp_path: Path, n: int) -> None:
    geometry = ArrayGeometry((n, 3), np.dtype("<f2"), file_rows=8, inner_rows=2)
    expected = np.arange(n * 3).reshape(n, 3).astype(np.float16) + 1
    (tmp_path / "a").mkdir()
    (tmp_path / "a/zarr.json").write_bytes(array_json(geometry, "NaN", ("sample", "feature")))
    array = tensorstore.open(
        {"driver": "zarr3", "kvstore": f"file://{tmp_path}/a/"}, read=True, write=True
    ).result()
    for start in reversed(range(0, n, 2)):
        array[start : min(start + 2, n)].write(expected[start : start + 2]).result()

    np.testing.assert_array_equal(
        map_array(tmp_path / "a", table_of(tmp_path / "a")).whole(), expected
    )


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ({"serializer": BytesCodec()}, "codecs"),
        ({"compressors": [Crc32cCodec()], "serializer": BytesCodec()}, "codecs"),
        ({"compressors": "auto", "serializer": "auto"}, "codecs"),
        ({"chunks": (4, 1), "serializer": _sharding((4, 1))}, "chunk_grid and codecs"),
        ({"serializer": _sharding((4, 3), index_location="start")}, "codecs"),
        ({"serializer": _sharding((4, 3), index_crc=False)}, "codecs"),
        ({"serializer": BytesCodec(endian="big")}, "codecs"),
        ({"filters": [TransposeCodec(order=(1, 0))], "serializer": "auto"}, "codecs"),
        ({"dtype": "complex64"}, "data_type"),
        ({"shards": (8, 3), "compressors": "auto"}, "codecs"),
        ({"chunk_key_encoding": {"name": "v2", "separator": "."}}, "chunk_key_encoding"),
    ],
)
def test_what_cannot_be_mapped_is_refused(tmp_path: Path, how: dict[str, Any], why: str) -> None:
    settings = {
        "shape": (8, 3),
        "dtype": "float16",
        "chunks": (4, 3),
        "compressors": None,
        "serializer": "auto" if "shards" in how else _sharding((4, 3)),
    } | how
    array = zarr.create_array(tmp_path / "a", config={"write_empty_chunks": True}, **settings)
    array[...] = np.ones((8, 3))

    with pytest.raises(StoreError, match=why) as caught:
        map_array(tmp_path / "a", table_of(tmp_path / "a"))

    assert "import" in caught.value.hint


@pytest.mark.parametrize("shards", [None, (8, 3)])
@pytest.mark.parametrize("missing", [0, 1, 2])
def test_a_chunk_that_zarr_left_out_is_refused_not_filled(
    tmp_path: Path, shards: tuple[int, int] | None, missing: int
) -> None:
    """Zarr reads such an array without any error, as fill values."""
    array = zarr.create_array(
        tmp_path / "a",
        shape=(11, 3),
        dtype="float16",
        chunks=(4, 3),
        shards=shards,
        compressors=None,
        fill_value=0,
    )
    array[...] = np.where(np.arange(11)[:, None] // 4 == missing, 0, 1)

    assert (np.asarray(array[...])[4 * missing : 4 * missing + 3] == 0).all()
    with pytest.raises(StoreError):
        map_array(tmp_path / "a", table_of(tmp_path / "a"))


def test_files_are_no_longer_than_their_rows_need(tmp_path: Path) -> None:
    """An array in one file pads less than one row per chunk of 2048 rows."""
    split, _ = sealed_split(tmp_path, (4100,))

    geometry = split.arrays.features["embedding"].geometry

    assert geometry.n_files == 1
    assert geometry.stored_rows(0) - 4100 < math.ceil(4100 / 2048)


@pytest.mark.parametrize("entries", [(1, 0), (0, 0), (1, 1)])
def test_chunks_out_of_order_are_refused(tmp_path: Path, entries: tuple[int, int]) -> None:
    """Zarr allows any order; a map would then show rows that are not the array's."""
    split, _ = sealed_split(tmp_path, (4096,))
    folder = split.path / "data.zarr" / "features_embedding"
    data = (folder / "c/0/0").read_bytes()
    old = np.frombuffer(data[-36:-4], "<u8").reshape(2, 2)
    index = old[list(entries)].tobytes()
    crc = google_crc32c.value(index).to_bytes(4, "little")
    (folder / "c/0/0").write_bytes(data[:-36] + index + crc)

    array = zarr.open_array(folder, mode="r")
    chunks = np.split(np.asarray(split.array("embedding")), 2)
    np.testing.assert_array_equal(array[...], np.concatenate([chunks[i] for i in entries]))
    with pytest.raises(StoreError, match="back to back"):
        map_array(folder, table_of(folder))


@pytest.mark.parametrize("change", [-1, 1, -1000])
def test_a_file_of_another_size_is_refused_before_it_is_mapped(tmp_path: Path, change: int) -> None:
    """A map beyond the end of a file would kill the process that reads it."""
    array = _create(tmp_path / "a", (8, 200), "float16", 4, 8)
    array[...] = np.ones((8, 200))
    path = tmp_path / "a" / "c" / "0" / "0"
    os.truncate(path, path.stat().st_size + change)

    with pytest.raises(StoreError, match="bytes, found"):
        map_array(tmp_path / "a", table_of(tmp_path / "a"))


NAMES: tuple[object, ...] = (5, [1], ["a", "b"], [{}])
FILLS: tuple[object, ...] = (1 << 63, 0.5, "NaN", {}, None, True)
FLOAT_FILLS: tuple[object, ...] = ("x", {}, None)


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        *(("labels", "dimension_names", value) for value in NAMES),
        *(("labels", "fill_value", value) for value in FILLS),
        *(("features_embedding", "fill_value", value) for value in FLOAT_FILLS),
        ("labels", "attributes", 5),
        ("labels", "must", {"must_understand": True}),
        ("labels", "storage_transformers", [{}]),
    ],
)
def test_what_zarr_would_stumble_over_is_refused_by_file(
    tmp_path: Path, name: str, field: str, value: object
) -> None:
    split, _ = sealed_split(tmp_path, (3,), encoder_spec(2))
    metadata = split.path / "data.zarr" / name / "zarr.json"
    metadata.write_text(json.dumps({**json.loads(metadata.read_bytes()), field: value}))
    folder = metadata.parent

    with pytest.raises(StoreError, match=f"{name}/zarr.json: cannot be mapped: its {field} "):
        map_array(folder, table_of(folder))


def test_a_row_that_no_memory_holds_is_refused() -> None:
    row = ArrayGeometry((1, 1 << 33), np.dtype("f2"), 1, 1)

    with pytest.raises(StoreError, match="a size that can be"):
        parse_geometry(array_json(row, "NaN", ("sample", "feature")), "zarr.json")
