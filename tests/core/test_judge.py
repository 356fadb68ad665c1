"""The judge gives each reason when it applies, the first that applies, and moves a device's row for nothing else."""

import itertools
import random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from ingest.core.device import BOOTS_MAX, Device, KeyState, Standing
from ingest.core.judge import KeysMovedError, Prior
from ingest.core.policy import Policy
from ingest.core.sequence import Ledger
from ingest.core.verdict import Verdict
from tests.core.court import DAY_S, EPOCH, NOW_MS, PATIENT, Court, Say, trusted

JUMP = Policy().seq_jump_max
ONE, TWO, THREE = "boot-001", "boot-002", "boot-003"


class Trouble(msgspec.Struct, frozen=True):
    """A reason, and what brings it about: in the message, in the device's row, or in what the store remembers."""

    reason: str
    said: dict[str, object] = {}
    standing: Standing = Standing.TRUSTED
    number_taken_by_boot: str | None = None


# From the first that is asked to the last; schemas/envelope.md, section 6, lines 14 to 21.
TROUBLES = (
    Trouble("equivocation", number_taken_by_boot=ONE),
    Trouble("epoch_unknown", {"epoch": EPOCH + 1}),
    Trouble("quarantined", standing=Standing.QUARANTINED),
    Trouble("key_retired", {"key": KeyState.RETIRED, "cutoff": 5}),
    Trouble("schema_unknown", {"readable": False}),
    Trouble("stale", {"late_s": 31 * DAY_S}),
    Trouble("seq_jump", {"seq": 2 * JUMP}),
)
THEIR_LIKE = {  # the other reason that is given at the same place
    "equivocation": Trouble("counter_rollback", number_taken_by_boot=TWO),
    "epoch_unknown": Trouble("epoch_closed", {"epoch": EPOCH - 1}),
    "stale": Trouble("clock_future", {"late_s": -2 * DAY_S}),
}
CHAINS = [TROUBLES[at:] for at in range(len(TROUBLES))]
CHAINS += [(THEIR_LIKE[chain[0].reason], *chain[1:]) for chain in CHAINS if chain[0].reason in THEIR_LIKE]


def bring(*troubles: Trouble) -> list[str]:
    """Judge one message that has all of these troubles, and else goes on where its device stood."""
    say, used = Say(100), Ledger((1, 51), 0, 1, 50, 50)
    row = trusted(ledgers={EPOCH: used, EPOCH - 1: used})
    court = Court(replace(row, boots=(say.boot.encode(),), software=say.software))
    for trouble in troubles:
        say = replace(say, **trouble.said)
        if trouble.standing is not Standing.TRUSTED:
            court.devices[1] = replace(court.device, standing=trouble.standing)
    for taker in (trouble.number_taken_by_boot for trouble in troubles if trouble.number_taken_by_boot):
        court.devices[1] = replace(court.device, held=1)
        court.known[1, say.epoch, say.seq] = [Prior(b"another".ljust(32), taker.encode(), owner=True)]
    return court.weigh(say)


@pytest.mark.parametrize("chain", CHAINS, ids=lambda chain: chain[0].reason)
def test_of_several_troubles_the_first_gives_the_reason(chain: tuple[Trouble, ...]) -> None:
    assert bring(*chain) == [chain[0].reason]


@pytest.mark.parametrize("trouble", [*TROUBLES, *THEIR_LIKE.values()], ids=lambda trouble: trouble.reason)
def test_a_trouble_alone_gives_its_reason(trouble: Trouble) -> None:
    assert bring(trouble) == [trouble.reason]
    assert bring() == ["accepted"]


@pytest.mark.parametrize("trouble", [*TROUBLES, *THEIR_LIKE.values()], ids=lambda trouble: trouble.reason)
def test_what_is_held_or_refused_does_not_move_the_ledger(trouble: Trouble) -> None:
    court = Court(trusted(ledgers={EPOCH: Ledger((1, 51), 0, 1, 50, 50)}))
    row = court.devices[1] = replace(court.device, standing=trouble.standing)
    say = replace(Say(100, boot=TWO), **trouble.said)
    if trouble.number_taken_by_boot:
        say = replace(say, seq=50)
    word = court.weigh(say)
    traces = 0 if trouble.reason == "epoch_closed" else 1
    assert calmed(court.device) == replace(row, held=traces)
    # a held message is remembered, a refused one is not
    assert court.weigh(say) == (["duplicate"] if traces else word)
    assert calmed(court.device) == replace(row, held=traces)


def calmed(device: Device) -> Device:
    """Leave out what speaks against it."""
    return replace(device, suspicion=0, suspicion_at_ms=0)


