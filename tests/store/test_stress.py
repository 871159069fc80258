"""Writers, rm, gc, verify, ls and readers on one store: no ghost, no traceback, no wrong row."""

from pathlib import Path

from store_stress import remains, stress


def test_everybody_at_once_leaves_no_ghost_no_traceback_and_no_wrong_row(tmp_path: Path) -> None:
    tally = stress(tmp_path, seconds=10)

    assert tally.tracebacks == []
    assert tally.wrong == []
    assert remains(tmp_path) == []
    for role in ("seal", "rm", "gc", "verify", "ls", "read"):
        assert tally.done[role] > 0, tally.done
