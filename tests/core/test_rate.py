"""How much may come at once: who is charged, who waits, and who is to blame."""

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.core.alert import proven
from ingest.core.device import KeyState, Standing
from ingest.core.policy import Policy
from ingest.core.rate import FLEET, Bucket, Rate, take
from ingest.core.verdict import AlertKind, Evidence, Refusal
from tests.core.court import DAY_S, NOW_MS, Court, Say, trusted

FREE = {"tenant_burst_max": 10**6, "fleet_burst_max": 10**6}
SLOW = Policy(device_per_s_max=1, device_burst_max=3, device_away_s_max=100, **FREE)
DAY_MS = int(DAY_S) * 1000


def used(policy: Policy = SLOW) -> Court:
    """Give a court with a device that has sent a message a moment ago, and has its burst left."""
    court = Court(policy=policy)
    court.devices = {1: trusted()}
    court.weigh(*[Say(seq) for seq in range(1, 101)])
    court.weigh(Say(101, at_ms=NOW_MS + 3_000))
    return court


def left(court: Court) -> float:
    return court.device.rate.level_milli / 1000


def test_a_bucket_fills_with_the_brokers_clock_up_to_its_burst() -> None:
    rate = Rate(per_s=2, burst=10)
    empty = Bucket(0, NOW_MS)
    assert take(empty, 1, NOW_MS + 499, rate) is None
    assert take(empty, 1, NOW_MS + 500, rate) == Bucket(0, NOW_MS + 500)
    assert take(empty, 1, NOW_MS + DAY_MS, rate) == Bucket(9_000, NOW_MS + DAY_MS)
    assert take(Bucket(), 10, NOW_MS, rate) == Bucket(0, NOW_MS), "a new one is full"


def test_a_clock_that_goes_back_fills_nothing_twice() -> None:
    rate = Rate(per_s=1, burst=10)
    after = take(Bucket(5_000, NOW_MS), 1, NOW_MS - 60_000, rate)
    assert after == Bucket(4_000, NOW_MS)


def test_who_was_silent_may_send_at_once_what_that_time_would_have_brought_and_no_more_than_the_longest() -> None:
    rate = Rate(per_s=2, burst=10, away_s_max=100)
    empty = Bucket(0, NOW_MS)
    assert take(empty, 120, NOW_MS + 60_000, rate) == Bucket(0, NOW_MS + 60_000)
    assert take(empty, 121, NOW_MS + 60_000, rate) is None
    assert take(empty, 200, NOW_MS + DAY_MS, rate) == Bucket(0, NOW_MS + DAY_MS)
    assert take(empty, 201, NOW_MS + DAY_MS, rate) is None


def test_what_is_left_of_a_long_silence_is_not_lost_while_it_is_sent() -> None:
    rate = Rate(per_s=2, burst=10, away_s_max=100)
    back = take(Bucket(0, NOW_MS), 1, NOW_MS + 100_000, rate)
    assert back is not None
    assert take(back, 199, NOW_MS + 101_000, rate) is not None


def test_more_than_a_device_may_send_waits_and_the_device_goes_on_at_its_rate() -> None:
    court = used()
    assert left(court) == 2
    found = court.weigh(*[Say(seq, at_ms=NOW_MS + 3_000) for seq in range(200, 204)])
    assert found == ["accepted", "accepted", "rate_limited", "rate_limited"]
    assert court.weigh(Say(204, at_ms=NOW_MS + 4_000)) == ["accepted"]


def test_a_vehicle_that_comes_back_may_send_what_it_kept() -> None:
    court = used()
    at_ms = NOW_MS + 83_000
    found = court.weigh(*[Say(seq, late_s=10_000 - seq, at_ms=at_ms) for seq in range(200, 281)])
    assert found == ["accepted"] * 80 + ["rate_limited"]


def test_only_what_is_accepted_is_charged() -> None:
    court = used()
    before = court.device.rate
    says = [
        Say(101, at_ms=NOW_MS + 3_000),  # a duplicate
        Say(300, authentic=False),
        Say(301, refused=Refusal.OUT_OF_RANGE),
        Say(302, readable=False),
        Say(303, key=KeyState.RETIRED, cutoff=1),
    ]
    court.weigh(*says * 20)
    assert court.device.rate == before