def test_a_duplicate_is_a_duplicate_whatever_else_is_wrong_by_now() -> None:
    court = Court()
    assert court.weigh(Say(1), Say(2, readable=False)) == ["accepted", "schema_unknown"]
    court.devices[1] = replace(court.device, standing=Standing.QUARANTINED, epoch=EPOCH + 1)
    again = [Say(1, key=KeyState.RETIRED, cutoff=0, late_s=40 * DAY_S), Say(2, readable=False)]
    assert court.weigh(*again) == ["duplicate", "duplicate"]


def test_duplicates_change_nothing() -> None:
    court = Court()
    assert court.weigh(Say(1), Say(1), Say(2)) == ["accepted", "duplicate", "accepted"]
    row = court.device
    assert court.weigh(*[Say(1), Say(2)] * 20) == ["duplicate"] * 40
    assert court.judge(Say(1), Say(2)).devices == []
    assert court.device is row


@pytest.mark.parametrize("apart", [False, True], ids=["one batch", "two batches"])
def test_a_number_belongs_to_the_first_message_that_used_it(*, apart: bool) -> None:
    says = [
        (Say(1), "accepted"),
        (Say(1, content="b"), "equivocation"),
        (Say(1, content="b"), "duplicate"),
        (Say(1, content="c"), "equivocation"),
        (Say(1), "duplicate"),
        (Say(2, readable=False), "schema_unknown"),
        (Say(2, content="b"), "equivocation"),
        (Say(2, content="b"), "duplicate"),
        (Say(2, readable=False), "duplicate"),
        (Say(1, content="d", boot=TWO), "counter_rollback"),
        (Say(1, content="d", boot=TWO), "duplicate"),
        (Say(3, content="b"), "accepted"),
    ]
    court = Court(policy=PATIENT)
    found = [court.weigh(say)[0] for say, _ in says] if apart else court.weigh(*[say for say, _ in says])
    assert found == [word for _, word in says]
    assert (court.ledger.highest, court.ledger.accepted, court.device.held) == (3, 2, 5)


@pytest.mark.parametrize("reason", ["equivocation", "counter_rollback"])
def test_a_message_held_for_another_ones_number_has_no_claim_to_it(reason: str) -> None:
    """Should the owner be gone from the store, the number is still not the pretender's."""
    court = Court()
    pretender = Say(1, content="b", boot=ONE if reason == "equivocation" else TWO)
    assert court.weigh(Say(1), pretender) == ["accepted", reason]
    assert [prior.owner for prior in court.known[1, EPOCH, 1]] == [True, False]
    court.known[1, EPOCH, 1] = [prior for prior in court.known[1, EPOCH, 1] if not prior.owner]
    assert court.weigh(Say(1, content="c", boot=THREE)) == ["equivocation"]


# What the device said under numbers 1, 2, 3, ... before; who says something else under a number; what that is.
CLONES_AND_LOSSES = {
    "the same boot": ([ONE], 1, ONE, "equivocation"),
    "a new boot": ([ONE], 1, TWO, "counter_rollback"),
    "the newest boot, the number being an older one's": ([ONE, TWO], 1, TWO, "counter_rollback"),
    "an older boot, the number being the newest one's": ([ONE, TWO], 2, ONE, "equivocation"),
    "an older boot than the newest, the number being a still older one's": ([ONE, TWO, THREE], 1, TWO, "equivocation"),
    "a new boot after several": ([ONE, TWO, THREE], 2, "boot-004", "counter_rollback"),
    "a boot that has returned is the newest again": ([ONE, TWO, ONE], 2, ONE, "counter_rollback"),
    "a boot that was left for one that returned": ([ONE, TWO, ONE], 1, TWO, "equivocation"),
}


@pytest.mark.parametrize("case", CLONES_AND_LOSSES.values(), ids=CLONES_AND_LOSSES)
def test_a_clone_is_told_from_a_counter_that_was_lost(case: tuple[list[str], int, str, str]) -> None:
    boots, seq, boot, word = case
    court = Court(policy=PATIENT)
    for at, each in enumerate(boots, 1):
        assert court.weigh(Say(at, boot=each)) == ["accepted"]
    assert court.weigh(Say(seq, content="b", boot=boot)) == [word]


def test_boots_are_remembered_in_the_order_of_their_last_progress_and_bounded() -> None:
    court = Court()
    boots = [f"boot-{at:03}" for at in range(1, BOOTS_MAX + 3)]
    court.weigh(*[Say(10 * at, boot=boot) for at, boot in enumerate(boots, 1)])
    assert court.device.boots == tuple(boot.encode() for boot in boots[-BOOTS_MAX:])


