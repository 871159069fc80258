"""The feature store: a folder of encoders."""

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from linprobe.disk import make_folders, store_errors, write_atomic
from linprobe.errors import MismatchError, NotFoundError, StoreError
from linprobe.records import canonical_json, plain, read_bytes
from linprobe.terminal import Watch, command, ignore
from linprobe_store.format import layout
from linprobe_store.format.commit import check_version
from linprobe_store.format.names import sign_names
from linprobe_store.format.spec import EncoderNames, EncoderSpec, Tap
from linprobe_store.handles.encoder import StoredEncoder, open_encoder
from linprobe_store.handles.folders import check_full_id, make_folder, open_made
from linprobe_store.handles.lookup import Listing, choose, open_folders
from linprobe_store.handles.siblings import lacks, without_siblings
from linprobe_store.handles.split import Split

MAX_FORMAT_BYTES = 1 << 10
"""Of the one line of ``FORMAT``."""


class FeatureStore:
    """A feature store on disk.

    Parameters
    ----------
    root : its folder. One that does not exist opens as an empty store; the first write makes it.

    Raises
    ------
    MismatchError : the store is of another version of the format.
    StoreError : the folder holds something else.

    Examples
    --------
    >>> split = FeatureStore("features").split("train")
    >>> X, y = split.array("embedding"), split.labels    # (n, d) and (n,), read from maps
    >>> X.shape, X.dtype.name, y.shape
    ((180, 12), 'float16', (180,))
    """

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)
        line = _read_format_line(self.root / layout.FORMAT_FILE)
        if line is not None:
            check_format_line(line, str(self.root / layout.FORMAT_FILE))

    def __repr__(self) -> str:
        known = ", ".join(encoder.names.model for encoder in self.encoders())
        nothing = "no encoder" if self.root.exists() else "no such folder yet"
        return f"FeatureStore({str(self.root)!r}: {known or nothing})"

    def encoders(self) -> tuple[StoredEncoder, ...]:
        """All encoders, sorted by folder name; those that can be opened."""
        return self.listing().sound

    def listing(self) -> Listing[StoredEncoder]:
        """Its encoders, and what is among them that cannot be opened."""
        return open_folders(self.root, layout.ENCODER_PREFIX, "encoder", open_encoder)

    def encoder(
        self,
        query: str | None = None,
        watch: Watch = ignore,
        *,
        tap: str | None = None,
        data: Sequence[str] = (),
    ) -> StoredEncoder:
        """An encoder by its slug, its model name, the beginning of its id, or its folder name.

        Parameters
        ----------
        query : None means the only encoder of the store; one that an interrupted run left without
            a sealed split does not count beside others.
        watch : sees a line for every encoder that cannot be opened.
        tap : chooses among encoders of one name that differ in their taps alone: one that has it.
        data : where several match, the one that has these datasets: features that were imported
            for two datasets are of two encoders, which may have one name.

        Raises
        ------
        NotFoundError : nothing matches; lists what is there.
        StoreError : several match, and lists them; or the one that does cannot be opened.
        """

        def names(encoder: StoredEncoder) -> tuple[str, ...]:
            return encoder.encoder_id, encoder.names.slug, encoder.names.model, encoder.path.name

        if not self.root.exists():
            hint = f"check the path; {command('extract')} makes one"
            raise NotFoundError(f"'{self.root}' is no feature store: no such folder", hint=hint)
        listing = self.listing()
        listing.tell(watch)
        if tap is not None and len(listing.sound) > 1:
            listing = replace(listing, sound=without_siblings(listing.sound, query, tap, data))
        if query is None and len(listing.sound) > 1:
            sealed = tuple(e for e in listing.sound if any(d.splits for d in e.datasets()))
            listing = replace(listing, sound=sealed or listing.sound)
        choice = partial(choose, query=query, what="encoder", place=self.root, names=names)
        try:
            return choice(listing)
        except StoreError as error:
            if not data or isinstance(error, NotFoundError):
                raise
            having = tuple(e for e in listing.sound if not lacks(e, data))
            with suppress(NotFoundError):
                return choice(Listing(having, ()))
            raise

    def register_encoder(self, spec: EncoderSpec, names: EncoderNames) -> StoredEncoder:
        """The encoder of a spec, made if it is new; safe to repeat and to race.

        Parameters
        ----------
        spec : what the features are a function of.
        names : what people call it; the first names given to an id stay.

        Raises
        ------
        MismatchError : no tap, one twice, or one that cannot be stored; or another encoder has
            the same first 12 digits.
        StoreError : the store cannot be written to.
        """
        _check_taps(spec.taps)
        write_format(self.root)
        files = {
            layout.ENCODER_FILE: canonical_json(plain(spec)),
            layout.NAMES_FILE: sign_names(names, spec.encoder_id),
        }
        folder = make_folder(self.root, layout.ENCODER_PREFIX, names.slug, spec.encoder_id, files)
        stored = open_made(folder, open_encoder)
        check_full_id(folder, spec.encoder_id, stored.encoder_id)
        return stored

    def split(
        self,
        split: str,
        *,
        encoder: str | None = None,
        dataset: str | None = None,
        tap: str | None = None,
        watch: Watch = ignore,
    ) -> Split:
        """Open and verify a sealed split; its features are mapped and not read.

        Parameters
        ----------
        split : ``train``, ``val`` or ``test``.
        encoder, dataset, tap, watch : as in :meth:`encoder` and ``StoredEncoder.dataset``.

        Raises
        ------
        NotFoundError : no such encoder, dataset or split.
        IntegrityError : the split is damaged.
        """
        data = () if dataset is None else (dataset,)
        chosen = self.encoder(encoder, watch, tap=tap, data=data)
        return chosen.dataset(dataset, watch).split(split)


