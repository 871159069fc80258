"""A whole run: shards in, sealed splits out, whatever happens on the way."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from encoder_factories import SmallModel, make_model
from linprobe_extract.claims import Ranks, Turns
from linprobe_extract.commands import RunRequest, run_extraction
from linprobe_extract.encoder import Encoder, load_encoder
from linprobe_extract.errors import ExtractError
from linprobe_extract.fingerprints import FingerprintCache
from linprobe_extract.loading import register
from linprobe_extract.memo import EncoderRequest
from linprobe_extract.models import resolve_model
from linprobe_extract.preprocess import preprocess
from linprobe_extract.report import RunReport
from linprobe_extract.run import Run, RunOptions
from linprobe_extract.shards import plan_dataset
from linprobe_extract.tar_stream import read_members
from linprobe_store import FeatureStore, LinprobeError, Split, StoreError
from tar_factories import image_bytes, labelled, tar_bytes, write_dataset


class SilentObserver:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.told_texts: list[str] = []
        self.n_encoded = 0

    def planned(self, n_shards: int, n_images: int | None) -> None: ...

    def encoded(self, n_images: int, limit: str) -> None:
        self.n_encoded += n_images

    def shard_done(self) -> None: ...

    def told(self, text: str) -> None:
        self.told_texts.append(text)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> SmallModel:
    return make_model(tmp_path_factory.mktemp("model"), "vit-quickgelu")


@pytest.fixture(scope="module")
def encoder(model: SmallModel) -> Encoder:
    reference = resolve_model(str(model.config), weights=model.weights)
    return load_encoder(reference, device="cpu")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "pets", splits={"train": [5, 7, 4], "test": [3]})


def run_once(
    encoder: Encoder,
    data: Path,
    store: Path,
    *,
    batch_size: int = 4,
    threads: int = 2,
    max_skipped: float = 0.0,
    turns: Turns | None = None,
    stop: threading.Event | None = None,
    observer: SilentObserver | None = None,
) -> RunReport:
    plan = plan_dataset(str(data))
    return Run(
        plan,
        encoder,
        register(encoder, store, batch_size=batch_size),
        FingerprintCache(store / ".cache" / "shards.jsonl"),
        RunOptions(tuple(s.name for s in plan.splits), batch_size, threads, max_skipped),
        turns or Turns(Ranks(0, 1, 0, 1, torchrun=False), None),
        observer or SilentObserver(),
        stop or threading.Event(),
    ).extract()


def sealed_bytes(store: Path) -> Mapping[str, bytes]:
    """Every file of the sealed splits, by path inside the store."""
    files = sorted(path for path in store.glob("enc-*/sets/**/*") if path.is_file())
    return {str(path.relative_to(store)): path.read_bytes() for path in files}


def split_of(store: Path, name: str) -> Split:
    return FeatureStore(store).split(name)


def test_features_are_the_encoders_own_in_tar_order(
    encoder: Encoder, data: Path, tmp_path: Path
) -> None:
    """Image by image, in batches of another size: equal to float16's precision."""
    report = run_once(encoder, data, tmp_path / "features")

    assert (report.n_shards, report.n_images, report.failed) == (4, 19, ())
    assert [split.name for split in report.sealed] == ["test", "train"]
    for split in report.sealed:
        shards = plan_dataset(str(data)).split(split.name).shards
        members = [member for shard in shards for member in read_members(shard)]
        images = [m for m in members if m.name.endswith(".jpg")]
        assert list(split.keys) == [m.name.removesuffix(".jpg") for m in images]
        assert split.labels.tolist() == [int(m.data) for m in members if m.name.endswith(".cls")]
        assert split.classes == ("cat", "dog")
        pixels = torch.zeros((len(images), 3, 32, 32), dtype=torch.uint8)
        for slot, image in zip(pixels, images, strict=True):
            preprocess(encoder.preprocess, image.data, slot)
        for tap, expected in encoder.encode(pixels).items():
            stored = np.asarray(split.array(tap), np.float32)
            np.testing.assert_allclose(stored, expected.numpy(), rtol=2e-3, atol=2e-3)


def test_a_shards_features_do_not_depend_on_threads_or_on_other_shards(
    encoder: Encoder, data: Path, tmp_path: Path
) -> None:
    run_once(encoder, data, tmp_path / "a", threads=1)
    run_once(encoder, data, tmp_path / "b", threads=4)

    assert sealed_bytes(tmp_path / "a") == sealed_bytes(tmp_path / "b")


