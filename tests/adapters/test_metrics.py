import re
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from ingest.core.device import Algorithm, Key, KeyState, Sender
from ingest.core.message import Envelope, RawRecord, Reading, Refused, Sample, Unreadable, Verified
from ingest.core.outcome import Accepted, Duplicate, Held, Judged, Outcome, Span, account
from ingest.core.verdict import AlertKind, Hold, Refusal, TimeQuality, Verdict
from ingest.metrics import REASONS, STUCK_S_MAX, Metrics
from ingest.ports import Backlog, BrokenLogError, FencedError, TroubleError

if TYPE_CHECKING:
    from collections.abc import Callable

    from ingest.worker import Observer

DEPLOY = Path(__file__).parents[2] / "deploy"


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


def verified(device_id: str, partition: int = 0) -> Verified:
    record = RawRecord("telemetry.raw", partition, 0, 0, b"")
    envelope = Envelope(record, -8, b"k", device_id, 0.0, None, 1, 1, bytes(8), "1.0", bytes(32), b"", bytes(64), b"")
    key = Key(1, b"k", Algorithm.ED25519, bytes(32), KeyState.ACTIVE, 0, None, None)
    return Verified(envelope, Sender(1, 1, 1, 1, {}), key, bytes(32))


def accepted(device_id: str, *kinds: str) -> Accepted:
    samples = tuple(Sample(kind, ()) for kind in kinds)
    return Accepted(Reading(verified(device_id), 1, samples), TimeQuality.OK)


def outcome_of(judged: list[Judged], partition: int = 0) -> Outcome:
    return account(judged, [], [], Span("telemetry.raw", partition, 100, 100 + len(judged)))


def every_verdict(device_id: str) -> list[Judged]:
    message = verified(device_id)
    held = [Held(Unreadable(message, 1), hold) for hold in Hold]
    refused = [Refused(message, refusal, "") for refusal in Refusal]
    return [accepted(device_id, "VehicleState"), Duplicate(message), *held, *refused]


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"weighbridge_{name}", labels)


def test_metrics_are_what_the_worker_tells() -> None:
    metrics = Metrics("0.1.0", "portable")
    observer: Observer = metrics  # mypy says so
    observer.batch(outcome_of([accepted("d", "VehicleState")]), 0.1, 5)
    assert value(metrics, "lag_records", partition="0") == 5


def test_a_batch_is_counted_by_verdict_and_reason() -> None:
    metrics = Metrics("0.1.0", "portable")
    duplicates = [Duplicate(verified("d"))] * 2
    refused = [Refused(verified("d"), Refusal.OUT_OF_RANGE, "")] * 3
    states = accepted("d", "VehicleState", "VehicleState", "Diagnostics")
    metrics.batch(outcome_of([states, *duplicates, *refused], partition=4), 0.1, 17)
    assert value(metrics, "messages_total", verdict="accepted", reason="") == 1
    assert value(metrics, "messages_total", verdict="duplicate", reason="") == 2
    assert value(metrics, "messages_total", verdict="refused", reason="out_of_range") == 3
    assert value(metrics, "messages_total", verdict="refused", reason="malformed") == 0
    assert value(metrics, "samples_total", kind="VehicleState") == 2
    assert value(metrics, "samples_total", kind="Diagnostics") == 1
    assert value(metrics, "consumed_total") == 6
    assert value(metrics, "batch_records_sum") == 6
    assert value(metrics, "batch_records_count") == 1
    assert value(metrics, "batch_seconds_sum") == pytest.approx(0.1)
    assert value(metrics, "lag_records", partition="4") == 17


def test_offsets_that_the_log_skipped_are_not_consumed() -> None:
    metrics = Metrics("0.1.0", "portable")
    judged: list[Judged] = [accepted("d", "VehicleState"), Duplicate(verified("d"))]
    metrics.batch(account(judged, [], [], Span("telemetry.raw", 0, 100, 105, ((101, 104),))), 0.1, 0)
    assert value(metrics, "consumed_total") == 2