def _read_format_line(path: Path) -> str | None:
    """Content of ``FORMAT``; None where no store is yet."""
    root = path.parent
    with store_errors(root):
        if not path.exists():
            names = {entry.name for entry in root.iterdir()} if root.is_dir() else set()
            if layout.FORMAT_FILE not in names:  # else made between the two looks
                new = f".{layout.FORMAT_FILE}."
                if all(name.startswith(new) for name in names) and not root.is_file():
                    return None
                raise StoreError(
                    f"{root}: expected a feature store, found no file {layout.FORMAT_FILE} in it",
                    hint=f"give another --store; in a copied store, copy {layout.FORMAT_FILE} too",
                )
    return read_bytes(path, limit=MAX_FORMAT_BYTES).decode(errors="replace")


def check_format_line(line: str, place: str) -> None:
    """Refuse, by a MismatchError, a content of ``FORMAT`` that is not ours."""
    words = line.split()
    is_number = len(words) == 2 and words[1].isdecimal() and len(words[1]) < 10
    version = int(words[1]) if is_number else -1
    check_version(words[0] if words else "nothing", version, place)


def write_format(root: Path) -> None:
    """Write the file ``FORMAT`` of a store that is new."""
    if not (root / layout.FORMAT_FILE).exists():
        make_folders(root)
        write_atomic(root / layout.FORMAT_FILE, layout.FORMAT_LINE)


def _check_taps(taps: tuple[Tap, ...]) -> None:
    for tap in taps:
        if not re.fullmatch("[a-z][a-z0-9_-]*", tap.name):
            raise MismatchError(
                f"a tap cannot be called {tap.name!r}",
                hint="use a-z, 0-9, '_' and '-', such as embedding or block-12",
            )
    if not taps or len({tap.name for tap in taps}) != len(taps) or min(t.dim for t in taps) < 1:
        raise MismatchError(
            f"expected taps of different names and dims of at least 1, found {taps}",
            hint="name every tap once",
        )
