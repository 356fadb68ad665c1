"""What both stores promise of a batch: the one in PostgreSQL, and its twin in memory that the simulation runs on."""

import pytest

from ingest.core.judge import KeysMovedError, Prior, Suspect, accountable, number
from ingest.core.message import Reading
from ingest.core.rate import FLEET, Bucket
from ingest.core.sequence import Ledger
from ingest.core.verdict import Hold, Verdict
from ingest.ports import FencedError, TroubleError
from tests.adapters.contract import (
    NOW_S,
    POLICY,
    TOPIC,
    Said,
    World,
    examined,
    settle,
    settle_late,
    take,
    take_elsewhere,
    weigh,
)


async def test_a_batch_moves_the_offset_and_gives_each_record_one_verdict(world: World) -> None:
    async with take(world) as lease:
        await weigh(lease, Said(1), None, Said(1), Said(1, content="b"), Said(2, epoch=8))
        assert lease.next_offset == 5
    async with take(world) as lease:
        assert lease.next_offset == 5
    assert await world.verdicts() == {
        (0, 0): ("accepted", ""),
        (0, 1): ("refused", "malformed"),
        (0, 2): ("duplicate", ""),
        (0, 3): ("held", "equivocation"),
        (0, 4): ("held", "epoch_unknown"),
    }


async def test_a_successor_fences_its_predecessor(world: World) -> None:
    async with take(world) as old:
        await weigh(old, Said(1))
        async with take(world) as new:
            await weigh(new, Said(2))
            with pytest.raises(TroubleError):
                await weigh(old, Said(2))
            await weigh(new, Said(3))
    assert len(await world.verdicts()) == 3


async def test_an_offset_that_moved_meanwhile_stops_the_commit(world: World) -> None:
    """A retry of a batch whose COMMIT took effect though its reply was lost must not be stored twice."""
    async with take(world) as lease:
        messages = await examined(lease, [Said(1)], 0)
        await weigh(lease, Said(1))
        with pytest.raises(FencedError):
            await settle_late(lease, messages)
    assert len(await world.verdicts()) == 1


