"""Each shard falls to one process, whatever starts the processes."""

from collections import Counter

import pytest
from run_factories import SharedCounters

from linprobe.errors import ExtractError
from linprobe_extract.run.ranks import Claims, Ranks, Turns, ranks_from_environment


def test_alone_means_everything_in_order() -> None:
    turns = Turns(ranks_from_environment({}), None)

    assert list(turns.claim("abc", "round")) == ["a", "b", "c"]
    assert turns.is_last("round")


def test_claims_from_shared_counters_cover_everything_once() -> None:
    counters = SharedCounters()
    everyone = [Turns(Ranks(r, 3, r, 3, torchrun=True), counters.add) for r in range(3)]
    taken = Counter[int]()
    claims = [turns.claim(range(10), "round") for turns in everyone]

    for rank in (0, 0, 1, 0, 2, 0, 0):
        taken[next(claims[rank])] += 1
    for claim in claims:
        taken.update(claim)

    assert taken == Counter(range(10))


def test_claims_are_kept_when_they_are_gone_through_again_and_none_is_claimed_twice() -> None:
    counters = SharedCounters()
    mine, other = (Turns(Ranks(r, 2, r, 2, torchrun=True), counters.add) for r in range(2))
    claims = Claims(mine.claim("abcdef", "shards"))

    before = [item for item, _ in zip(claims, range(2), strict=False)]
    (taken, _) = next(zip(other.claim("abcdef", "shards"), range(1), strict=False))
    after = list(claims)

    assert before == ["a", "b"]
    assert taken not in after
    assert sorted([*after, taken]) == list("abcdef")
    assert list(claims) == after


def test_only_the_last_of_a_round_is_told_so() -> None:
    counters = SharedCounters()
    everyone = [Turns(Ranks(r, 3, r, 3, torchrun=True), counters.add) for r in range(3)]

    assert [turns.is_last("all") for turns in everyone] == [False, False, True]


def test_without_shared_counters_ranks_take_every_nth() -> None:
    everyone = [Turns(Ranks(r, 3, r, 3, torchrun=False), None) for r in range(3)]

    taken = [list(turns.claim(range(7), "round")) for turns in everyone]

    assert taken == [[0, 3, 6], [1, 4], [2, 5]]


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
            Ranks(3, 8, 1, 2, torchrun=True),
        ),
        (
            {"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "4", "SLURM_LOCALID": "0"},
            Ranks(3, 4, 0, 1, torchrun=False),
        ),
        (  # a task's cores are those of its affinity, whoever else is on the machine
            {
                "SLURM_PROCID": "3",
                "SLURM_STEP_NUM_TASKS": "4",
                "SLURM_LOCALID": "1",
                "SLURM_NTASKS_PER_NODE": "2",
            },
            Ranks(3, 4, 1, 1, torchrun=False),
        ),
        (
            {"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "MASTER_ADDR": "x"},
            Ranks(0, 1, 0, 1, torchrun=False),
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