def test_every_verdict_and_reason_is_there_before_it_happens() -> None:
    metrics = Metrics("0.1.0", "portable")
    assert set(REASONS) == set(Verdict)
    for verdict, reasons in REASONS.items():
        for reason in reasons:
            assert value(metrics, "messages_total", verdict=verdict, reason=reason) == 0


def test_the_number_of_series_does_not_grow_with_devices_or_time() -> None:
    metrics = Metrics("0.1.0", "portable")
    metrics.batch(outcome_of(every_verdict("first")), 0.1, 0)
    before = metrics.render().count(b"\n")
    for number in range(100):
        metrics.batch(outcome_of(every_verdict(f"device-{number}")), 0.1, number)
    text = metrics.render()
    assert text.count(b"\n") == before
    assert b"device-" not in text


def test_trouble_and_being_fenced_are_told_apart() -> None:
    metrics = Metrics("0.1.0", "portable")
    for error in (TroubleError("x"), FencedError("x"), TroubleError("y")):
        metrics.trouble(0, error)
    assert value(metrics, "retries_total", what="trouble") == 2
    assert value(metrics, "retries_total", what="fenced") == 1


def test_a_partition_has_a_lag_and_an_age_while_it_is_ours_whatever_comes_of_its_attempts() -> None:
    clock = Clock()
    metrics = Metrics("0.1.0", "portable", clock)
    metrics.begun(3)
    metrics.taken(3)
    assert value(metrics, "takeovers_total", partition="3") == 1
    assert value(metrics, "lag_records", partition="3") is None
    metrics.batch(outcome_of(every_verdict("d"), partition=3), 0.1, 9)
    clock.now_s += 40
    metrics.trouble(3, TroubleError("x"))
    metrics.taken(3)
    assert value(metrics, "lag_records", partition="3") == 9
    assert value(metrics, "progress_age_seconds", partition="3") == 40
    metrics.left(3)
    assert value(metrics, "lag_records", partition="3") is None
    assert value(metrics, "progress_age_seconds", partition="3") is None


def test_a_partition_that_never_had_a_batch_can_be_given_up() -> None:
    metrics = Metrics("0.1.0", "portable")
    metrics.begun(3)
    metrics.left(3)
    metrics.begun(3)
    assert metrics.find_faults() == ["partition 3 is assigned but not taken over"]


def test_a_halted_partition_is_told_and_is_no_reason_to_start_a_process_again() -> None:
    clock = Clock()
    metrics = Metrics("0.1.0", "portable", clock)
    for partition in (0, 1):
        metrics.begun(partition)
        metrics.taken(partition)
    metrics.trouble(1, BrokenLogError("x"))
    clock.now_s += STUCK_S_MAX + 1
    metrics.idle(0, 0)
    assert value(metrics, "halted", partition="1") == 1
    assert value(metrics, "halted", partition="0") == 0
    assert metrics.find_faults() == []
    metrics.taken(1)
    assert value(metrics, "halted", partition="1") == 0
    assert metrics.find_faults() == [f"partition 1: no progress for {STUCK_S_MAX + 1:.0f} s"]
    metrics.left(1)
    assert value(metrics, "halted", partition="1") is None


def test_of_what_no_bytes_are_kept_is_counted() -> None:
    metrics = Metrics("0.1.0", "portable")
    records = [RawRecord("telemetry.raw", 0, at, 0, content) for at, content in enumerate((b"a", b"b", b""))]
    refused = [Refused(record, Refusal.MALFORMED, "") for record in records]
    held = [Held(Unreadable(verified("d"), 1), Hold.QUARANTINED, whole=whole) for whole in (True, False)]
    outcome = outcome_of([*refused, *held, Duplicate(verified("d"))])
    metrics.batch(msgspec.structs.replace(outcome, shown={0: 1}), 0.1, 0)
    counted = {verdict: value(metrics, "unkept_total", verdict=verdict) for verdict in Verdict}
    assert counted == {"refused": 1, "held": 1, "duplicate": 0, "accepted": None}, "an empty one has nothing to keep"


