"""What a module of one's own is made of beside its weights: all that its numbers may depend on."""

import functools
import hashlib
import inspect
import re
import sysconfig
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch import nn

from linprobe_extract.encoders.weights import digest_tensors

_BOOKKEEPING = frozenset(vars(nn.Module())) - {"training"}
"""What torch keeps in every module; parameters, buffers, submodules and hooks are told by name."""
_HOOKS = ("_forward_pre_hooks", "_forward_hooks")
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def digest_state(module: nn.Module, code: Iterable[object]) -> str:
    """Sha256 over repr, buffers, plain attributes and whole source files, as 64 hex digits.

    The files are those of ``code`` and of every function among the attributes. Those of installed
    packages are left out, as their versions tell them; so are the values of objects of no known
    kind, of which only the class counts.
    """
    state = _State(module)
    unique = {id(each): each for each in (*code, *state.functions)}
    files = {digest for each in unique.values() if (digest := _digest_file(each))}
    content = (_ADDRESS.sub("", repr(module)), state.modules, sorted(files))
    return hashlib.sha256(repr(content).encode()).hexdigest()


class _State:
    """Modules as nested tuples of texts, the same in every process."""

    def __init__(self, module: nn.Module) -> None:
        self.functions: list[object] = []
        self._seen: dict[int, tuple[str, object]] = {}  # the object too: its id stays its own
        named = list(module.named_modules())
        for name, each in named:
            self._seen[id(each)] = (f"module {name}", each)
        self.modules = [(name, self._module(each)) for name, each in named]

    def _module(self, module: nn.Module) -> object:
        buffers = dict(module.named_buffers(recurse=False))
        plain = {name: x for name, x in vars(module).items() if name not in _BOOKKEEPING}
        hooks = [[*vars(module).get(name, {}).values()] for name in _HOOKS]
        return (
            _qualified(type(module)),
            [(name, _tensor(buffer)) for name, buffer in sorted(buffers.items())],
            [(name, self._value(plain[name])) for name in sorted(plain)],
            [[self._value(hook) for hook in each] for each in hooks],
        )

    def _value(self, value: object) -> object:
        if isinstance(value, torch.Tensor):
            return _tensor(value)
        if isinstance(value, np.generic):
            value = value.item()
        if value is None or isinstance(value, bool | int | float | complex | str | bytes | Enum):
            return (type(value).__name__, _ADDRESS.sub("", repr(value)))
        if isinstance(value, torch.dtype | type):
            return str(value)
        if isinstance(value, tuple):
            return ("tuple", [self._value(each) for each in value])
        if id(value) in self._seen:
            return self._seen[id(value)][0]
        self._seen[id(value)] = (f"seen {len(self._seen)}", value)
        return (_qualified(type(value)), self._content(value))

    def _content(self, value: object) -> object:
        if isinstance(value, list):
            return [self._value(each) for each in value]
        if isinstance(value, Mapping):
            return [(self._value(key), self._value(each)) for key, each in value.items()]
        if isinstance(value, set | frozenset):
            return sorted(repr(self._value(each)) for each in value)
        if isinstance(value, np.ndarray):
            data = value.tobytes() if not value.dtype.hasobject else repr(value.tolist()).encode()
            return (str(value.dtype), value.shape, hashlib.sha256(data).hexdigest())
        if isinstance(value, nn.Module):  # in a plain list: no state dict has its weights
            inside = list(value.named_modules())
            weights = [(n, _tensor(p)) for n, p in value.named_parameters()]
            for name, each in inside:
                self._seen.setdefault(id(each), (f"inside {name}", each))
            return (weights, [(name, self._module(each)) for name, each in inside])
        if isinstance(value, functools.partial):
            return [self._value(x) for x in (value.func, value.args, value.keywords)]
        if inspect.isroutine(value):
            return self._function(getattr(value, "__func__", value))
        if is_dataclass(value):
            self.functions.append(type(value))
            names = [field.name for field in fields(value)]
            return [(name, self._value(getattr(value, name, None))) for name in names]
        if isinstance(value, SimpleNamespace):
            return [(name, self._value(x)) for name, x in sorted(vars(value).items())]
        return ()

    def _function(self, function: object) -> object:
        self.functions.append(function)
        if not _digest_file(function):
            return _qualified(function)
        cells = getattr(function, "__closure__", None) or ()
        held = [cell.cell_contents for cell in cells if cell != type(cell)()]
        held += [getattr(function, name, None) for name in ("__defaults__", "__kwdefaults__")]
        code = getattr(function, "__code__", None)  # two lambdas of a line have other names in it
        place = (getattr(code, "co_firstlineno", 0), getattr(code, "co_names", ()))
        return (_qualified(function), place, [self._value(each) for each in held])


def _qualified(code: object) -> str:
    return f"{getattr(code, '__module__', '')}.{getattr(code, '__qualname__', '')}"


def _tensor(tensor: torch.Tensor) -> object:
    try:
        whole = tensor if tensor.layout == torch.strided else tensor.to_dense()
        return digest_tensors([("", whole)])
    except (RuntimeError, TypeError):  # of a kind without bytes, such as one on the meta device
        return (str(tensor.dtype), tuple(tensor.shape))


def _digest_file(code: object) -> str:
    """Sha256 of the file that ``code`` is from; "" for a notebook's, and an installed package's."""
    try:
        path = Path(inspect.getsourcefile(code) or "").resolve()  # type: ignore[arg-type]
        if _is_installed(path):
            return ""
        return hashlib.sha256(path.read_bytes().replace(b"\r\n", b"\n")).hexdigest()
    except (OSError, TypeError):
        return ""


def _is_installed(path: Path) -> bool:
    paths = sysconfig.get_paths()
    libraries = {Path(paths[name]).resolve() for name in ("stdlib", "platstdlib")}
    is_package = {"site-packages", "dist-packages"}.intersection(path.parts)
    return bool(is_package) or any(path.is_relative_to(folder) for folder in libraries)