def test_the_row_tells_boot_software_and_clock_of_the_newest_message() -> None:
    court, off_s = Court(policy=PATIENT), 2 * Policy().clock_ok_s_max
    for say, row in (
        (Say(2), (ONE, "1.0", None)),
        (Say(3, software="2.0"), (ONE, "2.0", None)),
        (Say(1, boot=TWO, software="0.9", late_s=off_s), (ONE, "2.0", None)),  # it is not the newest
        (Say(4, software="2.0", late_s=off_s, at_ms=NOW_MS + 1), (ONE, "2.0", NOW_MS + 1)),
        (Say(5, software="3.0", late_s=off_s, at_ms=NOW_MS + 2), (ONE, "3.0", NOW_MS + 1)),
        (Say(6, boot=TWO, software="3.0", late_s=off_s, at_ms=NOW_MS + 3), (TWO, "3.0", NOW_MS + 1)),
        (Say(7, boot=TWO, software="3.0"), (TWO, "3.0", None)),
    ):
        assert court.weigh(say) == ["accepted"]
        assert (court.device.boots[-1].decode(), court.device.software, court.device.clock_off_since_ms) == row


def test_what_is_accepted_moves_the_ledger() -> None:
    court = Court()
    assert court.weigh(Say(5), Say(9), Say(6)) == ["accepted"] * 3
    assert court.ledger == Ledger((5, 7, 9, 10), 0, 5, 9, 3)
    assert court.weigh(Say(1), Say(7), Say(8)) == ["accepted"] * 3  # late, below the highest
    assert court.ledger == Ledger((1, 2, 5, 10), 0, 1, 9, 6)
    assert court.ledger.missing == 3


def test_an_upload_after_a_week_in_reverse_loses_nothing_and_counts_once() -> None:
    court = Court()
    upload = [Say(seq, late_s=7 * DAY_S) for seq in range(2_000, 0, -1)]
    assert set(court.weigh(*upload[:700])) | set(court.weigh(*upload[700:])) == {"accepted"}
    assert set(court.weigh(*upload)) == {"duplicate"}
    assert court.ledger == Ledger((1, 2_001), 0, 1, 2_000, 2_000)


def test_a_gap_bomber_neither_grows_its_row_nor_loses_nor_doubles_anything() -> None:
    court = Court()
    numbers = [*range(1, 100_000, 2), *range(2, 100_001, 2)]
    for at in range(0, len(numbers), 8_000):
        batch = numbers[at : at + 8_000]
        assert set(court.weigh(*[Say(seq) for seq in batch])) == {"accepted"}
        assert len(court.ledger.ranges) <= 2 * 64
    assert court.ledger.accepted == 100_000
    random.Random(1).shuffle(numbers)
    assert set(court.weigh(*[Say(seq) for seq in numbers[:8_000]])) == {"duplicate"}
    assert set(court.weigh(*[Say(seq, content="b") for seq in numbers[:8_000]])) == {"equivocation"}


def test_a_number_compacted_within_its_own_batch_is_remembered_by_the_batch() -> None:
    court = Court(policy=Policy(ledger_ranges_max=1, quarantined_from=PATIENT.quarantined_from))
    assert court.weigh(Say(1), Say(5), Say(9), Say(1), Say(3), Say(3)) == [
        "accepted", "accepted", "accepted", "duplicate", "accepted", "duplicate",
    ]  # fmt: skip
    assert court.weigh(Say(5), Say(3, content="b"), Say(7)) == ["duplicate", "equivocation", "accepted"]


@pytest.mark.parametrize("highest", [0, 1_000])
def test_a_jump_is_held_from_the_first_number_beyond_the_limit(highest: int) -> None:
    before = {EPOCH: Ledger((highest, highest + 1), 0, highest, highest, 1)} if highest else {}
    assert Court(trusted(ledgers=before)).weigh(Say(highest + JUMP)) == ["accepted"]
    assert Court(trusted(ledgers=before)).weigh(Say(highest + JUMP + 1)) == ["seq_jump"]


def test_a_jump_is_measured_from_what_was_accepted_earlier_in_the_batch_too() -> None:
    assert Court().weigh(Say(JUMP), Say(2 * JUMP), Say(3 * JUMP + 1)) == ["accepted", "accepted", "seq_jump"]


def test_a_counter_driven_to_the_end_is_held_and_honest_data_goes_on() -> None:
    court = Court()
    assert court.weigh(Say(1), Say(2**63 - 2), Say(2), Say(2**63 - 2)) == [
        "accepted", "seq_jump", "accepted", "duplicate",
    ]  # fmt: skip
    assert court.ledger.highest == 2