def test_alerts_that_wait_grow_older_between_two_looks() -> None:
    clock = Clock()
    metrics = Metrics("0.1.0", "portable", clock)
    assert value(metrics, "alerts_unpublished_age_seconds") == 0
    metrics.waiting(Backlog(7, 12.0))
    clock.now_s += 30
    assert value(metrics, "alerts_unpublished") == 7
    assert value(metrics, "alerts_unpublished_age_seconds") == 42
    metrics.published({"clone": 7})
    metrics.waiting(Backlog())
    clock.now_s += 30
    assert value(metrics, "alerts_unpublished_age_seconds") == 0
    counted = {kind: value(metrics, "alerts_published_total", kind=kind) for kind in AlertKind}
    assert counted == {kind: 7 if kind is AlertKind.CLONE else 0 for kind in AlertKind}


def test_a_batch_and_a_read_that_found_nothing_are_progress() -> None:
    clock = Clock()
    metrics = Metrics("0.1.0", "portable", clock)
    metrics.begun(0)
    metrics.taken(0)
    progress: list[Callable[[], None]] = [
        lambda: metrics.batch(outcome_of(every_verdict("d")), 0.1, 5),
        lambda: metrics.idle(0, 0),
    ]
    for come_on in progress:
        clock.now_s += STUCK_S_MAX
        assert metrics.find_faults() == []
        clock.now_s += 1
        assert metrics.find_faults() == [f"partition 0: no progress for {STUCK_S_MAX + 1:.0f} s"]
        metrics.trouble(0, TroubleError("x"))
        metrics.taken(0)
        assert len(metrics.find_faults()) == 1, "another attempt is no progress"
        come_on()
        assert metrics.find_faults() == []
        assert value(metrics, "progress_age_seconds", partition="0") == 0


def test_two_workers_in_one_process_do_not_share_their_counts() -> None:
    one, other = Metrics("0.1.0", "portable"), Metrics("0.1.0", "portable")
    one.taken(0)
    assert value(one, "takeovers_total", partition="0") == 1
    assert value(other, "takeovers_total", partition="0") is None


def rules() -> str:
    return (DEPLOY / "alerts.yaml").read_text(encoding="utf-8")


def test_alerts_speak_of_metrics_labels_and_reasons_that_exist() -> None:
    metrics = Metrics("0.1.0", "portable")
    metrics.begun(0)
    metrics.taken(0)
    metrics.batch(outcome_of(every_verdict("d")), 0.1, 0)
    shown = metrics.render().decode()
    for name in re.findall(r"\b(?:weighbridge|process)_\w+", rules()):
        family = name.removesuffix("_total")
        assert f"# TYPE {name} " in shown or f"# TYPE {family} " in shown, name
    for name, selector in re.findall(r"(weighbridge_\w+)\{(.*?)\}", rules()):
        for label, value in re.findall(r'(\w+)!?="(\w*)"', selector):
            assert re.search(rf'{name}{{[^}}]*{label}="{value}"', shown), (name, label, value)


def test_each_alert_says_what_it_means_is_tried_and_has_its_place_in_the_runbook() -> None:
    alerts = re.findall(r"- alert: (\w+)", rules())
    assert len(alerts) == rules().count("summary:") == len(set(alerts))
    tried = (DEPLOY / "alerts_test.yaml").read_text(encoding="utf-8")
    assert set(re.findall(r"alertname: (\w+)", tried)) == set(alerts)
    runbook = (DEPLOY / "RUNBOOK.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (Weighbridge\w+)$", runbook, re.MULTILINE) == alerts
