"""What both stores promise of a lease: what an owner leaves to the next one, whether it died or gave up alive."""

import pytest

from ingest.core.outcome import hash_of
from ingest.core.rate import Bucket
from ingest.pace import Pace
from ingest.ports import Lease, Mark
from tests.adapters.contract import (
    EMPTY,
    NOW_S,
    POLICY,
    Said,
    World,
    examined,
    record,
    settle_late,
    take,
    take_elsewhere,
    weigh,
)

RECORDS_MAX = 4


def careful_for(lease: Lease) -> int:
    """Say how many messages, one after the other, whoever has this lease now tries in a child process first."""
    pace, tried = Pace(0, RECORDS_MAX), 0
    pace.begin(lease)
    while pace.careful:
        pace.committed(1)
        tried += 1
    return tried


async def test_the_lease_counts_the_owners_that_died_since_the_last_commit(world: World) -> None:
    for died in range(2):
        async with take_elsewhere(world) as lease:
            assert lease.attempts == died + 1
    async with take_elsewhere(world) as lease:
        assert lease.attempts == 3
        await weigh(lease, Said(1))
    for died in range(2):
        async with take_elsewhere(world) as lease:
            assert lease.attempts == died + 1


async def test_who_gives_a_partition_up_alive_has_not_died_and_does_not_hide_who_has(world: World) -> None:
    for _ in range(2):
        async with take_elsewhere(world) as lease:
            assert lease.attempts == 1
            await lease.release()
    async with take_elsewhere(world) as lease:
        assert lease.attempts == 1
    for _ in range(2):
        async with take(world) as lease:
            assert lease.attempts == 2
            await lease.release()
    async with take_elsewhere(world) as lease:
        assert lease.attempts == 2


async def test_a_process_that_takes_over_again_has_not_died_in_between(world: World) -> None:
    async with take_elsewhere(world):
        pass
    for _ in range(3):
        async with take(world) as lease:
            assert lease.attempts == 2
    async with take_elsewhere(world) as lease:
        assert lease.attempts == 3
    async with take(world) as lease:
        assert lease.attempts == 4, "somebody came in between, and died"


async def test_care_is_due_as_far_as_those_who_died_can_have_read_whoever_commits_on_the_way_and_dies_of_something_else(
    world: World,
) -> None:
    async with take_elsewhere(world) as lease:
        await weigh(lease, Said(1), Said(2))
        assert careful_for(lease) == 0
    async with take_elsewhere(world) as lease:
        assert careful_for(lease) == 0, "whoever died before had committed something"
    async with take_elsewhere(world) as lease:
        assert (lease.attempts, lease.died_offset) == (2, 2)
        assert careful_for(lease) == RECORDS_MAX
        await weigh(lease, Said(3), Said(4))  # and it dies, for another reason
    async with take_elsewhere(world) as lease:
        assert (lease.attempts, lease.died_offset) == (1, 2)
        assert careful_for(lease) == RECORDS_MAX - 1, "half of what has an offset may be markers"
        await weigh(lease, *(Said(5 + n) for n in range(2 * RECORDS_MAX - 2)))
    async with take_elsewhere(world) as lease:
        assert (lease.attempts, lease.died_offset) == (1, 2)
        assert careful_for(lease) == 0


async def test_care_begins_anew_where_somebody_dies_later(world: World) -> None:
    async with take_elsewhere(world):
        pass
    async with take(world) as lease:
        assert lease.died_offset == 0
        await weigh(lease, Said(1))
    for _ in range(2):
        async with take(world) as lease:
            assert lease.died_offset == 0, "it has not died, only taken over again"
    async with take_elsewhere(world) as lease:
        assert lease.died_offset == 1


async def test_who_gives_a_partition_up_alive_is_no_reason_for_care(world: World) -> None:
    for _ in range(3):
        async with take_elsewhere(world) as lease:
            assert lease.died_offset is None
            await lease.release()


async def test_the_mark_is_that_of_the_last_record_committed(world: World) -> None:
    async with take(world) as lease:
        assert lease.mark == Mark(0, None, None)
        await lease.confirmed("log 1")
        await weigh(lease, Said(1), None)
        here = lease.mark
    async with take_elsewhere(world) as lease:
        assert lease.mark == Mark(2, "log 1", hash_of(record(1)))
        assert (here.next_offset, here.record_hash) == (2, hash_of(record(1)))
        with pytest.raises(ZeroDivisionError):
            await settle_late(lease, await examined(lease, [Said(2)], 2), then=lambda: 1 // 0, offset=2)
    async with take(world) as lease:
        assert lease.mark == Mark(2, "log 1", hash_of(record(1)))


async def test_what_may_still_be_kept_is_handed_on(world: World) -> None:
    async with take(world) as lease:
        assert lease.allowance == EMPTY
        outcome = await weigh(lease, None, Said(1), Said(1))
        assert lease.allowance == outcome.allowance
    spent = len(record(0).value) + len(record(2, Said(1)).value)
    assert outcome.allowance == Bucket((POLICY.refused_burst_bytes_max - spent) * 1000, NOW_S * 1000)
    async with take_elsewhere(world) as lease:
        assert lease.allowance == outcome.allowance


async def test_a_partition_is_halted_until_its_log_is_confirmed(world: World) -> None:
    async with take(world) as lease:
        await lease.halted("records are gone")
        await lease.halted("records are gone still")
    assert await world.halted_why() == "records are gone still"
    async with take_elsewhere(world) as lease:
        assert await world.halted_why() == "records are gone still"
        await lease.confirmed("log 1")
    assert await world.halted_why() is None


async def test_an_owner_that_was_robbed_changes_nothing(world: World) -> None:
    async with take_elsewhere(world):
        pass
    async with take(world) as old:
        await old.halted("records are gone")
        await world.rob()
        await old.confirmed("log 1")
        assert await world.halted_why() == "records are gone"
        await old.halted("nothing is gone")
        await old.release()
        assert await world.halted_why() == "records are gone"
    async with take_elsewhere(world) as lease:
        assert lease.attempts == 3
