"""Modules of one's own with their own transforms, by the name of a function that makes both."""

import copy
import hashlib
import inspect
import re
import sys
from collections.abc import Iterable, Mapping
from importlib import import_module
from importlib.metadata import entry_points, packages_distributions, version
from pathlib import Path
from typing import TYPE_CHECKING, cast

from linprobe.errors import LinprobeError
from linprobe.plugins import refused
from linprobe_extract.encoders.family import ModelRef, names_of

if TYPE_CHECKING:
    from torch import nn

    from linprobe.records import JsonValue
    from linprobe_extract.encoders.tower import LoadedTower
    from linprobe_extract.pixels.own import Transform

GROUP = "linprobe.modules"
"""Entry points of this group are functions that give (module, transform), called by their names."""
prefix = "py:"
libraries = ()
_PLACE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
_FACTORY = "a function without arguments that returns (module, transform)"


def names() -> Mapping[str, str]:
    """List the entry points of :data:`GROUP`, unimported."""
    return {f"{prefix}{entry.name}": "module" for entry in entry_points(group=GROUP)}


def resolve(name: str, weights: Path | None) -> ModelRef:
    """Take ``py:package.module:factory`` and the names of entry points, nothing imported."""
    place = name.removeprefix(prefix)
    if weights is not None:
        hint = "leave --weights out; the function that makes the module loads what it needs"
        raise LinprobeError(f"{name} loads its own weights", hint=hint)
    known = {entry.name for entry in entry_points(group=GROUP)}
    if place not in known and not _PLACE.fullmatch(place):
        listed = f", or one of {', '.join(sorted(known))}" if known else ""
        hint = f"--encoder package.module:factory, with {_FACTORY}{listed}"
        raise LinprobeError(f"no module of one's own is called {place!r}", hint=hint)
    return ModelRef("own", place, names_of(name, place))


def load(ref: ModelRef) -> "LoadedTower":
    """Call the function, and take what it makes."""
    factory, place = _factory(ref.architecture)
    try:
        made = factory()  # type: ignore[operator]
    except LinprobeError:
        raise
    except Exception as error:  # the code of another
        problem = f"{place} failed: {type(error).__name__}: {error}"
        raise LinprobeError(problem.splitlines()[0], hint=f"it is {_FACTORY}") from error
    if not isinstance(made, tuple) or len(made) != 2:
        problem = f"{place} gave a {type(made).__name__}, expected (module, transform)"
        raise LinprobeError(problem, hint=f"it is {_FACTORY}")
    return tower_of(*made, factory=factory)


def untrained(ref: ModelRef) -> "tuple[nn.Module, int]":
    """Make the module, whose weights are what they are, and tell the side of its input."""
    tower = load(ref)
    return tower.taps, tower.preprocess.image_size


def tower_of(module: object, transform: object, *, factory: object = None) -> "LoadedTower":
    """A tower of a module and its transform; a LinprobeError where they are none.

    Its identity is the weights, the code path (names and sources of the classes of the module, of
    the transform and of ``factory``, with the versions of their packages), the state beside the
    weights with the whole files of that code (:func:`.own_state.digest_state`), and the canary.
    """
    from torch import nn

    from linprobe_extract.encoders.families.own_state import digest_state
    from linprobe_extract.encoders.tower import LoadedTower, OwnTaps, effective_activation
    from linprobe_extract.encoders.weights import digest_weights
    from linprobe_extract.pixels.own import own_pixels

    if not isinstance(module, nn.Module) or not callable(transform):
        problem = f"expected a torch module and a function, found a {type(module).__name__} and a "
        raise LinprobeError(
            f"{problem}{type(transform).__name__}", hint="Encoder(module, transform)"
        )
    pixels = own_pixels(cast("Transform", transform))
    own = copy.deepcopy(module).float().eval()
    code: list[object] = [type(each) for each in own.modules()]
    steps = getattr(transform, "transforms", None)
    parts = steps if isinstance(steps, list | tuple) else []
    code += [_code_of(part) for part in (transform, *parts, factory) if part is not None]
    return LoadedTower(
        taps=OwnTaps(own),
        architecture=f"module:{_qualified(type(module))}",
        config={**_code_path(code), "state": digest_state(own, code)},
        activation=effective_activation(own),
        weights_sha256=digest_weights(own),
        preprocess=pixels,
        reference=None,
        may_cast=False,
    )


def _factory(place: str) -> tuple[object, str]:
    for entry in entry_points(group=GROUP):
        if entry.name == place:
            try:
                return entry.load(), entry.value
            except Exception as error:  # whatever the code of another package raises
                raise refused(entry, f"{type(error).__name__}: {error}") from error
    module, _, name = place.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:  # as `python -m` has it: a file beside the data is enough
        sys.path.append(here)
    try:
        value: object = import_module(module)
        for part in name.split("."):
            value = getattr(value, part)
    except Exception as error:  # whatever the code of another raises
        problem = f"cannot import {place}: {type(error).__name__}: {error}"
        hint = "package.module must be found from here: python -c 'import package.module'"
        raise LinprobeError(problem.splitlines()[0], hint=hint) from error
    if not callable(value):
        raise LinprobeError(f"{place} is a {type(value).__name__}", hint=f"name {_FACTORY}")
    return value, place


def _code_of(part: object) -> object:
    """What has a name and a source: a function, or the class of an object."""
    is_code = inspect.isclass(part) or inspect.isroutine(part)
    return part if is_code else type(part)


def _qualified(code: object) -> str:
    module = getattr(code, "__module__", "")
    return f"{module}.{getattr(code, '__qualname__', type(code).__qualname__)}"


def _code_path(code: Iterable[object]) -> "dict[str, JsonValue]":
    """Sha256 of the source of each class and function, "" where there is none; and versions.

    torch's own are left out: as for every encoder, its version is recorded and not hashed.
    """
    sources: dict[str, JsonValue] = {}
    packages = set()
    for each in code:
        package = getattr(each, "__module__", "").partition(".")[0]
        if package != "torch":
            packages.add(package)
            try:
                source = inspect.getsource(each)  # type: ignore[arg-type]
            except (OSError, TypeError):
                source = ""
            digest = hashlib.sha256(source.encode()).hexdigest() if source else ""
            sources[_qualified(each)] = digest
    installed = packages_distributions()
    owners = {owner for package in packages for owner in installed.get(package, ())}
    versions: dict[str, JsonValue] = {name: version(name) for name in sorted(owners)}
    return {"sources": sources, "versions": versions}
