"""Each shard falls to one process that lives, whatever starts the processes."""

import os
from collections import Counter
from pathlib import Path
from typing import cast

import pytest

from linprobe.errors import ExtractError
from linprobe.leases import Leases, Pace
from linprobe_extract.run.claims import Claims, lease_name
from linprobe_extract.run.ranks import Ranks, ranks_from_environment
from linprobe_extract.run.work import Work
from linprobe_extract.shards.types import Shard
from linprobe_store.format.spec import ShardFingerprint

PATIENT = Pace(beat_s=0.0, patience_s=600.0, poll_s=0.001)
"""Of holders that nothing renews, as contexts were not entered, and that no test outlasts."""
QUICK = Pace(beat_s=0.0, patience_s=0.02, poll_s=0.001)
"""Of those who soon follow a silent holder."""


class Board:
    """What is left to do, in place of a dataset."""

    def __init__(self, n_shards: int) -> None:
        self.todo = tuple(Shard(f"/data/{i}.tar") for i in range(n_shards))
        self.done: set[Shard] = set()

    def is_done_by_now(self, shard: Shard) -> bool:
        return shard in self.done


class Process:
    """One of those that share a folder, and what it takes."""

    def __init__(self, folder: Path, board: Board, n_others: int = 0, pace: Pace = PATIENT) -> None:
        self.board = board
        self.leases = Leases(folder, pace)
        self.lines: list[str] = []
        self.claims = Claims(cast("Work", board), self.leases, n_others, self.lines.append)
        self.shards = self.claims.take(lambda: False)

    def do(self, shard: Shard | None = None) -> Shard:
        shard = shard or next(self.shards)
        self.board.done.add(shard)
        self.claims.settle(shard, has_failed=False)
        return shard


def test_alone_means_everything_in_order(tmp_path: Path) -> None:
    board = Board(3)
    alone = Process(tmp_path, board)

    assert [alone.do(shard) for shard in alone.shards] == list(board.todo)
    assert alone.lines == []


def test_processes_take_everything_once_and_fast_ones_take_more(tmp_path: Path) -> None:
    board = Board(10)
    everyone = [Process(tmp_path, board) for _ in range(3)]

    taken = Counter(everyone[rank].do() for rank in (0, 0, 1, 0, 2, 0, 0))
    for process in everyone:
        taken.update(process.do(shard) for shard in process.shards)

    assert taken == Counter(board.todo)


def test_shards_are_kept_when_they_are_gone_through_again_and_none_is_taken_twice(
    tmp_path: Path,
) -> None:
    board = Board(6)
    mine, other = Process(tmp_path, board), Process(tmp_path, board)

    before = [next(mine.shards), next(mine.shards)]
    of_other = other.do()
    after = [mine.do(shard) for shard in mine.claims.take(lambda: False)]

    assert before == list(board.todo[:2]) == after[:2]
    assert sorted(s.url for s in [*after, of_other]) == [s.url for s in board.todo]


def test_shards_are_taken_ahead_but_the_last_ones_go_to_whoever_is_free(tmp_path: Path) -> None:
    board = Board(6)
    mine, other = Process(tmp_path, board, n_others=1), Process(tmp_path, board, n_others=1)

    next(mine.shards)
    n_ahead = 0
    while mine.claims.may_take_ahead():
        next(mine.shards)
        n_ahead += 1

    assert n_ahead == 3
    assert [other.do(), other.do()] == list(board.todo[4:])
    assert not mine.claims.may_take_ahead()


def test_nothing_is_waited_for_before_it_is_due(tmp_path: Path) -> None:
    """Two that each wait for what the other has fetched would wait for ever."""
    board = Board(2)
    mine, other = Process(tmp_path, board), Process(tmp_path, board)

    assert next(mine.shards) == board.todo[0]
    assert next(other.shards) == board.todo[1]

    assert not mine.claims.may_take_ahead()
    assert not other.claims.may_take_ahead()