def test_a_second_run_has_nothing_to_do(encoder: Encoder, data: Path, tmp_path: Path) -> None:
    run_once(encoder, data, tmp_path / "features")
    before = sealed_bytes(tmp_path / "features")

    report = run_once(encoder, data, tmp_path / "features")

    assert (report.n_shards, report.n_images, report.n_shards_missing) == (0, 0, 0)
    assert sealed_bytes(tmp_path / "features") == before


def test_what_cannot_be_decoded_is_skipped_with_its_key_and_changes_no_other_row(
    encoder: Encoder, tmp_path: Path
) -> None:
    whole = labelled({f"k{i}": i % 2 for i in range(6)})
    holed = [
        (name, data[:-200] if name == "k2.jpg" else b"<html>" if name == "k4.jpg" else data)
        for name, data in whole
    ]
    for folder, members in (("whole", whole), ("holed", holed)):
        write_dataset(tmp_path / folder, splits={"test": [2]})
        (tmp_path / folder / "train").mkdir()
        (tmp_path / folder / "train" / "0.tar").write_bytes(tar_bytes(members))

    run_once(encoder, tmp_path / "whole", tmp_path / "a")
    report = run_once(encoder, tmp_path / "holed", tmp_path / "b", max_skipped=0.5)

    full, holes = split_of(tmp_path / "a", "train"), split_of(tmp_path / "b", "train")
    kept = [0, 1, 3, 5]
    assert dict(report.skipped) == {"truncated": 1, "not_an_image": 1}
    assert list(holes.keys) == [f"k{i}" for i in kept]
    assert dict(holes.skipped_by_reason) == {"truncated": 1, "not_an_image": 1}
    for tap in ("embedding", "pre_projection"):
        np.testing.assert_array_equal(holes.array(tap), full.array(tap)[kept])


def test_too_many_skipped_fail_the_shard_by_name_and_leave_the_others(
    encoder: Encoder, data: Path, tmp_path: Path
) -> None:
    members = [*labelled({"a": 0, "b": 1}), ("c.jpg", b"<html>"), ("c.cls", b"0")]
    (data / "train" / "1.tar").write_bytes(tar_bytes(members))

    report = run_once(encoder, data, tmp_path / "features", max_skipped=0.3)

    (failed,) = report.failed
    assert "1 of 3 samples" in failed.message
    assert "c (not_an_image)" in failed.message
    assert "--max-skipped" in failed.hint
    assert report.sealed == ()
    assert report.n_shards_missing == 1