def test_forgeries_change_nothing_whomever_they_name() -> None:
    court = Court()
    court.weigh(Say(1))
    row = court.device
    forged = [Say(seq, authentic=False) for seq in (1, 2, 2**62)]
    assert court.weigh(*forged) == ["bad_signature"] * 3
    assert court.device is row
    assert court.weigh(Say(2)) == ["accepted"]


def test_a_closed_epoch_is_filled_up_to_its_highest_and_no_further() -> None:
    """The unit is replaced while days of its predecessor's messages are still under way."""
    court = Court()
    assert court.weigh(*[Say(seq) for seq in (1, 2, 3, 9)]) == ["accepted"] * 4
    court.devices[1] = replace(court.device, epoch=EPOCH + 1)
    old = [Say(seq, late_s=3 * DAY_S) for seq in (5, 9, 10, 5, 2**62)]
    new = [Say(seq, epoch=EPOCH + 1, boot=TWO) for seq in (1, 2)]
    assert court.weigh(*old) == ["accepted", "duplicate", "epoch_closed", "duplicate", "epoch_closed"]
    assert court.weigh(*new, Say(4)) == ["accepted"] * 3
    assert court.ledger == Ledger((1, 6, 9, 10), 0, 1, 9, 6)
    assert court.device.ledgers[EPOCH + 1] == Ledger((1, 3), 0, 1, 2, 2)
    assert court.device.boots == (ONE.encode(), TWO.encode())


def test_an_epoch_that_nothing_was_accepted_in_is_closed_altogether() -> None:
    court = Court()
    assert court.weigh(Say(1, epoch=EPOCH - 1), Say(1, epoch=0)) == ["epoch_closed"] * 2
    assert court.judge(Say(1, epoch=0)).devices == []


def test_numbers_of_different_epochs_and_devices_do_not_meet() -> None:
    court = Court(trusted(1, {EPOCH - 1: Ledger((5, 6), 0, 5, 5, 1)}), trusted(2))
    says = [Say(3), Say(3, content="b", epoch=EPOCH - 1), Say(3, content="c", device_no=2), Say(3, epoch=EPOCH + 1)]
    assert court.weigh(*says) == ["accepted", "accepted", "accepted", "epoch_unknown"]


@pytest.mark.parametrize(
    ("cutoff", "seq", "word"), [(10, 10, "accepted"), (10, 11, "key_retired"), (None, 1, "key_retired")]
)
def test_a_retired_key_signs_up_to_its_cut_off(cutoff: int | None, seq: int, word: str) -> None:
    assert Court().weigh(Say(seq, key=KeyState.RETIRED, cutoff=cutoff)) == [word]


def test_a_cut_off_says_nothing_of_the_epochs_before_which_end_where_they_were_closed() -> None:
    court = Court(trusted(ledgers={EPOCH - 1: Ledger((1, 20, 40, 51), 0, 1, 50, 30)}))
    retired = [Say(seq, epoch=EPOCH - 1, key=KeyState.RETIRED, cutoff=10) for seq in (5, 30, 51)]
    court.known[1, EPOCH - 1, 5] = [Prior(b"a".ljust(32), b"boot-001", owner=True)]
    assert court.weigh(*retired) == ["duplicate", "accepted", "epoch_closed"]
    later = [Say(1, epoch=EPOCH + 1, key=KeyState.RETIRED, cutoff=10)]
    assert court.weigh(*later, Say(11, key=KeyState.RETIRED, cutoff=10)) == ["epoch_unknown", "key_retired"]


def test_a_device_that_is_not_trusted_has_nothing_accepted() -> None:
    court = Court(replace(trusted(), standing=Standing.QUARANTINED))
    assert court.weigh(Say(1), Say(1), Say(2)) == ["quarantined", "duplicate", "quarantined"]


def test_a_batch_with_keys_older_than_the_row_is_not_judged() -> None:
    court = Court(replace(trusted(), key_version=2), trusted(2))
    with pytest.raises(KeysMovedError):
        court.judge(Say(1, device_no=2), Say(1))
    assert court.weigh(Say(1, key_version=2)) == ["accepted"]


@pytest.mark.parametrize(
    ("say", "word"),
    [
        (Say(5), "equivocation"),
        (Say(5, boot=TWO), "equivocation"),
        (Say(5, late_s=31 * DAY_S), "stale"),
        (Say(5, late_s=-2 * DAY_S), "clock_future"),
    ],
)
def test_a_used_number_whose_message_the_store_no_longer_has_goes_to_a_person(say: Say, word: str) -> None:
    ledger = Ledger((1, 11), 0, 1, 10, 10)
    court = Court(trusted(ledgers={EPOCH: ledger}))
    assert court.weigh(say) == [word]
    assert court.ledger == ledger


