"""TorchScript archives read as data: their tensors, without running any of their code.

An archive is a zip: ``data.pkl`` says which object holds what, ``data/N`` are the bytes of its
tensors, and ``code/`` is the source of its classes. To load it as torch does is to run a program:
``__setstate__`` of a class, and whatever the pickle calls. Here the pickle is parsed, never run:
a call in it stays a value, and of the source only the lists of parameters and buffers are read.
"""

import pickletools
import re
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pickle import UnpicklingError

import torch

MARKER = "/constants.pkl"
"""End of the name of an entry that every TorchScript archive has, and no other checkpoint."""
_MAX_TEXT = 2 << 20
"""Most bytes of ``data.pkl``, and of one source file; those of a ViT-g take 4 % of it."""
_MAX_MODULES, _MAX_DEPTH = 100_000, 100
"""Of a model whose modules may hold each other, and themselves."""
_REBUILD = "torch._utils._rebuild_tensor_v2"
_DTYPES = {
    "torch.DoubleStorage": torch.float64,
    "torch.FloatStorage": torch.float32,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
}
# Possessive, since a long line that is no class would take the square of its length.
_CLASS = re.compile(r"^class (\w++)(\(Module\))?+.*:\n((?:(?:  .*)?\n)*+)", re.MULTILINE)
_LIST = re.compile(r"^  __(?:parameters|buffers)__ = \[(.*)\]$", re.MULTILINE)


def read_torchscript(archive: zipfile.ZipFile) -> dict[str, torch.Tensor]:
    """Read the parameters and buffers of an archive by their dotted names.

    Parameters
    ----------
    archive : of ``torch.jit.save``.

    Returns
    -------
    What ``torch.jit.load(...).state_dict()`` holds, on the CPU.

    Raises
    ------
    UnpicklingError : the archive is damaged, or a class of it says by code what its tensors are.
    """
    return _Archive(archive).state_dict()


@dataclass(frozen=True)
class _Global:
    name: str
    """Dotted name of a class or function."""


@dataclass(frozen=True)
class _Call:
    function: str
    """Dotted name of what the pickle asks to call."""
    arguments: tuple[object, ...]
    """With what."""


@dataclass
class _Object:
    kind: str
    """Dotted name of its class."""
    state: object = None
    """Values by attribute, unless its class says otherwise by code."""


@dataclass(frozen=True)
class _Saved:
    content: object
    """What identifies the bytes of a tensor in the archive."""


@dataclass(frozen=True)
class _Class:
    is_module: bool
    """Whether its tensors belong to the model."""
    tensors: frozenset[str]
    """Names of its parameters and buffers."""
    has_code: bool
    """Whether its state is what ``__setstate__`` makes of it."""


class _Archive:
    """The parts of an archive, each read when it is asked for, and once."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        (marker,) = (name for name in archive.namelist() if name.endswith(MARKER))
        self._root = marker.removesuffix(MARKER)
        self._classes: dict[str, Mapping[str, _Class]] = {}
        self._storages: dict[tuple[str, torch.dtype], torch.Tensor] = {}

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Go through the modules, from the outermost."""
        model = _Machine().run(self._text("data.pkl"))
        state, places, n_modules = {}, [("", 0, model)], 0
        while places:
            prefix, depth, module = places.pop()
            n_modules += 1
            if depth > _MAX_DEPTH or n_modules > _MAX_MODULES:
                raise UnpicklingError(f"more than {_MAX_DEPTH} deep or {_MAX_MODULES} modules")
            kind, attributes = self._open(module)
            for name, value in attributes.items():
                if isinstance(value, _Object) and self._class(value.kind).is_module:
                    places.append((f"{prefix}{name}.", depth + 1, value))
                elif name in kind.tensors and isinstance(value, _Call):
                    state[f"{prefix}{name}"] = self._tensor(value)
        return state

    def _open(self, module: object) -> tuple[_Class, Mapping[str, object]]:
        if not isinstance(module, _Object):
            raise UnpicklingError(f"expected a model, found a {type(module).__name__}")
        kind = self._class(module.kind)
        if kind.has_code or not isinstance(module.state, Mapping):
            raise UnpicklingError(f"{module.kind} would have to run its own code to be read")
        return kind, module.state

    def _class(self, kind: str) -> _Class:
        dotted, _, name = kind.rpartition(".")
        source = dotted.replace(".", "/")  # both ways to write it are one file, read once
        if source not in self._classes:
            text = self._text(f"code/{source}.py").decode()
            self._classes[source] = {
                match[1]: _Class(
                    is_module=match[2] is not None,
                    tensors=frozenset(re.findall(r'"([^"]*)"', " ".join(_LIST.findall(match[3])))),
                    has_code="\n  def __setstate__(" in f"\n{match[3]}",
                )
                for match in _CLASS.finditer(text)
            }
        return self._classes[source][name]

    def _tensor(self, call: _Call) -> torch.Tensor:
        """The tensor of a call of torch's own function that rebuilds one."""
        if call.function != _REBUILD:
            raise UnpicklingError(f"a tensor is made by {call.function}, expected {_REBUILD}")
        saved, offset, size, stride, *_ = call.arguments
        if not isinstance(saved, _Saved) or not isinstance(saved.content, tuple):
            raise UnpicklingError(f"the bytes of a tensor are a {type(saved).__name__}")
        _, kind, key, *_ = saved.content
        if not isinstance(kind, _Global) or not isinstance(key, str):  # no other is looked up
            raise UnpicklingError("the bytes of a tensor have no name in the archive")
        if kind.name not in _DTYPES:
            raise UnpicklingError(f"tensors are stored as {kind.name}")
        # It checks the bounds, where the function of torch would make the storage larger.
        return self._storage(key, _DTYPES[kind.name]).as_strided(size, stride, offset)  # type: ignore[arg-type]

    def _storage(self, key: str, dtype: torch.dtype) -> torch.Tensor:
        if (key, dtype) not in self._storages:
            content = bytearray(self._read(self._archive.getinfo(f"{self._root}/data/{key}")))
            self._storages[key, dtype] = (
                torch.frombuffer(content, dtype=dtype) if content else torch.empty(0, dtype=dtype)
            )
        return self._storages[key, dtype]

    def _text(self, name: str) -> bytes:
        entry = self._archive.getinfo(f"{self._root}/{name}")
        if entry.file_size > _MAX_TEXT:
            raise UnpicklingError(
                f"{name} is {entry.file_size} bytes, expected at most {_MAX_TEXT}"
            )
        return self._read(entry)

    def _read(self, entry: zipfile.ZipInfo) -> bytes:
        with self._archive.open(entry) as stream:
            # Of so many bytes: without, zipfile unpacks all before it looks at the size.
            return stream.read(entry.file_size)