def test_a_cut_shard_fails_alone_and_is_finished_once_mended(
    encoder: Encoder, data: Path, tmp_path: Path
) -> None:
    run_once(encoder, data, tmp_path / "undisturbed")
    shard = data / "train" / "1.tar"
    whole = shard.read_bytes()
    shard.write_bytes(whole[: len(whole) // 2])

    report = run_once(encoder, data, tmp_path / "features")
    assert [failure.url for failure in report.failed] == [str(shard)]
    assert report.sealed == ()

    shard.write_bytes(whole)
    report = run_once(encoder, data, tmp_path / "features")
    assert (report.n_shards, report.failed) == (1, ())
    assert sealed_bytes(tmp_path / "features") == sealed_bytes(tmp_path / "undisturbed")


def test_out_of_memory_halves_the_batch_is_told_and_loses_nothing(
    encoder: Encoder, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_once(encoder, data, tmp_path / "small", batch_size=2)
    observer = SilentObserver()

    class Cramped:
        """An encoder whose device holds two images."""

        spec, names, preprocess = encoder.spec, encoder.names, encoder.preprocess
        image_size, device = encoder.image_size, encoder.device

        def encode(self, pixels: torch.Tensor) -> Mapping[str, torch.Tensor]:
            if len(pixels) > 3:
                raise torch.OutOfMemoryError
            return encoder.encode(pixels)

    report = run_once(Cramped(), data, tmp_path / "features", batch_size=8, observer=observer)

    assert report.batch_size == 2
    assert sum("batches of" in text for text in observer.told_texts) == 2
    assert sealed_bytes(tmp_path / "features") == sealed_bytes(tmp_path / "small")


def test_no_room_for_one_image_is_an_error(encoder: Encoder, data: Path, tmp_path: Path) -> None:
    class Full:
        spec, names, preprocess = encoder.spec, encoder.names, encoder.preprocess
        image_size, device = encoder.image_size, encoder.device

        def encode(self, pixels: torch.Tensor) -> Mapping[str, torch.Tensor]:
            if len(pixels) == 3:  # the canary images fit
                return encoder.encode(pixels)
            raise torch.OutOfMemoryError

    with pytest.raises(ExtractError, match="does not fit the memory of cpu"):
        run_once(Full(), data, tmp_path / "features", batch_size=2)


def test_stopping_begins_no_further_shard_and_the_next_run_finishes(
    encoder: Encoder, data: Path, tmp_path: Path
) -> None:
    run_once(encoder, data, tmp_path / "undisturbed")
    stop = threading.Event()

    class StopSoon(SilentObserver):
        def encoded(self, n_images: int, limit: str) -> None:
            stop.set()

    report = run_once(encoder, data, tmp_path / "features", stop=stop, observer=StopSoon())

    assert report.stopped
    assert 1 <= report.n_shards_missing < 4
    run_once(encoder, data, tmp_path / "features")
    assert sealed_bytes(tmp_path / "features") == sealed_bytes(tmp_path / "undisturbed")


def test_any_number_of_processes_gives_the_same_bytes(
    encoder: Encoder, data: Path, tmp_path: Path
) -> None:
    run_once(encoder, data, tmp_path / "one")

    for rank in range(3):
        turns = Turns(Ranks(rank, 3, 0, 3, torchrun=False), None)
        run_once(encoder, data, tmp_path / "three", turns=turns)

    assert sealed_bytes(tmp_path / "three") == sealed_bytes(tmp_path / "one")


def test_another_model_under_the_same_name_is_another_encoder(
    encoder: Encoder, data: Path, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    other = make_model(tmp_path / "other", "vit-quickgelu", seed=1)
    changed = load_encoder(resolve_model(str(other.config), weights=other.weights), device="cpu")
    run_once(encoder, data, tmp_path / "features")

    run_once(changed, data, tmp_path / "features")

    assert len(FeatureStore(tmp_path / "features").encoders()) == 2


def test_another_way_to_read_labels_needs_no_encoder_and_mixes_nothing(
    model: SmallModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same tars under another --label-key: the features stay, the labels are read again."""
    data = write_dataset(tmp_path / "pets", splits={"train": [2], "test": [2]})
    for split in ("train", "test"):
        members = [
            member
            for i in range(4)
            for member in (
                (f"{split}{i}.jpg", image_bytes(i)),
                (f"{split}{i}.cls", b"0"),
                (f"{split}{i}.json", json.dumps({"pet": ["cat", "dog"][i % 2]}).encode()),
            )
        ]
        (data / split / "0.tar").write_bytes(tar_bytes(members))
    store = tmp_path / "features"
    request = request_for(model, data, store)
    run_extraction(request, dry_run=False, as_json=False)
    monkeypatch.setattr("linprobe_extract.loading.load", lambda *_, **__: pytest.fail("loaded"))

    run_extraction(replace(request, label_source="json:pet"), dry_run=False, as_json=False)

    encoder = FeatureStore(store).encoder()
    by_source = {d.spec.label_source: d.split("train") for d in encoder.datasets()}
    assert by_source["cls"].labels.tolist() == [0, 0, 0, 0]
    assert by_source["json:pet"].labels.tolist() == [0, 1, 0, 1]
    np.testing.assert_array_equal(
        by_source["cls"].array("embedding"), by_source["json:pet"].array("embedding")
    )


def test_a_split_added_later_makes_a_whole_dataset_again(model: SmallModel, tmp_path: Path) -> None:
    """The dataset's id covers all its splits: what was sealed without the new one is another."""
    data = write_dataset(tmp_path / "pets", splits={"train": [3], "test": [2]})
    (data / "test").rename(tmp_path / "later")
    request = request_for(model, data, tmp_path / "f")
    run_extraction(request, dry_run=False, as_json=False)
    (tmp_path / "later").rename(data / "test")

    run_extraction(request, dry_run=False, as_json=False)

    found = {dataset.splits for dataset in FeatureStore(tmp_path / "f").encoder().datasets()}
    assert found == {("train",), ("test", "train")}


def test_an_edited_architecture_is_not_taken_for_the_one_before(data: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    small = make_model(tmp_path / "model", "vit")
    request = request_for(small, data, tmp_path / "f")
    run_extraction(request, dry_run=False, as_json=False)
    config = json.loads(small.config.read_text())
    small.config.write_text(json.dumps(config | {"quick_gelu": True}))

    run_extraction(request, dry_run=False, as_json=False)

    encoders = FeatureStore(tmp_path / "f").encoders()
    assert {encoder.spec.activation for encoder in encoders} == {"gelu", "quick_gelu"}


def test_a_full_disk_ends_the_run_at_once(
    encoder: Encoder, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("linprobe_store.unitwriter.UnitWriter.append", full)

    with pytest.raises(StoreError, match="No space left"):
        run_once(encoder, data, tmp_path / "features", batch_size=1)

    assert not list((tmp_path / "features").glob("enc-*/parts/*"))


def test_unnamed_classes_are_not_counted_in_labels_of_another_kind(
    model: SmallModel, tmp_path: Path
) -> None:
    data = write_dataset(tmp_path / "pets", splits={"train": [2], "test": [2]})
    (data / "classnames.txt").unlink()
    request = request_for(model, data, tmp_path / "f")
    run_extraction(request, dry_run=False, as_json=False)

    with pytest.raises(ExtractError, match="were stored as cls, not as json:y"):
        run_extraction(replace(request, label_source="json:y"), dry_run=False, as_json=False)
    with pytest.raises(ExtractError, match="all its splits are needed"):
        run_extraction(replace(request, splits=("test",)), dry_run=False, as_json=False)


# The command, as a person runs it.


def command(model: SmallModel, data: Path, store: Path, *more: str) -> list[str]:
    arguments = ["run", "--model", str(model.config), "--weights", str(model.weights)]
    arguments += ["--data", str(data), "--store", str(store), "--device", "cpu"]
    return [sys.executable, "-m", "linprobe_extract", *arguments, "--batch-size", "4", *more]


def finish(arguments: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        arguments, capture_output=True, text=True, env=os.environ | environment, check=False
    )


def test_the_command_says_where_the_features_are_and_then_that_nothing_is_left_to_do(
    model: SmallModel, data: Path, tmp_path: Path
) -> None:
    arguments = command(model, data, tmp_path / "features")

    first, second = finish(arguments), finish(arguments)

    assert first.returncode == second.returncode == 0, first.stderr
    assert "train    16 rows" in first.stdout
    assert "19 images, skipped none" in first.stderr
    assert second.stdout == first.stdout
    assert "nothing to do" in second.stderr


def test_a_finished_command_imports_no_torch(model: SmallModel, data: Path, tmp_path: Path) -> None:
    arguments = command(model, data, tmp_path / "features")
    finish(arguments)
    code = (
        "import sys; from linprobe_extract.cli import app; app(sys.argv[1:], standalone_mode=False)"
        "; assert 'torch' not in sys.modules"
    )

    again = finish([sys.executable, "-c", code, *arguments[3:]])

    assert again.returncode == 0, again.stderr
    assert "nothing to do" in again.stderr


def test_a_dry_run_counts_and_writes_nothing(model: SmallModel, data: Path, tmp_path: Path) -> None:
    dry = finish(command(model, data, tmp_path / "features", "--dry-run", "--json"))

    told = json.loads(dry.stdout)
    assert (told["shards"], told["images"], told["splits_sealed"]) == (4, 19, 0)
    assert told["bytes"] >= 2 * 19 * (24 + 64) * 2
    assert not (tmp_path / "features").exists()


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert process.poll() is None, "the run ended before it could be disturbed"
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "many"
    return write_dataset(folder, splits={"train": [6] * 40, "test": [3]})


@pytest.fixture(scope="module")
def undisturbed(
    encoder: Encoder, many: Path, tmp_path_factory: pytest.TempPathFactory
) -> Mapping[str, bytes]:
    """What a run over ``many`` that nothing happens to seals."""
    store = tmp_path_factory.mktemp("undisturbed") / "features"
    run_once(encoder, many, store)
    return sealed_bytes(store)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_run_ended_by_a_signal_is_finished_by_the_next(
    model: SmallModel,
    many: Path,
    undisturbed: Mapping[str, bytes],
    tmp_path: Path,
    number: signal.Signals,
) -> None:
    """The sealed store is byte for byte that of an undisturbed run."""
    store = tmp_path / "features"
    arguments = command(model, many, store)

    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    wait_for(lambda: len(list(store.glob("enc-*/parts/part-*"))) >= 2, process)
    process.send_signal(number)
    _, errors = process.communicate()

    if number == signal.SIGKILL:
        assert process.returncode == -number
    else:
        assert process.returncode == 128 + number, errors
        assert b"stopping" in errors
    assert 2 <= len(list(store.glob("enc-*/parts/part-*"))) < 41
    assert not list(store.glob("enc-*/sets/ds-*/train"))
    again = finish(arguments)
    assert again.returncode == 0, again.stderr
    assert "done before" in again.stderr
    assert sealed_bytes(store) == undisturbed


def test_two_processes_under_torchrun_share_the_work_and_give_the_same_bytes(
    model: SmallModel, many: Path, undisturbed: Mapping[str, bytes], tmp_path: Path
) -> None:
    alone = command(model, many, tmp_path / "two")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]

    both = finish([*torchrun, "--nproc-per-node", "2", *alone[1:]], OMP_NUM_THREADS="1")

    assert both.returncode == 0, both.stderr
    assert sealed_bytes(tmp_path / "two") == undisturbed
    shares = [int(line.split()[0]) for line in both.stderr.splitlines() if " shards" in line]
    assert sum(shares) == 41
    assert min(shares) > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r, _: replace(r, encoder=replace(r.encoder, model="ViT-B/61")), "ViT-B/61"),
        (lambda r, _: replace(r, data="/no/such/folder"), "no folder of shards and no known"),
        (lambda r, _: replace(r, splits=("val",)), "no split 'val'"),
        (lambda r, t: replace(r, store=t / "file" / "features"), "cannot write the store"),
        (lambda r, t: replace(r, encoder=replace(r.encoder, weights=str(t / "no.pt"))), "no.pt"),
    ],
)
def test_bad_input_is_told_with_a_hint_and_writes_nothing(
    model: SmallModel,
    data: Path,
    tmp_path: Path,
    change: Callable[[RunRequest, Path], RunRequest],
    message: str,
) -> None:
    (tmp_path / "file").write_text("not a folder")
    before = sorted(tmp_path.rglob("*"))
    good = request_for(model, data, tmp_path / "features")

    with pytest.raises(LinprobeError, match=message) as caught:
        run_extraction(change(good, tmp_path), dry_run=False, as_json=False)

    assert caught.value.hint
    assert sorted(tmp_path.rglob("*")) == before


def request_for(model: SmallModel, data: Path, store: Path) -> RunRequest:
    return RunRequest(
        encoder=EncoderRequest(
            str(model.config), str(model.weights), "cpu", "auto", "fast", "float16"
        ),
        store=store,
        data=str(data),
        shards=(),
        splits=(),
        name=None,
        label_source=None,
        classes_file=None,
        batch_size=4,
        decode_threads=None,
        max_skipped=0.01,
    )


def test_shards_without_labels_are_an_error_and_nothing_is_sealed(
    model: SmallModel, tmp_path: Path
) -> None:
    data = write_dataset(tmp_path / "pets", splits={"train": [2], "test": [2]})
    for split in ("train", "test"):
        members = [(f"{split}{i}.jpg", image_bytes(i)) for i in range(3)]
        (data / split / "0.tar").write_bytes(tar_bytes(members))

    with pytest.raises(ExtractError, match=r"no sample of .* has a label") as caught:
        run_extraction(request_for(model, data, tmp_path / "f"), dry_run=False, as_json=False)

    assert "--label-key" in caught.value.hint
    assert not sealed_bytes(tmp_path / "f")
    assert not list((tmp_path / "f").glob("enc-*/parts/*"))


def test_classes_without_names_are_counted(model: SmallModel, data: Path, tmp_path: Path) -> None:
    (data / "classnames.txt").unlink()

    run_extraction(request_for(model, data, tmp_path / "f"), dry_run=False, as_json=False)

    assert split_of(tmp_path / "f", "train").classes == ("0", "1")
