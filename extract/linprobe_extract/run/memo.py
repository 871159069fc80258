"""The ids of encoders that were loaded before, so that what is finished needs no torch."""

from pathlib import Path

from linprobe.records import digest_json, plain
from linprobe_extract.encoders.family import EncoderChoice, libraries
from linprobe_extract.shards.caches import JsonCache, file_state
from linprobe_store.format.spec import KEY_VERSION


def encoder_memo(store: Path) -> JsonCache[str]:
    """Encoder ids by the key of their choice: loading a tower to learn its id takes seconds."""
    return JsonCache(store / ".cache" / "encoders.jsonl", dict[str, str])


def choice_key(choice: EncoderChoice) -> str:
    """Digest the choice, the state of its files, the libraries and our own version."""
    return digest_json(
        {
            "request": plain(choice),
            "files": [file_state(choice.model), file_state(str(choice.weights or ""))],
            "versions": libraries(),
            "key_version": KEY_VERSION,
        }
    )
