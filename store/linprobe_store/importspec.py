"""What ``--split`` and ``--classes`` of the command ``import`` mean."""

from collections.abc import Sequence
from pathlib import Path

from linprobe_store.arrayfiles import member_names, open_array
from linprobe_store.errors import MismatchError, NotFoundError
from linprobe_store.importing import SplitSource

_FEATURES = ("features", "x", "X")
_LABELS = ("labels", "y")
_KEYS = "keys"
_CLASSES = "classes"
_HINT = "--split NAME=FILE.npz[:FEATURES,LABELS] or --split NAME=FEATURES.npy,LABELS.npy"


def parse_splits(texts: Sequence[str]) -> tuple[SplitSource, ...]:
    """Open the arrays that ``--split`` options name.

    Raises
    ------
    MismatchError : an option that cannot be read, or a split named twice.
    NotFoundError : no such file or array.
    """
    sources = tuple(_parse_split(text) for text in texts)
    names = [source.name for source in sources]
    if len(set(names)) != len(names):
        raise MismatchError(f"a split is given twice: {', '.join(names)}", hint="give each once")
    return sources


def read_classes(path: Path | None, sources: Sequence[SplitSource]) -> tuple[str, ...] | None:
    """Class names from a file, else from an array ``classes`` beside the features, else None.

    Raises
    ------
    NotFoundError : no such file.
    """
    if path is not None:
        if not path.is_file():
            raise NotFoundError(f"{path}: no such file", hint="one class name a line, by label")
        return tuple(path.read_text(encoding="utf-8").splitlines())
    features = sources[0].features
    if features.member is None or _CLASSES not in member_names(features.path):
        return None
    names = open_array(features.path, _CLASSES)
    return tuple(str(name) for block in names.blocks(1 << 16) for name in block.astype(str))


def _parse_split(text: str) -> SplitSource:
    name, _, rest = text.partition("=")
    if not rest:
        raise MismatchError(f"--split {text!r}: expected NAME=FILE", hint=_HINT)
    if ".npz" in rest:
        return _parse_npz(name, rest)
    paths = rest.split(",")
    if len(paths) != 2:
        raise MismatchError(f"--split {text!r}: expected two .npy files", hint=_HINT)
    return SplitSource(name, open_array(Path(paths[0])), open_array(Path(paths[1])), None)


def _parse_npz(name: str, rest: str) -> SplitSource:
    stem, _, members = rest.rpartition(".npz")
    path = Path(f"{stem}.npz")
    there = member_names(path)
    if members:
        chosen = members.removeprefix(":").split(",")
        if len(chosen) != 2:
            raise MismatchError(f"--split {name}={rest}: expected FEATURES,LABELS", hint=_HINT)
    else:
        chosen = [_first(there, candidates, path) for candidates in (_FEATURES, _LABELS)]
    features, labels = (open_array(path, member) for member in chosen)
    has_keys = not members and _KEYS in there
    return SplitSource(name, features, labels, open_array(path, _KEYS) if has_keys else None)


def _first(there: Sequence[str], candidates: Sequence[str], path: Path) -> str:
    for candidate in candidates:
        if candidate in there:
            return candidate
    raise NotFoundError(
        f"{path}: no array called {' or '.join(candidates)}; it has {', '.join(there)}", hint=_HINT
    )
