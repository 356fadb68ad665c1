"""Which alerts does an outcome raise? One for an occasion, whatever the cut, and few of what nobody signed."""

from collections.abc import Iterable, Sequence

import pytest
from msgspec.structs import replace

from ingest.core.alert import CLAIMS_MAX, DAY_MS, HOUR_MS, SCAN_MS, alarm
from ingest.core.device import KeyState
from ingest.core.message import Envelope, RawRecord, Refused
from ingest.core.outcome import Alert, Strangers, account, span_of
from ingest.core.policy import Policy
from ingest.core.standing import Trips
from ingest.core.verdict import AlertKind, Refusal
from tests.core.court import NOW_MS, Court, Say, trusted

POLICY = Policy()
HOURS = NOW_MS - NOW_MS % DAY_MS  # the beginning of a day, and so of an hour


def raised(court: Court, *says: Say) -> Sequence[Alert]:
    """Judge and commit a batch, and give what it raises."""
    outcome = alarm(court.judge(*says), Strangers(), court.policy)
    court.weigh(*says)
    return outcome.alerts


def kinds(alerts: Iterable[Alert]) -> list[str]:
    return [alert.kind.value for alert in alerts]


def claim(offset: int, device: str, reason: Refusal, at_ms: int = NOW_MS) -> Refused:
    record = RawRecord("t", 0, offset, at_ms, b"")
    body = (record, -8, b"k", device, 0.0, None, 7, 1, b"boot-001", "1.0", bytes(32), b"", b"", b"")
    return Refused(Envelope(*body), reason, "why")


def claims(*refused: Refused, strangers: Strangers | None = None) -> tuple[Sequence[Alert], Strangers]:
    first = refused[0].record.offset
    outcome = account(refused, [], [], span_of([one.record for one in refused], first))
    done = alarm(outcome, strangers or Strangers(), POLICY)
    return done.alerts, done.strangers


def test_equivocation_raises_itself_and_the_quarantine_with_what_finds_the_message() -> None:
    court = Court()
    alerts = raised(court, Say(1), Say(1, "b"), Say(2))
    assert kinds(alerts) == ["equivocation", "quarantine"]
    for alert in alerts:
        assert (alert.subject, alert.record.offset) == ("d-1", 1)
        assert alert.evidence["seq"] == 1
        assert alert.evidence["digest"] == b"b".ljust(32).hex()
    assert alerts[1].evidence["after"] == "quarantined"


def test_evidence_is_told_once_an_hour_and_each_quarantine() -> None:
    court = Court(policy=Policy(quarantined_from=10**9))
    says = [
        Say(1, at_ms=HOURS),
        *[Say(1, f"{n}", at_ms=HOURS + n) for n in range(1, 20)],
        Say(1, "z", at_ms=HOURS + HOUR_MS),
    ]
    alerts = raised(court, *says)
    assert kinds(alerts) == ["equivocation"] * 2
    assert [alert.record.offset for alert in alerts] == [1, 20]
    assert len({alert.id for alert in alerts}) == 2


def test_interleaved_boots_raise_a_clone_and_a_number_beyond_the_cutoff_its_key() -> None:
    clone = Court()
    turns = [Say(1), Say(2, boot="boot-002"), Say(3)]
    assert kinds(raised(clone, *turns)) == ["clone", "quarantine"]
    thief = Court()
    assert kinds(raised(thief, Say(9, key=KeyState.RETIRED, cutoff=5))) == ["retired_key_used"]


def test_an_honest_device_raises_nothing() -> None:
    court = Court()
    lost_counter = Say(1, "b", boot="boot-002")
    says = [Say(1), Say(2), Say(2), Say(9), Say(4, late_s=7 * 86_400), lost_counter, Say(10, boot="boot-002")]
    assert raised(court, *says) == []
    forged = [Say(seq, "x", authentic=False, device_no=1) for seq in range(1, 200)]
    assert raised(court, *forged) == []


def test_a_cohort_that_is_spared_raises_one_alert_a_window() -> None:
    court = Court(trusted(1), trusted(2), policy=Policy(guard_devices_min=0, guard_share_percent_max=0))
    court.trips[1, "1.0"] = Trips((), 1)
    both = [Say(1), Say(1, device_no=2), Say(1, "b"), Say(1, "b", device_no=2)]
    alerts = raised(court, *both)
    assert kinds(alerts) == ["equivocation", "fleet_guard", "equivocation"]
    assert alerts[1].subject == "cohort 1 1.0"


def test_a_clock_that_is_off_for_long_is_told_once_a_day() -> None:
    court = Court()
    hours = [Say(n + 1, late_s=-400, at_ms=HOURS + n * HOUR_MS) for n in range(30)]
    alerts = raised(court, *hours)
    assert kinds(alerts) == ["clock_drift"] * 2
    assert [alert.record.offset for alert in alerts] == [6, 24]
    assert alerts[0].evidence["ahead_s"] == 400.0
    assert alerts[0].evidence["off_for_s"] == 6 * 3_600.0