def test_what_waits_is_a_duplicate_when_it_comes_again_and_owns_its_number() -> None:
    court = used()
    late = [Say(seq, at_ms=NOW_MS + 3_000) for seq in range(200, 203)]
    court.weigh(*late)
    assert court.weigh(late[2]) == ["duplicate"]
    assert court.weigh(Say(202, content="b", at_ms=NOW_MS + DAY_MS)) == ["equivocation"]


def test_a_device_that_does_not_stop_is_quarantined() -> None:
    court = used(Policy(device_per_s_max=1, device_burst_max=3, device_away_s_max=100, quarantined_from=4, **FREE))
    flood = [Say(seq, str(seq), at_ms=NOW_MS + 3_000) for seq in range(200, 208)]
    expected = ["accepted"] * 2 + ["rate_limited"] * 4 + ["quarantined"] * 2
    assert [accusation.evidence for accusation in court.judge(*flood).accusations] == [Evidence.RATE] * 4
    assert court.weigh(*flood) == expected
    assert court.device.standing is Standing.QUARANTINED


def test_a_noisy_neighbour_costs_its_tenant_and_nobody_is_blamed() -> None:
    policy = Policy(tenant_per_s_max=1, tenant_burst_max=4, fleet_burst_max=10**6)
    court = Court(*[trusted(number) for number in (1, 2, 3)], policy=policy)
    noisy, calm = [Say(seq) for seq in range(1, 5)], Say(1, device_no=2)
    stranger = Say(1, device_no=3, tenant_no=2)
    outcome = court.judge(*noisy, calm, stranger)
    assert outcome.accusations == []
    assert [alert.kind for alert in proven(outcome, policy)] == [AlertKind.SHARE_SPENT]
    assert court.weigh(*noisy, calm, stranger) == ["accepted"] * 4 + ["rate_limited", "accepted"]
    assert court.devices[2].standing is Standing.TRUSTED
    assert court.devices[2].rate == Bucket(), "who is not accepted is not charged"


def test_all_together_have_a_ceiling() -> None:
    policy = Policy(fleet_per_s_max=1, fleet_burst_max=2)
    court = Court(*[trusted(number) for number in (1, 2, 3)], policy=policy)
    says = [Say(1, device_no=number, tenant_no=number) for number in (1, 2, 3)]
    (alert,) = proven(court.judge(*says), policy)
    assert (alert.subject, alert.verified) == ("fleet in t/0", None)
    assert court.weigh(*says) == ["accepted", "accepted", "rate_limited"]
    assert court.shares[FLEET] == Bucket(0, NOW_MS)


def test_what_is_released_is_charged_to_nobody() -> None:
    court = used()
    court.charging = False
    assert court.weigh(*[Say(seq, at_ms=NOW_MS + 3_000) for seq in range(200, 300)]) == ["accepted"] * 100


any_say = st.builds(
    Say,
    seq=st.integers(1, 40),
    content=st.sampled_from("aab"),
    device_no=st.sampled_from((1, 2)),
    at_ms=st.integers(NOW_MS, NOW_MS + 8_000),  # in no order
    authentic=st.booleans(),
)


@settings(deadline=None)  # time is not what is tested
@given(st.lists(any_say, min_size=1, max_size=40), st.sets(st.integers(1, 39), max_size=8))
def test_any_cut_gives_the_same_verdicts_and_buckets(says: list[Say], cuts: set[int]) -> None:
    policy = Policy(
        device_per_s_max=1, device_burst_max=3, device_away_s_max=4, tenant_per_s_max=2, tenant_burst_max=5,
        quarantined_from=105,
    )  # fmt: skip
    whole, parts = (Court(trusted(1), trusted(2), policy=policy) for _ in range(2))
    found = whole.weigh(*says)
    for start, end in itertools.pairwise([0, *sorted(cut for cut in cuts if cut < len(says)), len(says)]):
        assert parts.weigh(*says[start:end]) == found[start:end]
    assert (parts.devices, parts.shares) == (whole.devices, whole.shares)


def test_who_is_kept_back_and_comes_late_is_not_to_blame() -> None:
    court = used(Policy(device_per_s_max=1, device_burst_max=3, device_away_s_max=100, quarantined_from=4, **FREE))
    late = [Say(seq, str(seq), at_ms=NOW_MS + 3_000, late_s=3_600) for seq in range(200, 208)]
    assert court.weigh(*late) == ["accepted"] * 2 + ["rate_limited"] * 6
    assert court.device.suspicion == 0