def test_only_rows_that_change_are_written_and_in_lock_order() -> None:
    court = Court(*[trusted(device_no) for device_no in (3, 1, 2)])
    outcome = court.judge(Say(1, device_no=3), Say(1, device_no=1), Say(1, device_no=2, authentic=False))
    assert [device.device_no for device in outcome.devices] == [1, 3]


def waiting(seq: int, device_no: int = 1, size: int = 100) -> Say:
    return Say(seq, device_no=device_no, readable=False, value=bytes(size))


def test_a_device_that_fills_its_share_keeps_rows_without_bytes_and_loses_no_count() -> None:
    court = Court(trusted(1), trusted(2), policy=Policy(held_bytes_max=250))
    says = [waiting(seq) for seq in range(1, 6)]
    outcome = court.judge(*says)
    assert [held.whole for held in outcome.held] == [True, True, False, False, False]
    assert court.weigh(*says) == ["schema_unknown"] * 5
    assert (court.device.held, court.device.held_bytes) == (5, 200)
    assert court.weigh(*says) == ["duplicate"] * 5
    assert (court.device.held, court.device.held_bytes) == (5, 200)


def test_what_is_small_enough_for_the_rest_of_a_share_is_still_kept_to_the_byte() -> None:
    court = Court(replace(trusted(), held=2, held_bytes=200), policy=Policy(held_bytes_max=250))
    outcome = court.judge(waiting(1, size=51), waiting(2, size=50))
    assert [held.whole for held in outcome.held] == [False, True]
    assert (outcome.devices[0].held, outcome.devices[0].held_bytes) == (4, 250)


def test_one_device_that_has_filled_its_share_costs_another_one_nothing() -> None:
    court = Court(replace(trusted(1), held=9, held_bytes=250), trusted(2), policy=Policy(held_bytes_max=250))
    outcome = court.judge(waiting(1), waiting(1, device_no=2), Say(2, value=bytes(100)))
    assert [(held.verified.sender.device_no, held.whole) for held in outcome.held] == [(1, False), (2, True)]
    assert outcome.total(Verdict.ACCEPTED) == 1


any_say = st.builds(
    Say,
    seq=st.integers(1, 12) | st.just(JUMP + 13),
    content=st.sampled_from("ab"),
    epoch=st.sampled_from((EPOCH - 1, EPOCH, EPOCH, EPOCH, EPOCH + 1)),
    boot=st.sampled_from((ONE, TWO, THREE)),
    late_s=st.sampled_from((0.0, 0.0, 0.0, 31 * DAY_S)),
    readable=st.sampled_from((True, True, True, False)),
    authentic=st.sampled_from((True, True, True, False)),
    device_no=st.integers(1, 2),
    value=st.sampled_from((bytes(10), bytes(70))),
)


@settings(deadline=None, max_examples=200)  # time is not what is tested
@given(st.lists(any_say, min_size=1, max_size=40), st.sets(st.integers(1, 39), max_size=6))
def test_any_way_of_cutting_into_batches_gives_the_same_verdicts_and_rows(says: list[Say], cuts: set[int]) -> None:
    closed = {EPOCH - 1: Ledger((3, 5), 0, 3, 4, 2)}
    policy = Policy(ledger_ranges_max=2, held_bytes_max=200)
    whole, cut = (Court(trusted(1, closed), trusted(2, closed), policy=policy) for _ in range(2))
    batches = [says[start:end] for start, end in itertools.pairwise([0, *sorted(cuts), len(says)]) if says[start:end]]
    found = [word for batch in batches for word in cut.weigh(*batch)]
    assert found == whole.weigh(*itertools.chain.from_iterable(batches))
    assert cut.devices == whole.devices


@settings(deadline=None, max_examples=200)  # time is not what is tested
@given(st.lists(any_say, min_size=1, max_size=60))
def test_no_number_is_accepted_twice_and_the_rows_tell_how_many_were(says: list[Say]) -> None:
    court = Court(trusted(1), trusted(2), policy=Policy(ledger_ranges_max=2))
    found = court.weigh(*says)
    accepted = [
        (say.device_no, say.epoch, say.seq) for say, word in zip(says, found, strict=True) if word == "accepted"
    ]
    assert len(set(accepted)) == len(accepted)
    for device in court.devices.values():
        assert device.ledgers.get(EPOCH, Ledger()).accepted == sum(no == device.device_no for no, _, _ in accepted)
        assert len(device.ledgers.get(EPOCH, Ledger()).ranges) <= 4
