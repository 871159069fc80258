"""What stands beside the splits of a copy's target: FORMAT, specs, names, canaries, provenance.

Nothing is trusted for being there: what was cut or emptied is written again, and told.
"""

import hashlib
import zipfile
from io import BytesIO
from pathlib import Path
from posixpath import join

from linprobe.disk import Staging, refuse_links, remove_unit, write_atomic
from linprobe.errors import IntegrityError
from linprobe.records import canonical_json, plain
from linprobe.terminal import Progress, Watch
from linprobe_store.care.place import Place
from linprobe_store.care.remote_splits import SourceFolder, SourceSplit
from linprobe_store.format import layout
from linprobe_store.format.names import Names, parse_names, sign_names
from linprobe_store.format.spec import DatasetNames, EncoderSpec, Spec, parse_spec
from linprobe_store.handles.encoder import StoredEncoder
from linprobe_store.handles.folders import check_full_id
from linprobe_store.handles.lookup import folder_digits
from linprobe_store.handles.store import check_format_line
from linprobe_store.handles.witness import merge_provenance

_CANARY = f"{layout.CANARY_FOLDER}/canary.npz"


def complete_format(target: Place) -> None:
    """Write ``FORMAT`` where it is cut, or behind a URL missing; MismatchError for another one."""
    name = layout.FORMAT_FILE
    if target.size(name) is None and target.local is not None:
        return  # the store writes it, once it knows that nothing else is in the folder
    line = _content(target, name)
    if layout.FORMAT_LINE.startswith(line) and line != layout.FORMAT_LINE:
        target.write(name, layout.FORMAT_LINE)
    else:
        check_format_line(line.decode(errors="replace"), f"{target.label}/{name}")


def complete_folder(
    target: Place, parent: str, source: SourceFolder[Spec, Names], watch: Watch
) -> str | None:
    """Folder of an encoder or a dataset at the target, with its spec and names whole.

    Gives its path, or None where a local target has none yet: the store makes it. Raises a
    MismatchError where another id has the same first 12 digits.
    """
    own = folder_digits(Path(source.path))
    same = [n for n in target.folders(parent) if n[0] != "." and folder_digits(Path(n)) == own]
    if not same and target.local is not None:
        return None
    path = join(parent, same[0] if same else Path(source.path).name)
    is_encoder = isinstance(source.spec, EncoderSpec)
    spec_file = join(path, layout.ENCODER_FILE if is_encoder else layout.DATASET_FILE)
    spec, content = canonical_json(plain(source.spec)), _content(target, spec_file)
    if content != spec:
        try:
            parse_spec(type(source.spec), content, spec_file, own)
        except IntegrityError:
            _mend(target, spec_file, spec, bool(same), watch)
        else:  # sound, and of another id
            label = Path(target.label, path)
            check_full_id(label, *(_full_id(data) for data in (spec, content)))
    names_file = join(path, layout.NAMES_FILE)
    _complete_names(target, names_file, source.names, _full_id(spec), bool(same), watch)
    return path


def _complete_names(
    target: Place, file: str, names: Names, full_id: str, is_told: bool, watch: Watch
) -> None:
    """Keep the names that the target has, but for what only the source declares."""
    try:
        content = _content(target, file)
        stored = parse_names(type(names), content, f"{target.label}/{file}", full_id)
    except IntegrityError:
        _mend(target, file, sign_names(names, full_id), is_told, watch)
        return
    both: tuple[object, object] = stored, names
    match both:
        case DatasetNames() as own, DatasetNames() as given:
            completed = own.completed(given)
            if completed != own:
                _write(target, file, sign_names(completed, full_id))
            if completed.metric != own.metric:
                text = f"its metric at the target is now {completed.metric}, as in the source"
                watch(Progress(0, None, "splits", line=f"{own.name}: {text}"))


def complete_witness(target: Place, folder: str, split: SourceSplit, watch: Watch) -> None:
    """The canaries and the runs of an encoder, at a URL."""
    canary = _source_canary(split, watch)
    file = join(folder, _CANARY)
    if canary is not None and not _is_npz(_content(target, file)):
        _mend(target, file, canary, target.size(file) is not None, watch)
    file = join(folder, layout.PROVENANCE_FILE)
    runs, stored = (
        [line for line in content.splitlines(keepends=True) if line.endswith(b"\n")]
        for content in (_source_runs(split), _content(target, file))
    )
    there = frozenset(stored)
    if new := [run for run in runs if run not in there]:
        target.write(file, b"".join([*stored, *new]))


def complete_local_witness(encoder: StoredEncoder, split: SourceSplit, watch: Watch) -> None:
    """The canaries and the runs of an encoder, in a folder of this machine."""
    canary, folder = _source_canary(split, watch), encoder.path / layout.CANARY_FOLDER
    if canary is not None and not _is_npz(_content(Place(str(encoder.path)), _CANARY)):
        refuse_links(encoder.path)
        if folder.exists():
            tell_damage(watch, f"{encoder.path / _CANARY}: damaged")
            remove_unit(folder)
        with Staging(encoder.path) as staging:
            write_atomic(staging.path / Path(_CANARY).name, canary)
            staging.publish(folder)
    merge_provenance(encoder.path, _source_runs(split))


def _source_canary(split: SourceSplit, watch: Watch) -> bytes | None:
    file = join(split.encoder.path, _CANARY)
    if split.place.size(file) is None:
        return None
    content = split.place.read(file)
    if not _is_npz(content):
        text = f"{split.place.label}/{file}: damaged, left out; other machines are not compared"
        watch(Progress(0, None, "splits", line=text))
        return None
    return content


def _source_runs(split: SourceSplit) -> bytes:
    return _content(split.place, join(split.encoder.path, layout.PROVENANCE_FILE))


def _is_npz(content: bytes) -> bool:
    """Whether it is a whole archive as we write it: stored, not compressed, to any size."""
    try:
        with zipfile.ZipFile(BytesIO(content)) as archive:
            kinds = {member.compress_type for member in archive.infolist()}
            return kinds == {zipfile.ZIP_STORED} and archive.testzip() is None
    except (zipfile.BadZipFile, OSError, ValueError, EOFError, NotImplementedError, RuntimeError):
        return False


def _content(place: Place, name: str) -> bytes:
    """Content of a small file; nothing where there is none."""
    return b"" if place.size(name) is None else place.read(name)


def _full_id(spec: bytes) -> str:
    return hashlib.sha256(spec).hexdigest()


def _mend(target: Place, name: str, data: bytes, is_told: bool, watch: Watch) -> None:
    _write(target, name, data)
    if is_told:
        tell_damage(watch, f"{target.label}/{name}: missing or damaged")


def _write(target: Place, name: str, data: bytes) -> None:
    """Write a file of a folder that is there; one that was removed meanwhile is not made again."""
    if target.local is not None:
        refuse_links(*(target.local / name).parents[: name.count("/")])
        write_atomic(target.local / name, data)
    else:
        target.write(name, data)


def tell_damage(watch: Watch, damage: str) -> None:
    """Say that something of the target was damaged, and is copied again."""
    watch(Progress(0, None, "splits", line=f"{damage}; copied again"))
