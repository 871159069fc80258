"""TorchScript archives are data: the tensors are torch's own, and no code of theirs runs."""

import io
import os
import pickle
import random
import re
import struct
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from linprobe.errors import LinprobeError
from linprobe_extract.encoders import torchscript
from linprobe_extract.encoders.weights import read_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
_WRITTEN: list[str] = [""]
"""Where the code of an archive would write; a list, so that a test can say it."""


class _Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 4).half()
        self.norm = nn.BatchNorm1d(4)
        self.register_buffer("passing", torch.arange(2), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.norm(self.linear(x))
        return out


class _Model(nn.Module):
    """Everything that an attribute can be, of which only parameters and buffers are state."""

    maybe: torch.Tensor | None
    by_name: dict[str, torch.Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(_Inner(), nn.ReLU(), _Inner())
        self.same = self.blocks
        self.weight = nn.Parameter(torch.randn(5, 6))
        self.tied = self.weight
        self.listed = nn.ParameterList([nn.Parameter(torch.ones(2))])
        self.register_buffer("view", torch.randn(8, 9).t()[1:])
        self.register_buffer("nothing", None)
        self.register_buffer("empty", torch.empty(0, 3))
        self.register_buffer("flags", torch.tensor([True, False]))
        self.attribute = torch.arange(4)
        self.maybe, self.by_name, self.counts = torch.ones(3), {"a": torch.ones(1)}, [1, 70000, -3]
        self.kinds = ("text", 2.5, 10**12, None, torch.device("cpu"), complex(1, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.blocks(x) + self.attribute.sum()
        return out + torch.tensor([1.0, 2.0, 3.0, 4.0])


class _Writing(nn.Module):
    """Its ``__setstate__`` writes a file, which TorchScript can."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.path = path

    @torch.jit.export
    def __getstate__(self) -> tuple[torch.Tensor, str, bool]:
        return self.weight, self.path, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[torch.Tensor, str, bool]) -> None:
        self.weight, self.path, self.training = state  # type: ignore[assignment]
        torch.save(self.weight, self.path)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        torch.save(x, self.path)
        return x


def _saved(module: nn.Module, path: Path) -> Path:
    torch.jit.save(torch.jit.script(module), path)
    return path


def _rewritten(source: Path, target: Path, change: Callable[[str, bytes], bytes]) -> Path:
    """Copy an archive with the content of its entries changed."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for entry in old.infolist():
            name = entry.filename.partition("/")[2]
            new.writestr(f"archive/{name}", change(name, old.read(entry)))
    return target


def _same_as_torch(path: Path) -> None:
    expected = torch.jit.load(path, map_location="cpu").state_dict()  # type: ignore[no-untyped-call]
    state = read_checkpoint(path)
    assert state.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(state[name], tensor)
        assert (state[name].dtype, state[name].stride()) == (tensor.dtype, tensor.stride())


def test_an_archive_gives_the_state_that_torch_gives(tmp_path: Path) -> None:
    path = _saved(_Model(), tmp_path / "model.pt")
    state = read_checkpoint(path)

    _same_as_torch(path)
    assert state["tied"].data_ptr() == state["weight"].data_ptr()
    assert state["same.0.linear.weight"].dtype == torch.float16
    assert not {"attribute", "maybe", "nothing", "kinds"} & state.keys()


def test_a_traced_archive_gives_the_state_that_torch_gives(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2))
    traced = torch.jit.trace(model.eval(), torch.randn(1, 3, 4, 4))  # type: ignore[no-untyped-call]
    torch.jit.save(traced, tmp_path / "traced.pt")

    _same_as_torch(tmp_path / "traced.pt")


def test_buffers_that_an_archive_does_not_declare_are_none_as_in_torch(tmp_path: Path) -> None:
    def without(name: str, content: bytes) -> bytes:
        return content.replace(b"  __buffers__", b"  # ") if name.endswith(".py") else content

    whole = _saved(_Inner(), tmp_path / "model.pt")
    _same_as_torch(_rewritten(whole, tmp_path / "old.pt", without))


@pytest.mark.parametrize("wrap", [lambda m: m, lambda m: nn.Sequential(nn.Identity(), m)])
def test_the_code_of_an_archive_does_not_run(
    tmp_path: Path, wrap: Callable[[nn.Module], nn.Module]
) -> None:
    proof = tmp_path / "written"
    path = _saved(wrap(_Writing(str(proof))), tmp_path / "code.pt")
    proof.unlink(missing_ok=True)

    with pytest.raises(LinprobeError, match=r"code\.pt .*_Writing would have to run its own code"):
        read_checkpoint(path)
    assert not proof.exists()


class _Hostile:
    """What a pickle asks to be called when it is read."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.proof}",)


@pytest.mark.parametrize("form", ["archive", "zip", "legacy", "plain"])
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_nothing_that_a_pickle_calls_is_called(tmp_path: Path, form: str, protocol: int) -> None:
    proof, path = tmp_path / "called", tmp_path / "code.pt"
    content = {"weight": torch.ones(2), "code": _Hostile(proof)}
    if form == "archive":
        hostile = pickle.dumps(_Hostile(proof), protocol=protocol)
        whole = _saved(_Inner(), tmp_path / "whole.pt")
        _rewritten(whole, path, lambda name, old: hostile if name == "data.pkl" else old)
    elif form == "plain":
        path.write_bytes(pickle.dumps(_Hostile(proof), protocol=protocol))
    else:
        is_zip = form == "zip"
        torch.save(content, path, pickle_protocol=protocol, _use_new_zipfile_serialization=is_zip)

    with pytest.raises(LinprobeError, match=r"code\.pt is not a readable checkpoint"):
        read_checkpoint(path)
    assert not proof.exists()


def _entries(path: Path, contents: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in contents.items():
            archive.writestr(f"archive/{name}", content)
    return path


_SHAPE = b"K\x01\x85K\x01\x85"


def _model_pickle(rest: bytes = b"") -> bytes:
    """A pickle of ``{"weight": tensor}`` in an ``M``, by hand."""
    storage = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\n"
    storage += b"X\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x01tQ"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\x00" + _SHAPE + b"\x89)tR"
    head = b"\x80\x02c__torch__\nM\nq\x00)\x81q\x01}(X\x06\x00\x00\x00weight" + tensor
    return head + rest + b"ub."


_CODE = (
    b'class M(Module):\n  __parameters__ = ["weight", ]\n  __buffers__ = []\n  weight : Tensor\n'
)
_HUGE = b"J\xff\xff\xff\x7f"


def _archive(path: Path, data: bytes, code: bytes = _CODE) -> Path:
    files = {"constants.pkl": b"\x80\x02).", "data.pkl": data, "code/__torch__.py": code}
    return _entries(path, files | {"data/0": bytes(4)})


def test_an_archive_made_by_hand_is_read(tmp_path: Path) -> None:
    state = read_checkpoint(_archive(tmp_path / "a.pt", _model_pickle()))

    assert {name: tensor.tolist() for name, tensor in state.items()} == {"weight": [0.0]}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (_model_pickle().replace(_SHAPE, _HUGE + b"\x85K\x01\x85"), "bounds"),
        (_model_pickle().replace(_SHAPE, _HUGE + b"\x85K\x00\x85"), "would take"),
        (_model_pickle().replace(b"FloatStorage", b"QUInt8Storage"), "stored as torch.QUInt8"),
        (_model_pickle().replace(b"_tensor_v2", b"_something"), "made by torch._utils"),
        (_model_pickle(rest=b"X\x01\x00\x00\x00xh\x01"), "more than 100 deep"),
        (b"\x80\x02" + b"]" * (3 << 20) + b".", "expected at most 2097152"),
        (
            # Hashing it would end the process: the stack of C is not that deep.
            _model_pickle().replace(b"X\x01\x00\x00\x000", b")" + b"\x85" * 500_000),
            "have no name in the archive",
        ),
        (b"\x80\x02\x8d" + b"\xff" * 7 + b"\x00.", "expected 72057594037927935 bytes"),
        (b"\x80\x02)r\xff\xff\xff\x7f.", "expected a model, found a tuple"),
        (b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00id\x85R.", "expected a model, found a _Call"),
        (b"\x80\x02cos\nsystem\n)\x81.", "is not a readable checkpoint"),
        (b"\x80\x02t.", "is not a readable checkpoint"),
    ],
)
def test_a_hostile_pickle_is_refused_in_bounded_memory(
    tmp_path: Path, data: bytes, message: str
) -> None:
    with pytest.raises(
        LinprobeError, match=rf"a\.pt is not a readable checkpoint: .*{message}|{message}"
    ):
        read_checkpoint(_archive(tmp_path / "a.pt", data))


def test_a_long_line_of_source_is_read_in_the_time_of_its_length(tmp_path: Path) -> None:
    code = b"class " + b"a" * (1 << 20) + b"\n" + _CODE  # its square would take hours

    assert read_checkpoint(_archive(tmp_path / "a.pt", _model_pickle(), code))


def test_a_source_that_is_named_in_many_ways_is_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torchscript, "_CLASS", counted := _CountedPattern(torchscript._CLASS))
    objects = b"".join(
        b"X\x01\x00\x00\x00%cc%b\nM\n)\x81}b" % (97 + i, name)
        for i, name in enumerate((b"a.b", b"a/b", b"a.b", b"a/b"))
    )
    data = _model_pickle(b"u(" + objects)
    path = _archive(tmp_path / "a.pt", data)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("archive/code/a/b.py", _CODE)

    assert read_checkpoint(path)
    assert counted.n == 2  # of __torch__, and of a.b


class _CountedPattern:
    def __init__(self, pattern: re.Pattern[str]) -> None:
        self._pattern = pattern
        self.n = 0

    def finditer(self, text: str) -> Iterator[re.Match[str]]:
        self.n += 1
        return self._pattern.finditer(text)


@pytest.mark.parametrize("name", ["data.pkl", "data/0"])
def test_an_entry_that_unpacks_to_more_than_it_says_is_not_unpacked(
    tmp_path: Path, name: str
) -> None:
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = b"".join(squeeze.compress(bytes(1 << 20)) for _ in range(200)) + squeeze.flush()
    path = tmp_path / "a.pt"
    files = {"constants.pkl": b"\x80\x02).", "data.pkl": _model_pickle()}
    _entries(path, {**files, "code/__torch__.py": _CODE, "data/0": bytes(4), name: bomb})
    with zipfile.ZipFile(path) as archive:
        at = archive.getinfo(f"archive/{name}").header_offset
    content = bytearray(path.read_bytes())
    entry = content.rfind(f"archive/{name}".encode()) - 46  # in the directory
    for place, method, size in ((at, 8, 22), (entry, 10, 24)):
        struct.pack_into("<H", content, place + method, zipfile.ZIP_DEFLATED)
        struct.pack_into("<I", content, place + size, 4)
    path.write_bytes(content)

    tracemalloc.start()
    with pytest.raises(LinprobeError, match=r"a\.pt is not a readable checkpoint"):
        read_checkpoint(path)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 16 << 20


def test_modules_that_double_at_every_level_are_refused(tmp_path: Path) -> None:
    made, name = b"c__torch__\nM\n)\x81}", b"X\x01\x00\x00\x00"
    data = made + b"b"
    for _ in range(40):  # each holds the one before it twice
        data = made + b"(" + name + b"a" + data + b"q\x00" + name + b"bh\x00ub"
    with pytest.raises(LinprobeError, match="100000 modules"):
        read_checkpoint(_archive(tmp_path / "a.pt", b"\x80\x02" + data + b"."))


@pytest.mark.parametrize("marker", [{}, {"constants.pkl": b""}])
def test_a_zip_bomb_is_refused_before_it_is_unpacked(
    tmp_path: Path, marker: dict[str, bytes]
) -> None:
    contents = marker | {"data.pkl": b"\x80\x02}.", "data/0": bytes(70 << 20)}
    path = _entries(tmp_path / "bomb.pt", contents, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 100_000

    with pytest.raises(LinprobeError, match=r"bomb\.pt .*it would unpack to 734003\d\d bytes"):
        read_checkpoint(path)


@pytest.mark.parametrize("size", [2**63, 99_000_000, 8])
def test_a_safetensors_header_that_is_no_header_is_refused(tmp_path: Path, size: int) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(size.to_bytes(8, "little") + b'{"a":[[[')

    with pytest.raises(LinprobeError, match=r"a\.safetensors is not a readable checkpoint"):
        read_checkpoint(path)


def test_a_view_that_repeats_a_small_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save({"weight": torch.zeros(1).expand(1 << 40)}, path)

    with pytest.raises(LinprobeError, match=r"a\.pt .*would take 4398046511104 bytes"):
        read_checkpoint(path)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.pt")

    with pytest.raises(LinprobeError, match=r"a\.pt .*not a file"):
        read_checkpoint(tmp_path / "a.pt")


@pytest.mark.parametrize("form", ["archive", "zip", "legacy", "safetensors"])
def test_a_damaged_checkpoint_is_read_or_refused_and_nothing_else(
    tmp_path: Path, form: str
) -> None:
    from safetensors.torch import save

    buffer = io.BytesIO()
    if form == "archive":
        torch.jit.save(torch.jit.script(_Inner()), buffer)
    elif form == "safetensors":
        buffer.write(save({"weight": torch.ones(2), "bias": torch.ones(3, 4)}))
    else:
        is_zip = form == "zip"
        torch.save(_Inner().state_dict(), buffer, _use_new_zipfile_serialization=is_zip)
    whole, rng = buffer.getvalue(), random.Random(0)
    path = tmp_path / ("a.safetensors" if form == "safetensors" else "a.pt")
    for _ in range(100):
        content = bytearray(whole)
        for _ in range(rng.randint(1, 4)):
            content[rng.randrange(len(content))] = rng.randrange(256)
        path.write_bytes(content[: rng.randint(1, 2 * len(content))])
        try:
            assert all(isinstance(t, torch.Tensor) for t in read_checkpoint(path).values())
        except LinprobeError as error:
            assert path.name in error.message  # noqa: PT017 - both outcomes are right