def test_late_data_and_a_clock_that_was_set_right_are_no_drift() -> None:
    court = Court()
    off = [Say(n + 1, late_s=-400, at_ms=HOURS + n * HOUR_MS) for n in range(6)]
    well = [Say(n + 1, late_s=0 if n == 6 else -400, at_ms=HOURS + n * HOUR_MS) for n in range(6, 13)]
    assert raised(court, *off, *well) == []
    live = [Say(100 + n, at_ms=HOURS + n * HOUR_MS) for n in range(30)]
    old = [Say(50 + n, late_s=86_400, at_ms=HOURS + n * HOUR_MS) for n in range(30)]
    assert raised(Court(), *[say for pair in zip(live, old, strict=True) for say in pair]) == []


def test_a_clock_far_in_the_future_is_told_at_once() -> None:
    alerts = raised(Court(), Say(1, late_s=-1e300))
    assert kinds(alerts) == ["clock_drift"]
    assert alerts[0].evidence["ahead_s"] == 1e12


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        (Refusal.KEY_REVOKED, AlertKind.REVOKED_KEY_USED),
        (Refusal.WRONG_DEVICE, AlertKind.CROSS_VEHICLE_KEY),
    ],
)
def test_what_nobody_signed_is_told_once_an_hour_and_names_nobody_as_guilty(reason: Refusal, kind: AlertKind) -> None:
    hour = [claim(n, "d-1", reason, HOURS + n * 60_000) for n in range(90)]
    alerts, _ = claims(*hour)
    assert [(alert.kind, alert.record.offset, alert.verified) for alert in alerts] == [
        (kind, 0, None),
        (kind, 60, None),
    ]
    assert alerts[0].evidence["claimed_device"] == "d-1"


def test_a_flood_of_claims_about_a_whole_fleet_raises_no_more_than_there_are_slots() -> None:
    flood = [claim(n, f"d-{n}", Refusal.KEY_REVOKED, HOURS) for n in range(20_000)]
    alerts, _ = claims(*flood)
    assert len(alerts) == CLAIMS_MAX
    few, _ = claims(*[claim(n, f"d-{n}", Refusal.KEY_REVOKED, HOURS) for n in range(5)])
    assert len(few) == 5


def test_ids_that_nobody_has_raise_one_alert_when_they_are_many_and_none_when_one_is_repeated() -> None:
    scan = [claim(n, f"x-{n}", Refusal.UNKNOWN_DEVICE, HOURS) for n in range(5_000)]
    alerts, strangers = claims(*scan)
    assert kinds(alerts) == ["unknown_devices"]
    assert (alerts[0].subject, alerts[0].evidence["ids_at_least"]) == ("t/0", POLICY.strangers_max)
    again = [claim(5_000 + n, f"y-{n}", Refusal.UNKNOWN_DEVICE, HOURS) for n in range(500)]
    assert claims(*again, strangers=strangers)[0] == []
    lost = [claim(n, f"x-{n % 40}", Refusal.UNKNOWN_DEVICE, HOURS) for n in range(5_000)]
    assert claims(*lost)[0] == []
    slow = [claim(n, f"x-{n}", Refusal.UNKNOWN_DEVICE, HOURS + n * SCAN_MS // 40) for n in range(400)]
    assert claims(*slow)[0] == []


@pytest.mark.parametrize("size", [1, 3, 64])
def test_any_cut_raises_the_same_alerts_and_names_the_same_records(size: int) -> None:
    reasons = (Refusal.UNKNOWN_DEVICE, Refusal.KEY_REVOKED, Refusal.WRONG_DEVICE, Refusal.UNKNOWN_DEVICE)
    flood = [claim(n, f"d-{n % 211}", reasons[n % 4], HOURS + n * 5_000) for n in range(1_500)]
    whole, left = claims(*flood)
    cut: dict[str, Alert] = {}
    strangers = Strangers()
    for start in range(0, len(flood), size):
        alerts, strangers = claims(*flood[start : start + size], strangers=strangers)
        for alert in alerts:
            cut.setdefault(alert.id, alert)
    assert list(cut.values()) == list(whole)
    assert strangers == left


def test_the_same_content_in_another_place_is_the_same_quarantine() -> None:
    one, other = Court(), Court()
    first = raised(one, Say(1), Say(1, "b"))
    later = raised(other, Say(1), Say(2), Say(1, "b"))
    assert [alert.id for alert in first] == [alert.id for alert in later]
    assert replace(first[1], record=later[1].record) == replace(later[1], verified=first[1].verified)
