"""Nothing but the right value or a refusal leaves a reader, whatever the bytes are."""

from pathlib import Path

from hostile_run import run_readers


def test_hostile_bytes_are_read_right_or_refused_by_every_reader(tmp_path: Path) -> None:
    rows = run_readers(tmp_path, 100)

    assert len(rows) >= 35
    assert {row["reader"]: row["escapes"][:3] for row in rows if row["escapes"]} == {}
    assert all(row["right"] + row["refused"] == row["inputs"] for row in rows)
    assert max(row["worst_mb"] for row in rows) < 500
    assert max(row["worst_s"] for row in rows) < 10
