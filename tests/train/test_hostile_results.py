"""Results of strangers: any bytes, signed by themselves where they can be, and what reads them.

A reader gives the right value or refuses with the file's name, in bounded memory and time.
"""

import io
import json
import os
import shutil
import time
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from result_factories import FILES, asked, command, signed_again, where
from safetensors.numpy import load, save

from linprobe.disk import Staging
from linprobe.errors import DataError, LinprobeError, ResultError
from linprobe.records import JsonValue
from linprobe_store.format.checksums import digest_bytes
from linprobe_train.results.answers import Answer, Answers, read_result
from linprobe_train.results.collect import Collected, collect
from linprobe_train.results.result import ProbeResult, Result
from linprobe_train.results.saved_probe import load_probe
from linprobe_train.results.signed import sign
from linprobe_train.scores.predictions import parse_predictions
from linprobe_train.show.report import shards_of
from linprobe_train.show.text import answer_text, fewshot_text, knn_text
from linprobe_train.tasks.compare import compare
from linprobe_train.tasks.fewshot import FewshotResult
from linprobe_train.tasks.knn import KnnResult
from linprobe_train.tasks.predict import load_array


@contextmanager
def bounded(*, seconds: float = 10.0, n_bytes: int = 64 << 20) -> Iterator[None]:
    """Time and memory that a reader of a small file may take."""
    started = time.monotonic()
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < n_bytes
    finally:
        tracemalloc.stop()
    assert time.monotonic() - started < seconds


def refusal_of(reader: Callable[[], object]) -> LinprobeError | None:
    """What a reader refuses with; None where it gives a value. Nothing else may leave it."""
    try:
        with bounded():
            reader()
    except LinprobeError as error:
        return error
    return None


def read_all(folder: Path, *, name: str) -> bool:
    """Read a result in every way there is; whether one of its readers refused, naming the file."""
    readers: tuple[Callable[[], object], ...] = (
        lambda: read_result(folder),
        lambda: collect(folder.parent, [folder])[0].predictions(),
        lambda: load_probe(folder).predict(np.ones((2, 10), np.float32)),
    )
    refused = False
    for reader in readers:
        error = refusal_of(reader)
        assert error is None or (folder.name in error.message and error.hint)
        refused |= error is not None
    return refused


MUTATIONS = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.mark.parametrize("name", FILES)
@given(data=st.data())
@MUTATIONS
def test_any_change_of_any_file_is_refused_by_name(
    made: Collected, tmp_path: Path, name: str, data: st.DataObject
) -> None:
    folder = tmp_path / made.folder.name
    if not folder.exists():
        shutil.copytree(made.folder, folder)
    whole = (made.folder / name).read_bytes()
    start = data.draw(st.integers(0, len(whole)))
    stop = data.draw(st.integers(start, min(len(whole), start + 64)))
    mutated = whole[:start] + data.draw(st.binary(max_size=64)) + whole[stop:]
    (folder / name).write_bytes(mutated)
    try:
        refused = read_all(folder, name=name)
        same = mutated == whole or (
            name.endswith(".json")
            and name == "result.json"
            and read_result_or_none(folder) == made.result
        )
        assert refused or same
    finally:
        (folder / name).write_bytes(whole)


def read_result_or_none(folder: Path) -> ProbeResult | None:
    """The result, or None where it is refused."""
    try:
        return read_result(folder)
    except LinprobeError:
        return None


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text(
        st.characters(exclude_categories=["Cs"]), max_size=5), values, max_size=3),
    max_leaves=5,
)  # fmt: skip