async def test_an_exception_inside_a_transaction_leaves_nothing_behind(world: World) -> None:
    async with take(world) as lease:
        messages = await examined(lease, [Said(1)], 0)
        with pytest.raises(ZeroDivisionError):
            await settle_late(lease, messages, then=lambda: 1 // 0)
        with pytest.raises(TroubleError):
            await weigh(lease, Said(1))
    async with take(world) as lease:
        assert lease.next_offset == 0
        outcome = await weigh(lease, Said(1))
    assert outcome.total(Verdict.ACCEPTED) == 1


async def test_a_device_row_comes_back_as_it_was_written(world: World) -> None:
    async with take(world) as lease:
        await weigh(lease, *[Said(seq) for seq in (5, 6, 9, 12, 15, 18)], Said(20, boot=b"boot-two"), Said(99, epoch=8))
        messages = await examined(lease, [Said(21, boot=b"boot-two")], lease.next_offset)
        async with lease.transaction() as transaction:
            (device,) = (await transaction.recall(accountable(messages))).values()
            raise_away = await settle(transaction, messages, lease.next_offset)
    assert raise_away.total(Verdict.ACCEPTED) == 1
    assert device.ledgers[7] == Ledger((12, 13, 15, 16, 18, 19, 20, 21), 10, 5, 20, 7)
    assert device.boots == (b"boot-one", b"boot-two")
    assert device.held == 1


async def test_what_was_charged_is_handed_on(world: World) -> None:
    async with take(world) as lease:
        await weigh(lease, Said(1), Said(2), Said(2), None, Said(1, device="tcu-2"))
    async with take_elsewhere(world) as lease:
        messages = await examined(lease, [Said(3)], lease.next_offset)
        (tenant_no,) = {m.verified.sender.tenant_no for m in messages if isinstance(m, Reading)}
        async with lease.transaction() as transaction:
            (device,) = (await transaction.recall(accountable(messages))).values()
            shares = await transaction.shares({tenant_no, 99})
            await settle(transaction, messages, lease.next_offset)
    away = POLICY.device_away_s_max * POLICY.device_per_s_max
    assert device.rate == Bucket((away - 2) * 1000, NOW_S * 1000)
    assert shares == {
        FLEET: Bucket((POLICY.fleet_burst_max - 3) * 1000, NOW_S * 1000),
        tenant_no: Bucket((POLICY.tenant_burst_max - 3) * 1000, NOW_S * 1000),
        99: Bucket(),
    }


async def test_priors_are_found_stored_or_held_whenever_they_were_issued(world: World) -> None:
    day_s = 86_400
    async with take(world) as lease:
        await weigh(lease, Said(1, issued_at_s=NOW_S - 20 * day_s), Said(2, epoch=8), Said(1, content="b"))
        asked = [Said(1), Said(1, content="b"), Said(2, epoch=8), Said(3)]
        messages = await examined(lease, asked, lease.next_offset)
        verified = [m.verified for m in messages if isinstance(m, Reading)]
        async with lease.transaction() as transaction:
            await transaction.recall(accountable(messages))
            priors = await transaction.priors([Suspect(one, stored=True, held=True) for one in verified])
            await settle(transaction, messages, lease.next_offset)
    first, again, second, third = (sorted(priors.get(number(v), []), key=lambda prior: prior.digest) for v in verified)
    assert first == [Prior(b"a".ljust(32), b"boot-one", owner=True), Prior(b"b".ljust(32), b"boot-one", owner=False)]
    assert again == first
    assert second == [Prior(b"a".ljust(32), b"boot-one", owner=True)]
    assert third == []


async def test_keys_that_move_between_reading_and_lock_send_the_batch_round_again(world: World) -> None:
    async with take(world) as lease:
        messages = await examined(lease, [Said(1)], 0)
        await world.revoke_keys("tcu-1")
        with pytest.raises(KeysMovedError):
            await settle_late(lease, messages)
        outcome = await weigh(lease, Said(1))
    assert outcome.total(Verdict.ACCEPTED) == 1


async def test_partitions_do_not_disturb_each_other(world: World) -> None:
    async with take(world, 0) as first, take(world, 1) as second:
        await weigh(first, Said(1), Said(1, device="tcu-2"))
        outcome = await weigh(second, Said(1), Said(1, device="tcu-3"), partition=1)
        await weigh(first, Said(1, device="tcu-3"))
    assert [outcome.total(verdict) for verdict in Verdict] == [1, 1, 0, 0]
    assert (await world.verdicts())[0, 2] == ("duplicate", "")


async def test_a_held_message_is_remembered_by_its_content(world: World) -> None:
    async with take(world) as lease:
        await weigh(lease, Said(2**30))
        again = await weigh(lease, Said(2**30), Said(2**30, content="b"), Said(1))
    assert [again.total(verdict) for verdict in Verdict] == [1, 1, 1, 0]
    assert (await world.verdicts())[0, 2] == ("held", Hold.EQUIVOCATION)


async def test_any_finite_time_can_be_kept(world: World) -> None:
    """A time beyond every calendar is a claim like any other: it must not stop the partition for ever."""
    async with take(world) as lease:
        await weigh(lease, Said(1, expires_at_s=1e308), Said(2, issued_at_s=1e308), Said(3, issued_at_s=-1e308))
        await weigh(lease, Said(1, expires_at_s=1e308), Said(2, issued_at_s=1e308), Said(3, issued_at_s=-1e308))
    given = await world.verdicts()
    assert [given[0, offset] for offset in range(3)] == [("accepted", ""), ("held", "clock_future"), ("held", "stale")]
    assert [given[0, offset] for offset in range(3, 6)] == [("duplicate", "")] * 3


async def test_one_number_used_for_ever_new_contents_costs_no_more_than_they_are(world: World) -> None:
    """A device that signs thousands of contents under one number must not stop its partition."""
    contents = [Said(1, content=f"{i:05}") for i in range(1_500)]
    async with take(world) as lease:
        first = await weigh(lease, *contents)
        second = await weigh(lease, *(Said(1, content=f"{i:05}") for i in range(1_500, 3_000)))
        again = await weigh(lease, *contents)
    assert [first.total(verdict) for verdict in Verdict] == [1, 0, 1_499, 0]
    assert [second.total(verdict) for verdict in Verdict] == [0, 0, 1_500, 0]
    assert [again.total(verdict) for verdict in Verdict] == [0, 1_500, 0, 0]


async def test_an_alert_is_written_once_and_strangers_are_counted_across_batches_and_owners(world: World) -> None:
    async with take(world) as lease:
        await weigh(lease, Said(1), *(Said(1, content=content) for content in "bc"))
        await weigh(lease, Said(1, content="d"), *(Said(1, device=f"x-{n}") for n in range(30)))
    async with take(world) as lease:
        assert lease.strangers.seen.bit_count() <= 30
        await weigh(lease, *(Said(1, device=f"x-{n}") for n in range(80)), Said(1, content="e"))
    first, scan = await world.alerts()
    assert first == ("equivocation", "tcu-1", 1)
    assert scan[:2] == ("unknown_devices", f"{TOPIC}/0")
    assert 34 + POLICY.strangers_max - 1 <= scan[2] < 34 + 80