def test_who_has_nothing_left_waits_for_the_others_says_so_and_follows_who_falls_silent(
    tmp_path: Path,
) -> None:
    board = Board(2)
    silent, mine = Process(tmp_path, board), Process(tmp_path, board, pace=QUICK)
    lost = next(silent.shards)

    assert [mine.do(shard) for shard in mine.shards] == [board.todo[1], lost]

    (line,) = mine.lines
    assert f"waiting for 1 shards in the hands of process {os.getpid()} on" in line
    silent.do(lost)  # it wakes up
    assert list(silent.shards) == []


def test_who_was_quicker_since_the_last_look_is_waited_for_too(tmp_path: Path) -> None:
    board = Board(2)
    other, mine = Process(tmp_path, board), Process(tmp_path, board)
    mine.leases.pace = Pace(beat_s=0.0, patience_s=0.1, poll_s=0.1)
    mine.do()
    lost = next(other.shards)

    assert [mine.do(shard) for shard in mine.shards] == [lost]


def test_waiting_ends_when_the_others_are_done_or_when_it_is_over(tmp_path: Path) -> None:
    board = Board(1)
    other, mine = Process(tmp_path, board), Process(tmp_path, board)
    shard = next(other.shards)
    n_asked = iter(range(5))

    assert list(mine.claims.take(lambda: next(n_asked) > 2)) == []
    other.do(shard)

    assert list(mine.shards) == []


def test_what_another_process_tried_in_vain_is_not_tried_again_while_it_is_there(
    tmp_path: Path,
) -> None:
    board = Board(2)
    other, mine, late = (Process(tmp_path, board) for _ in range(3))
    bad = next(other.shards)
    other.claims.settle(bad, has_failed=True)

    assert [mine.do(shard) for shard in mine.shards] == [board.todo[1]]
    assert mine.claims.failed_elsewhere == [bad]

    other.leases.release(lease_name(bad))
    assert list(late.shards) == [bad]


def test_a_shard_of_a_card_has_one_lease_wherever_it_lies(tmp_path: Path) -> None:
    known = ShardFingerprint("0.tar", 10, "ab" * 32)
    here, there = Shard("/a/0.tar", known), Shard("https://b/0.tar", known, kind="url")

    assert lease_name(here) == lease_name(there)
    assert lease_name(Shard("/a/0.tar")) != lease_name(Shard("/b/0.tar"))


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        (
            {
                "RANK": "3",
                "WORLD_SIZE": "8",
                "LOCAL_RANK": "1",
                "LOCAL_WORLD_SIZE": "2",
                "MASTER_ADDR": "x",
                "MASTER_PORT": "1",
            },
            Ranks(3, 8, 1, 2),
        ),
        (
            {"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "4", "SLURM_LOCALID": "0"},
            Ranks(3, 4, 0, 1),
        ),
        (  # a task's cores are those of its affinity, whoever else is on the machine
            {
                "SLURM_PROCID": "3",
                "SLURM_STEP_NUM_TASKS": "4",
                "SLURM_LOCALID": "1",
                "SLURM_NTASKS_PER_NODE": "2",
            },
            Ranks(3, 4, 1, 1),
        ),
        (  # a job of an array: the others are found by their leases
            {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "16", "SLURM_PROCID": "0"},
            Ranks(0, 1, 0, 1),
        ),
        (
            {"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "MASTER_ADDR": "x"},
            Ranks(0, 1, 0, 1),
        ),
    ],
)
def test_ranks_are_read_from_torchrun_or_slurm(
    environment: dict[str, str], expected: Ranks
) -> None:
    assert ranks_from_environment(environment) == expected


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK=2 is not below WORLD_SIZE=2"),
        ({"RANK": "one", "WORLD_SIZE": "2"}, "RANK='one' is not a number"),
    ],
)
def test_nonsense_in_the_environment_is_told(environment: dict[str, str], message: str) -> None:
    with pytest.raises(ExtractError, match=message):
        ranks_from_environment(environment)