def places(value: object, path: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
    """Every place in a JSON value."""
    inner: list[tuple[object, ...]] = []
    if isinstance(value, dict):
        inner = [p for name, item in value.items() for p in places(item, (*path, name))]
    elif isinstance(value, list):
        inner = [p for i, item in enumerate(value) for p in places(item, (*path, i))]
    return [path, *inner] if path else inner


def changed(content: dict[str, JsonValue], data: st.DataObject) -> dict[str, JsonValue]:
    """A JSON object with another value at one of its places, or without it."""
    content = json.loads(json.dumps(content))
    *way, last = data.draw(st.sampled_from(places(content)))
    inner: object = content
    for step in way:
        inner = inner[step]  # type: ignore[index]
    if data.draw(st.booleans()) and isinstance(inner, dict):
        del inner[last]
    else:
        inner[last] = data.draw(JSON_VALUES)  # type: ignore[index]
    return content


@pytest.mark.parametrize("name", ["result.json", "probe.json"])
@given(data=st.data())
@MUTATIONS
def test_a_forged_record_is_the_right_value_or_refused(
    made: Collected, tmp_path: Path, name: str, data: st.DataObject
) -> None:
    folder = tmp_path / made.folder.name
    if not folder.exists():
        shutil.copytree(made.folder, folder)
    whole = (made.folder / name).read_bytes()
    forged = signed_again(changed(json.loads(whole), data))
    (folder / name).write_bytes(forged)
    if name == "probe.json":
        (folder / "result.json").unlink(missing_ok=True)
    try:
        read_all(folder, name=name)
        if name == "result.json" and (seen := read_result_or_none(folder)) is not None:
            answer_text(Answer(seen, folder, fresh=False), folder)
            refusal_of(lambda: compare(collect(tmp_path, [folder])))
    finally:
        (folder / name).write_bytes(whole)


@pytest.mark.parametrize("verb", ["knn", "fewshot"])
@given(data=st.data())
@MUTATIONS
def test_a_forged_companion_is_the_right_value_or_refused(
    verb: str, companions: dict[str, Path], tmp_path: Path, data: st.DataObject
) -> None:
    kind: type[Result] = KnnResult if verb == "knn" else FewshotResult
    content = json.loads((companions[verb] / f"{verb}.json").read_bytes())
    folder = tmp_path / "answer"
    folder.mkdir(exist_ok=True)
    (folder / f"{verb}.json").write_bytes(signed_again(changed(content, data)))
    answers = Answers(tmp_path, kind, f"{verb}.json")
    if (error := refusal_of(lambda: answers.read(folder))) is not None:
        assert f"{verb}.json" in error.message
        return
    seen = answers.read(folder)
    assert seen is not None
    answer = Answer(seen, folder, fresh=False)
    if verb == "knn":
        knn_text(answer)  # type: ignore[arg-type]
    else:
        fewshot_text(answer, None)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def companions(made: Collected, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A k-NN and a few-shot answer."""
    root = tmp_path_factory.mktemp("companions")
    shutil.copytree(made.folder.parents[1] / "features", root / "features", symlinks=True)
    return {verb: Path(str(asked(root, verb)["folder"])) for verb in ("knn", "fewshot")}


def forged_probe(folder: Path, data: bytes, **fields: object) -> None:
    """A probe in a folder of a stranger, who signs whatever the arrays' file holds."""
    (folder / "result.json").unlink(missing_ok=True)
    card = json.loads((folder / "probe.json").read_text())
    body = {name: value for name, value in card.items() if name not in ("files", "digest")}
    (folder / "probe.json").write_bytes(sign({**body, **fields}, {"probe.safetensors": data}))
    (folder / "probe.safetensors").write_bytes(data)


def tensors(header: object, body: bytes = b"", *, size: int | None = None) -> bytes:
    """The bytes of a safetensors file."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if size is None else size).to_bytes(8, "little") + text + body


def entry(dtype: str, shape: list[int], start: int, stop: int) -> dict[str, object]:
    """An entry of the header."""
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


HOSTILE_TENSORS = {
    "nothing": b"",
    "a header of 2^63": tensors({}, size=1 << 63),
    "a header of 90 MB": tensors({}, size=90 << 20),
    "many tensors": tensors({f"t{i}": entry("F64", [0], 0, 0) for i in range(50_000)}),
    "deep": tensors(b'{"a":' + b"[" * 4000),
    "no JSON": tensors(b"\xff\xfe"),
    "half floats": tensors(
        {
            "coef": entry("F16", [6, 10], 0, 120),
            "intercept": entry("F64", [6], 120, 168),
            "fitted": entry("I64", [6], 168, 216),
        },
        bytes(216),
    ),
    "bfloat": tensors(
        {
            "coef": entry("BF16", [6, 10], 0, 120),
            "intercept": entry("F64", [6], 120, 168),
            "fitted": entry("I64", [6], 168, 216),
        },
        bytes(216),
    ),
    "a huge shape": tensors({"coef": entry("F64", [1 << 40, 1 << 20], 0, 8)}, bytes(8)),
    "a shape without rows": tensors(
        {
            "coef": entry("F64", [0, 1 << 62], 0, 0),
            "intercept": entry("F64", [0], 0, 0),
            "fitted": entry("I64", [0], 0, 0),
        }
    ),
    "a scalar": tensors(
        {
            "coef": entry("F64", [], 0, 8),
            "intercept": entry("F64", [], 8, 16),
            "fitted": entry("I64", [], 16, 24),
        },
        bytes(24),
    ),
}


@pytest.mark.parametrize("hostile", HOSTILE_TENSORS)
def test_hostile_tensors_are_refused(result: Path, hostile: str) -> None:
    forged_probe(result, HOSTILE_TENSORS[hostile])
    with bounded(), pytest.raises(ResultError, match=r"probe\.safetensors"):
        load_probe(result)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"fitted": np.array([0, 1, 2, 3, 4, 9])}, "of 6"),
        ({"fitted": np.array([0, 1, 2, 3, 4, -1])}, "ascending"),
        ({"fitted": np.array([0, 1, 2, 2, 3, 4])}, "ascending"),
        ({"intercept": np.full(6, np.inf)}, "finite"),
        ({"coef": np.zeros((5, 10))}, "coef"),
        ({"more": np.zeros(3)}, "found coef"),
    ],
)
def test_tensors_that_are_no_probe_are_refused(
    result: Path, change: dict[str, np.ndarray], words: str
) -> None:
    arrays = load((result / "probe.safetensors").read_bytes())
    forged_probe(result, save({**arrays, **change}))
    with pytest.raises(ResultError, match=words):
        load_probe(result)


@given(data=st.data())
@MUTATIONS
def test_mutated_tensors_of_a_stranger_are_a_probe_or_refused(
    made: Collected, tmp_path: Path, data: st.DataObject
) -> None:
    folder = tmp_path / "stranger"
    if not folder.exists():
        shutil.copytree(made.folder, folder)
    whole = (made.folder / "probe.safetensors").read_bytes()
    start = data.draw(st.integers(0, 300))
    mutated = whole[:start] + data.draw(st.binary(max_size=40)) + whole[start + 20 :]
    forged_probe(folder, data.draw(st.sampled_from([mutated, whole[:start]])))
    if (error := refusal_of(lambda: load_probe(folder))) is not None:
        assert "probe.safetensors" in error.message
        return
    assert np.isfinite(load_probe(folder).probe.coef).all()


def npz(**arrays: object) -> bytes:
    """The bytes of an archive of arrays; bytes are taken as the content of the ``.npy`` file."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, array in arrays.items():
            if not isinstance(array, bytes):
                inner = io.BytesIO()
                np.save(inner, np.asarray(array), allow_pickle=True)
                array = inner.getvalue()
            archive.writestr(f"{name}.npy", array)
    return stream.getvalue()


def npy(descr: str, shape: str, body: bytes = b"") -> bytes:
    """The bytes of an ``.npy`` file with any header."""
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + body


def sound_arrays() -> dict[str, object]:
    """Predictions of three rows of six classes."""
    return {
        "keys": np.array(["a", "b", "c"]),
        "labels": np.array([0, 1, 5]),
        "top": np.tile(np.arange(5), (3, 1)),
        "probability": np.full((3, 5), 0.2, np.float32),
        "label_probability": np.full(3, 0.2, np.float32),
    }


def deflated(**arrays: object) -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]
    return stream.getvalue()


HOSTILE_ARCHIVES = {
    "nothing": b"",
    "the end alone": b"PK\5\6" + bytes(18),
    "no zip": b"\x93NUMPY" * 100,
    "a bomb": deflated(**{**sound_arrays(), "top": np.zeros((1 << 20, 5), np.int64)}),
    "a missing array": npz(**{k: v for k, v in sound_arrays().items() if k != "top"}),
    "pickled": npz(**{**sound_arrays(), "keys": np.array([{}], dtype=object)}),
    "a huge shape": npz(**{**sound_arrays(), "top": npy("'<i8'", "(100000000000, 5)")}),
    "a product of 0": npz(**{**sound_arrays(), "top": npy("'<i8'", "(0, 99999999999)")}),
    "a negative shape": npz(**{**sound_arrays(), "top": npy("'<i8'", "(-1, 5)")}),
    "code in a header": npz(**{**sound_arrays(), "top": npy("__import__('os')", "(3,)")}),
    "a deep header": npz(**{**sound_arrays(), "top": npy("(" * 5000, "(3,)")}),
    "fields": npz(**{**sound_arrays(), "top": np.zeros(3, [("a", "<i8")])}),
    "wide text": npz(**{**sound_arrays(), "keys": npy("'<U999999999'", "(3,)")}),
    "keys beyond Unicode": npz(
        **{**sound_arrays(), "keys": npy("'<U1'", "(3,)", b"\xff\xff\xff\x7f" * 3)}
    ),
    "a lone surrogate": npz(
        **{**sound_arrays(), "keys": npy("'<U1'", "(3,)", b"\x00\xd8\x00\x00" * 3)}
    ),
    "keys of bytes": npz(**{**sound_arrays(), "keys": np.array([b"\xff", b"b", b"c"])}),
    "a class out of range": npz(**{**sound_arrays(), "top": np.full((3, 5), 6)}),
    "a negative class": npz(**{**sound_arrays(), "top": np.full((3, 5), -1)}),
    "a label out of range": npz(**{**sound_arrays(), "labels": np.array([0, 1, 6])}),
    "a negative label": npz(**{**sound_arrays(), "labels": np.array([0, 1, -5])}),
    "labels as floats": npz(**{**sound_arrays(), "labels": np.zeros(3)}),
    "a NaN": npz(**{**sound_arrays(), "probability": np.full((3, 5), np.nan, np.float32)}),
    "an infinity": npz(**{**sound_arrays(), "label_probability": np.full(3, np.inf, np.float32)}),
    "rows that disagree": npz(**{**sound_arrays(), "labels": np.zeros(4, np.int64)}),
    "columns that disagree": npz(**{**sound_arrays(), "top": np.zeros((3, 4), np.int64)}),
}


@pytest.mark.parametrize("hostile", HOSTILE_ARCHIVES)
def test_hostile_predictions_are_refused(hostile: str) -> None:
    with bounded(n_bytes=16 << 20), pytest.raises((ValueError, ResultError)):
        parse_predictions(Path("p.npz"), HOSTILE_ARCHIVES[hostile]).check(3, 6)


@pytest.mark.parametrize("hostile", [*HOSTILE_ARCHIVES, "a fifo"])
def test_hostile_features_are_refused_by_name(hostile: str, tmp_path: Path) -> None:
    """Of whatever archive has no single matrix."""
    if hostile == "a missing array":
        return  # which leaves a single matrix
    path = tmp_path / "x.npz"
    if hostile == "a fifo":
        os.mkfifo(path)
    else:
        path.write_bytes(HOSTILE_ARCHIVES[hostile])
    with bounded(), pytest.raises(DataError, match=r"x\.npz"):
        load_array(path)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x93NUMPY",
        npy("'<f4'", "(100000000000, 512)"),
        npy("'<f4'", "(3, 512)", bytes(12)),
        npy("'|O'", "(1,)", b"cos\nsystem\n"),
        npy("__import__('os')", "(3,)"),
    ],
)
def test_a_hostile_array_is_refused_by_name(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    path.write_bytes(data)
    with bounded(), pytest.raises(DataError, match=r"x\.npy"):
        load_array(path)


def test_a_bomb_of_features_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("linprobe_train.tasks.predict.available_bytes", lambda: 1 << 20)
    path = tmp_path / "x.npz"
    path.write_bytes(deflated(features=np.zeros((1 << 10, 1 << 10), np.float32)))
    with bounded(n_bytes=1 << 21), pytest.raises(DataError, match=r"x\.npz"):
        load_array(path)


@pytest.mark.parametrize("name", ["../../etc", "/etc", "..", "a/b", "x" * 300, "\0"])
def test_the_name_of_a_dataset_leads_a_report_nowhere(name: str, result: Path) -> None:
    assert name in ("\0",) or shards_of(name) is None
    content = json.loads((result / "result.json").read_text())
    (result / "result.json").write_bytes(signed_again(content | {"dataset": name}))
    assert Path(command("report", result).strip()).is_file()


def test_a_report_of_too_many_classes_is_refused(result: Path) -> None:
    content = json.loads((result / "result.json").read_text())
    content["classes"] = [str(i) for i in range(300_000)]
    (result / "result.json").write_bytes(signed_again(content))
    with pytest.raises(ResultError, match="a report of 300000 classes"):
        command("report", result)


def test_sound_predictions_are_read() -> None:
    rows = parse_predictions(Path("p.npz"), npz(**sound_arrays()))
    rows.check(3, 6)
    assert rows.keys.tolist() == ["a", "b", "c"]


@pytest.mark.parametrize("hostile", ["a bomb", "a huge shape", "a NaN", "rows that disagree"])
def test_hostile_predictions_of_a_stranger_are_refused_by_name(
    result: Path, hostile: str, tmp_path: Path
) -> None:
    forge_predictions(result, HOSTILE_ARCHIVES[hostile])
    with bounded(), pytest.raises(ResultError, match=r"predictions\.npz"):
        command("compare", result, "--store", tmp_path / "features")


def forge_predictions(folder: Path, data: bytes) -> None:
    """Put other predictions into a result, and sign it."""
    (folder / "predictions.npz").write_bytes(data)
    content = json.loads((folder / "result.json").read_text())
    content["files"]["predictions.npz"] = vars(digest_bytes(data, strong=True))
    (folder / "result.json").write_bytes(signed_again(content))


@given(data=st.data())
@MUTATIONS
def test_mutated_predictions_are_right_or_refused(made: Collected, data: st.DataObject) -> None:
    whole = (made.folder / "predictions.npz").read_bytes()
    start = data.draw(st.integers(0, 200) | st.integers(len(whole) - 500, len(whole)))
    length = data.draw(st.integers(0, 30))
    mutated = whole[:start] + data.draw(st.binary(max_size=30)) + whole[start + length :]
    try:
        with bounded():
            rows = parse_predictions(Path("p.npz"), mutated)
            rows.check(120, 6)
    except (ValueError, ResultError):
        return
    assert rows.n == 120
    assert np.isfinite(rows.probability).all()


@pytest.mark.parametrize("name", ["../../other/predictions.npz", "/dev/zero", "a/b", "", ".", ".."])
def test_files_elsewhere_are_never_looked_at(result: Path, name: str) -> None:
    content = json.loads((result / "result.json").read_text())
    content["files"][name] = content["files"]["predictions.npz"]
    (result / "result.json").write_bytes(signed_again(content))
    with bounded(), pytest.raises(ResultError, match="among its files"):
        read_result(result)


@pytest.mark.parametrize("name", FILES)
def test_a_device_or_a_fifo_is_no_file_of_a_result(result: Path, name: str) -> None:
    for stand_in in ("fifo", "device", "sparse"):
        (result / name).unlink()
        if stand_in == "fifo":
            os.mkfifo(result / name)
        elif stand_in == "device":
            (result / name).symlink_to("/dev/zero")
        else:
            with (result / name).open("wb") as stream:
                stream.truncate(1 << 40)
        with bounded(), pytest.raises(ResultError, match=name.replace(".", r"\.")):
            read_result(result)


def test_a_stranger_may_not_name_a_file_of_a_terabyte(result: Path) -> None:
    content = json.loads((result / "result.json").read_text())
    content["files"]["predictions.npz"]["bytes"] = 1 << 40
    (result / "result.json").write_bytes(signed_again(content))
    with (result / "predictions.npz").open("wb") as stream:
        stream.truncate(1 << 40)
    with bounded(), pytest.raises(ResultError, match=r"predictions\.npz"):
        read_result(result)


@pytest.mark.parametrize(
    "field", [{"metric": "nothing"}, {"n": -1}, {"C": 0.123}], ids=lambda field: next(iter(field))
)
def test_numbers_that_contradict_each_other_are_refused(
    result: Path, field: dict[str, object], tmp_path: Path
) -> None:
    command("probe", "--grid", "0.1,1", *where(tmp_path))
    folder = next(path for path in result.parent.iterdir() if path != result)
    content = json.loads((folder / "result.json").read_text())
    if "metric" in field:
        content["question"] |= field
    elif "n" in field:
        content["test"] |= field
    else:
        content["sweep"] |= field
    (folder / "result.json").write_bytes(signed_again(content))
    with pytest.raises(ResultError, match=r"result\.json"):
        read_result(folder)


def test_a_staging_that_runs_is_never_a_result(result: Path) -> None:
    with Staging(result.parent) as staging:
        shutil.copytree(result, staging.path, dirs_exist_ok=True)
        assert [collected.folder for collected in collect(result.parent)] == [result]