class _Machine:
    """Reads a pickle of torch's own writer; what it asks to import, make or call stays a value."""

    def __init__(self) -> None:
        self.stack: list[object] = []
        self._marks: list[int] = []
        self._memo: dict[object, object] = {}

    def run(self, data: bytes) -> object:
        """Do every instruction; the value that is left."""
        for opcode, argument, _ in pickletools.genops(data):
            self.step(opcode.name, argument)
        (value,) = self.stack
        return value

    def step(self, name: str, argument: object) -> None:
        """Do one instruction of those that torch writes."""
        if name in _PLAIN:
            self.stack.append(argument)
        elif name in _MADE:
            self.stack.append(_MADE[name]())
        elif name in _TUPLES:
            self.stack.append(tuple(self._take(_TUPLES[name])))
        elif name in ("BINPUT", "LONG_BINPUT"):
            self._memo[argument] = self.stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            self.stack.append(self._memo[argument])
        elif name == "GLOBAL":
            self.stack.append(_Global(str(argument).replace(" ", ".")))
        elif name == "MARK":
            self._marks.append(len(self.stack))
        elif name in ("APPENDS", "SETITEMS"):
            self._fill(self._take(None), self.stack[-1])
        elif name == "BINPERSID":
            self.stack.append(_Saved(self.stack.pop()))
        elif name in ("NEWOBJ", "REDUCE", "BUILD"):
            self._combine(name, *self._take(2))
        elif name not in ("PROTO", "STOP"):
            raise UnpicklingError(
                f"data.pkl has the instruction {name}, which torch does not write"
            )

    def _take(self, count: int | None) -> list[object]:
        """Take the last values off the stack; None: those since the mark."""
        start = self._marks.pop() if count is None else len(self.stack) - count
        if start < 0:
            raise UnpicklingError("data.pkl is damaged: a value is missing")
        taken = self.stack[start:]
        del self.stack[start:]
        return taken

    def _fill(self, items: list[object], container: object) -> None:
        if isinstance(container, list):
            container += items
        elif isinstance(container, dict):  # of attributes; what has other keys is no module
            pairs = zip(items[::2], items[1::2], strict=True)
            container |= {key: value for key, value in pairs if isinstance(key, str)}
        else:
            raise UnpicklingError(f"data.pkl is damaged: items for a {type(container).__name__}")

    def _combine(self, name: str, base: object, other: object) -> None:
        if name == "BUILD" and isinstance(base, _Object):
            base.state = other
            self.stack.append(base)
        elif name != "BUILD" and isinstance(base, _Global) and isinstance(other, tuple):
            self.stack.append(_Object(base.name) if name == "NEWOBJ" else _Call(base.name, other))
        else:
            raise UnpicklingError(f"data.pkl is damaged: {name} of a {type(base).__name__}")


_PLAIN = frozenset(("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE"))
_MADE: Mapping[str, Callable[[], object]] = {
    "NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_DICT": dict,
}  # fmt: skip
_TUPLES = {"TUPLE": None, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
