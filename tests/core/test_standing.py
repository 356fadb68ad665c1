"""What makes a device suspect, what follows, and what never counts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from ingest.core.device import KeyState, Standing
from ingest.core.judge import Past, Prior, blamed, judge, relapsed, unasked
from ingest.core.policy import Policy
from ingest.core.sequence import Ledger
from ingest.core.standing import Trips
from ingest.core.verdict import Evidence, Refusal
from tests.core.court import DAY_S, EPOCH, NOW_MS, PATIENT, Court, Say, examined, span, trusted

ONE, TWO = "boot-001", "boot-002"
HOUR_MS = 3_600_000


def evidence(court: Court, *says: Say) -> list[Evidence]:
    return [accusation.evidence for accusation in court.judge(*says).accusations]


def test_two_contents_under_one_number_quarantine_the_device_from_the_next_message_on() -> None:
    court = Court()
    says = [Say(1), Say(1, content="b"), Say(2), Say(1), Say(1, content="b"), Say(2)]
    assert evidence(court, *says) == [Evidence.EQUIVOCATION]
    assert court.weigh(*says) == ["accepted", "equivocation", "quarantined", "duplicate", "duplicate", "duplicate"]
    assert court.device.standing is Standing.QUARANTINED
    assert court.weigh(Say(3)) == ["quarantined"]


def test_a_new_number_in_an_older_boot_is_a_second_unit() -> None:
    court = Court()
    assert court.weigh(Say(1, boot=ONE), Say(2, boot=TWO), Say(3, boot=ONE)) == ["accepted", "accepted", "quarantined"]


def test_late_data_of_an_older_boot_speaks_against_nobody() -> None:
    court = Court()
    assert evidence(court, Say(5, boot=ONE), Say(9, boot=TWO), Say(3, boot=ONE), Say(8, boot=ONE)) == []


def test_a_counter_that_was_lost_speaks_against_nobody() -> None:
    says = [Say(1, boot=ONE), Say(2, boot=ONE), Say(1, content="b", boot=TWO), Say(3, boot=TWO)]
    assert evidence(Court(), *says) == []


def test_a_boot_that_goes_on_after_its_counter_seemed_lost_is_a_second_unit() -> None:
    copied = Say(1, content="b", boot=TWO)
    assert evidence(Court(), Say(1), Say(2), copied, Say(3)) == [Evidence.CLONE]
    assert Court().weigh(Say(1), Say(2), copied, Say(3)) == ["accepted", "accepted", "counter_rollback", "quarantined"]
    assert evidence(Court(), Say(1), Say(3), copied, Say(2), copied, Say(3)) == [], "late data, and replays"
    court = Court(policy=PATIENT)
    court.weigh(Say(1), copied)
    court.devices[1] = replace(court.device, held=0)
    assert evidence(court, Say(2)) == [Evidence.CLONE], "and no less when what was held has been released"


def test_a_counter_that_was_lost_stays_on_the_row_until_its_boot_goes_on() -> None:
    court = Court(policy=PATIENT)
    assert court.weigh(Say(1), Say(1, content="b", boot=TWO)) == ["accepted", "counter_rollback"]
    assert court.weigh(Say(2), Say(3, software="2.0")) == ["accepted"] * 2
    assert court.device.rolled == TWO.encode()
    assert court.weigh(Say(4, boot=TWO)) == ["accepted"]
    assert court.device.rolled == b""


def test_a_number_whose_message_is_not_kept_any_more_proves_nothing() -> None:
    court = Court()
    court.weigh(Say(1))
    court.known.clear()
    assert evidence(court, Say(1)) == []


def test_content_that_makes_no_sense_adds_up_and_the_same_content_counts_once() -> None:
    court = Court()
    nonsense = [Say(seq, str(seq), refused=Refusal.INVALID_PAYLOAD) for seq in range(1, 10)]
    assert court.weigh(*nonsense, *nonsense) == ["invalid_payload"] * 18
    assert (court.device.suspicion, court.device.standing) == (90, Standing.WATCHED)
    assert court.weigh(*nonsense) == ["invalid_payload"] * 9, "the store knows them, too"
    assert court.device.suspicion == 90
    assert court.weigh(Say(10, "10", refused=Refusal.OUT_OF_RANGE), Say(11)) == ["out_of_range", "quarantined"]


@pytest.mark.parametrize("reason", [Refusal.EXPIRED, Refusal.EPOCH_CLOSED])
def test_other_refusals_speak_against_nobody(reason: Refusal) -> None:
    assert evidence(Court(), Say(1, refused=reason)) == []


def test_forgeries_speak_against_nobody() -> None:
    assert evidence(Court(), *[Say(seq, authentic=False) for seq in range(1, 1_000)]) == []


def test_a_retired_key_beyond_its_last_number_speaks_against_its_device_once_for_one_message() -> None:
    court = Court(policy=PATIENT)
    say = Say(9, key=KeyState.RETIRED, cutoff=5)
    assert evidence(court, say, say, Say(5, key=KeyState.RETIRED, cutoff=5)) == [Evidence.RETIRED_KEY]
    closed = replace(say, epoch=0)
    assert evidence(court, closed, closed) == [], "what is refused is not remembered, so it may not count"


def test_what_an_earlier_unit_says_speaks_against_nobody_who_is_there_now() -> None:
    before = Ledger((1, 6), 0, 1, 5, 5)
    court = Court(trusted(ledgers={EPOCH - 1: before}))
    court.known[1, EPOCH - 1, 3].append(Prior(b"another".ljust(32), ONE.encode(), owner=True))
    old = [Say(3, epoch=EPOCH - 1), Say(4, "n", epoch=EPOCH - 1, refused=Refusal.OUT_OF_RANGE)]
    assert evidence(court, *old) == []
    assert court.weigh(*old, Say(1)) == ["equivocation", "out_of_range", "accepted"]


def test_who_has_stolen_a_retired_key_cannot_use_up_the_numbers_of_its_owner() -> None:
    court = Court(policy=PATIENT)
    stolen = Say(9, content="b", key=KeyState.RETIRED, cutoff=5)
    assert court.weigh(stolen, Say(9), stolen) == ["key_retired", "accepted", "duplicate"]


def test_time_calms() -> None:
    court = Court()
    court.weigh(*[Say(seq, str(seq), refused=Refusal.OUT_OF_RANGE) for seq in range(1, 6)])
    assert court.device.suspicion == 50
    court.weigh(Say(6, "6", refused=Refusal.OUT_OF_RANGE, at_ms=NOW_MS + 4 * HOUR_MS))
    assert court.device.suspicion == 20
    court.weigh(Say(7, "7", refused=Refusal.OUT_OF_RANGE, at_ms=NOW_MS + 99 * HOUR_MS))
    assert (court.device.suspicion, court.device.standing) == (10, Standing.TRUSTED)


@given(st.lists(st.sampled_from(range(6)), max_size=30), st.integers(1, 29))
def test_any_cut_gives_the_same_standing(kinds: list[int], cut: int) -> None:
    def say(at: int, kind: int) -> Say:
        return (
            Say(at + 1), Say(1, content=str(at)), Say(at + 1, str(at), refused=Refusal.OUT_OF_RANGE),
            Say(at + 1, boot=TWO), Say(at + 1, readable=False), Say(max(at, 1), boot=ONE),
        )[kind]  # fmt: skip

    says = [say(at, kind) for at, kind in enumerate(kinds)]
    whole, parts = Court(), Court()
    found = whole.weigh(*says) if says else []
    assert found == [word for part in (says[:cut], says[cut:]) if part for word in parts.weigh(*part)]
    assert whole.device == parts.device


def fall(devices: int, trips: Trips | None, policy: Policy) -> list[Standing]:
    """Let so many devices of one cohort be caught in one batch, as far as the guard lets them."""
    court = Court(*[trusted(number) for number in range(1, devices + 1)], policy=policy)
    says = [say for n in range(1, devices + 1) for say in (Say(1, device_no=n), Say(1, device_no=n, content="b"))]
    messages = [examined(say, at) for at, say in enumerate(says)]
    past = Past(court.devices, {})
    outcome = judge(messages, past, policy, span(messages, 0))
    (cohort,) = unasked(outcome, past)
    if trips is not None:
        past = Past(court.devices, {}, trips={cohort: trips})
        outcome = judge(messages, past, policy, span(messages, 0))
        assert not unasked(outcome, past)
    return [device.standing for device in outcome.devices]


def test_the_guard_spares_a_cohort_of_which_too_many_would_fall_at_once() -> None:
    policy = Policy(guard_devices_min=3, guard_share_percent_max=10)
    assert fall(5, Trips((), 10), policy) == [Standing.QUARANTINED] * 3 + [Standing.WATCHED] * 2
    assert fall(5, Trips((NOW_MS,) * 2, 10), policy) == [Standing.QUARANTINED] + [Standing.WATCHED] * 4
    assert fall(5, Trips((NOW_MS,) * 2, 1_000), policy) == [Standing.QUARANTINED] * 5, "a share of a large one"
    long_ago = NOW_MS - policy.guard_window_s * 1_000
    assert fall(3, Trips((long_ago,) * 9, 10), policy) == [Standing.QUARANTINED] * 3


def held_back(*says: Say, court: Court | None = None) -> Court:
    """Give a court before which a device has lost its counter."""
    court = court or Court()
    assert court.weigh(*[Say(seq, boot=ONE) for seq in range(1, 11)]) == ["accepted"] * 10
    court.weigh(*says)
    return court


def test_who_loses_a_counter_twice_and_is_late_is_one_device() -> None:
    court = held_back(Say(1, "b", boot=TWO), Say(3, "c", boot="boot-003"))
    late = [Say(seq, content, boot=TWO, late_s=3_000) for seq, content in ((2, "d"), (4, "e"))]
    found = court.weigh(late[0], Say(11, boot="boot-003"), late[1], Say(12, boot="boot-003"))
    assert found == ["counter_rollback", "accepted", "counter_rollback", "accepted"]
    assert court.device.standing is Standing.TRUSTED


def test_what_was_buffered_when_a_counter_was_lost_is_no_second_unit() -> None:
    court = held_back(Say(1, "b", boot=TWO))
    assert court.weigh(Say(11, boot=ONE, late_s=3_000)) == ["accepted"]


def test_a_closed_epoch_late_data_and_what_waited_do_not_make_a_device_two() -> None:
    before = Ledger((1, 6), 0, 1, 5, 5)
    court = Court(trusted(ledgers={EPOCH - 1: before}))
    court.known[1, EPOCH - 1, 3].append(Prior(b"another".ljust(32), ONE.encode(), owner=True))
    held_back(Say(3, "b", epoch=EPOCH - 1, boot=TWO), Say(3, "c", boot=TWO, late_s=40 * DAY_S), court=court)
    assert court.weigh(Say(11, boot=ONE)) == ["accepted"]
    court.charging = False  # as when it leaves the lane
    court.weigh(Say(4, "d", boot="boot-003"))
    court.charging = True
    assert court.weigh(Say(12, boot=ONE)) == ["accepted"]


def test_a_used_number_in_many_boots_does_not_hide_who_was_accepted() -> None:
    court = held_back(*[Say(1, str(n), boot=f"boot-1{n:02}") for n in range(20)])
    assert court.device.boots == (ONE.encode(),)
    assert court.weigh(Say(11, boot=ONE), Say(12, boot=ONE)) == ["quarantined", "quarantined"]


def test_only_of_a_device_that_was_accused_may_the_same_content_have_spoken_before() -> None:
    told = [examined(Say(1, refused=reason), 0) for reason in (Refusal.OUT_OF_RANGE, Refusal.EXPIRED)]
    assert relapsed(told, {1: trusted()}) == []
    assert relapsed(told, {1: replace(trusted(), suspicion_at_ms=NOW_MS)}) == blamed(told[:1])
    assert len(blamed(told)) == 1


def test_suspicion_has_an_end() -> None:
    court = Court(policy=Policy(weight_equivocation=10**6))
    court.devices[1] = replace(court.device, suspicion=10**9 - 5, suspicion_at_ms=NOW_MS)
    court.weigh(Say(1), Say(1, "b"))
    assert court.device.suspicion == 10**9


def test_a_copy_of_a_unit_whose_clock_is_off_is_noticed_as_well() -> None:
    court = Court()
    court.weigh(*[Say(seq, boot=ONE, late_s=5_000) for seq in range(1, 4)])
    found = court.weigh(Say(2, "b", boot=TWO, late_s=5_000), Say(4, boot=ONE, late_s=5_000))
    assert found == ["counter_rollback", "quarantined"]


def test_the_time_of_a_device_whose_clock_is_off_is_doubted_like_any_other() -> None:
    assert Court().weigh(Say(1, late_s=400), Say(2, late_s=401), Say(3, late_s=31 * DAY_S)) == [
        *["accepted"] * 2,
        "stale",
    ]
