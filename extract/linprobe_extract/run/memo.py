"""The ids of encoders that were loaded before, so that what is finished needs no torch."""

from pathlib import Path
from uuid import uuid4

from linprobe.records import digest_json, plain
from linprobe_extract.encoders.family import EncoderChoice, libraries
from linprobe_extract.shards.caches import JsonCache, file_state
from linprobe_store.format.spec import KEY_VERSION


def encoder_memo(store: Path) -> JsonCache[str]:
    """Encoder ids by the key of their choice: loading a tower to learn its id takes seconds."""
    return JsonCache(store / ".cache" / "encoders.jsonl", dict[str, str])


def choice_key(choice: EncoderChoice) -> str:
    """Digest the choice, the state of its files, the libraries and our own version.

    Of a module of one's own nobody can tell what its code reads: it has a key that never returns.
    """
    prefix, _, place = choice.model.partition(":")
    folder = Path(place).expanduser()
    inside = sorted(folder.iterdir()) if prefix in ("hf", "local-dir") and folder.is_dir() else []
    files = [choice.model, str(choice.weights or ""), *map(str, inside)]
    return digest_json(
        {
            "request": plain(choice),
            "files": [file_state(file) for file in files],
            "once": uuid4().hex if prefix == "py" else "",
            "versions": libraries(),
            "key_version": KEY_VERSION,
        }
    )
