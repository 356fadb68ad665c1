"""The main job: a fleet that does everything goes over the weighbridge, and what the store says of it is looked at."""

import base64
import hashlib
import io
import json
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import cbor2
import fastavro
import msgspec
import pytest
from aiokafka import ConsumerRecord
from prometheus_client.parser import text_string_to_metric_families

import schemas
from deploy import embedded
from ingest.core.policy import Policy
from tests.whole.house import House, free_ports_in_a_row, open_house, wait_for

pytestmark = pytest.mark.real

MESSAGES = 6_000
FLEET = ("simulate", "--vehicles", "300", "--samples", "4", "--seed", "7")
PROCESSES = 2
ALERTS = Path(__file__).parents[2] / "deploy" / "alerts.yaml"
REFUSED_BYTES_MAX = 100
POLICY = Policy(refused_bytes_max=REFUSED_BYTES_MAX)
KINDS = {
    "VehicleState": "vehicle_state",
    "BatteryCharging": "battery_charging",
    "Diagnostics": "diagnostics",
    "SecurityEvent": "security_event",
}
BATCH_FIELDS = {
    "event", "level", "timestamp", "partition", "from_offset", "to_offset", "skipped", "seconds", "waiting",
    "accepted", "duplicate", "held", "refused",
}  # fmt: skip
TRANSITIONS = {"engine", "assigned", "feeding", "revoked", "draining", "stopped"}

Position = tuple[int, int]  # partition, offset
Claims = dict[int, Any]


class Job(msgspec.Struct):
    """A main job that is done, with what the worker said while it ran."""

    house: House
    summary: dict[str, Any]
    status: int
    journal: list[dict[str, Any]]
    journal_text: str
    health: list[dict[str, Any]]
    metrics: list[str]
    registry: dict[str, dict[str, Any]]
    log: dict[Position, ConsumerRecord]
    accepted: dict[Position, asyncpg.Record]


@pytest.fixture(scope="module")
def job(servers: embedded.Addresses, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Job]:
    port = free_ports_in_a_row(PROCESSES)
    settings = {"http_port": port, "policy_refused_bytes_max": REFUSED_BYTES_MAX}
    with open_house(servers, tmp_path_factory.mktemp("job"), **settings) as house:
        with house.worker("--processes", str(PROCESSES)) as worker:
            registry, truth = house.folder / "fleet.jsonl", house.folder / "truth.jsonl"
            house.call(*FLEET, "--registry", registry)
            house.call("devices", "import", registry)
            house.call(*FLEET, "--no-enrol", "--count", str(MESSAGES), "--truth", truth)
            house.wait_consumed(MESSAGES)
            health = [_healthy(port + n) for n in range(PROCESSES)]
            metrics = [_get(port + n, "metrics") for n in range(PROCESSES)]
            status = worker.stop()
        checked = json.loads(house.call("check", "--truth", truth, "--json").splitlines()[-1])
        devices = {line["device_id"]: line for line in map(json.loads, registry.read_text().splitlines())}
        yield Job(
            house, checked, status, worker.journal(), worker.path.read_text(), health, metrics, devices,
            {(record.partition, record.offset): record for record in house.records()},
            {(row["partition"], row["kafka_offset"]): row for row in house.query("select * from weighbridge.message")},
        )  # fmt: skip


def _healthy(port: int) -> dict[str, Any]:
    """Wait until it says so: the last rebalance may still be going on, with partitions assigned but not taken over."""
    said: dict[str, Any] = {}

    def asked() -> bool:
        try:
            said.update(json.loads(_get(port, "healthz")))
        except urllib.error.HTTPError as error:
            with error:
                said.update(json.load(error))
        return bool(said["healthy"])

    wait_for(asked, lambda: f"port {port}: {said}")
    return said


def _get(port: int, path: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=5) as answer:
        return str(answer.read(), "utf-8")


def test_every_message_is_accounted_for_with_the_verdict_that_it_deserves(job: Job) -> None:
    assert job.summary["sent"] == job.summary["consumed"] == MESSAGES
    assert (job.summary["unaccounted"], job.summary["wrong_verdicts"]) == (0, 0)
    assert job.summary["accepted"] > MESSAGES / 2
    assert min(job.summary[verdict] for verdict in ("duplicate", "held", "refused")) > 0
    assert len(job.summary["reasons"]) > 10


def test_sigterm_ends_it_well(job: Job) -> None:
    assert job.status == 0
    assert [event["event"] for event in job.journal].count("stopped") == PROCESSES


def test_batches_tile_each_partition_and_each_position_has_one_verdict(job: Job) -> None:
    job.house.check_tiles()
    assert sum(b.consumed for batches in job.house.batches().values() for b in batches) == MESSAGES
    leases = job.house.query("select partition, next_offset from store.partition_lease")
    ends = {partition: batches[-1].to_offset for partition, batches in job.house.batches().items()}
    assert {row["partition"]: row["next_offset"] for row in leases} == ends


def test_what_is_stored_of_an_accepted_message_is_what_it_said_itself(job: Job) -> None:
    assert len(job.accepted) == job.summary["accepted"]
    for position, row in job.accepted.items():
        record = job.log[position]
        assert row["envelope"] == record.value
        assert row["topic"] == job.house.topic
        assert round(row["received_at"].timestamp() * 1000) == record.timestamp
        header, claims, digest = _said(row["envelope"])
        assert (row["cose_alg"], row["kid"], row["digest"]) == (header[1], header[4].hex(), digest)
        assert _claims_of(row) == claims


def _said(envelope: bytes) -> tuple[dict[int, Any], Claims, bytes]:
    protected, _, payload, _ = cbor2.loads(envelope).value
    header = cbor2.loads(protected)
    signed = cbor2.dumps(["Signature1", protected, b"weighbridge/telemetry/v1", payload])
    claims = {number: _microseconds(claim) if number in (4, 6) else claim for number, claim in header[15].items()}
    return header, claims, hashlib.sha256(signed).digest()


def _microseconds(seconds: float) -> int:
    return round(seconds * 1_000_000)


def _claims_of(row: asyncpg.Record) -> Claims:
    claims = {
        2: row["device_id"],
        4: row["expires_at"] and _microseconds(row["expires_at"].timestamp()),
        6: _microseconds(row["issued_at"].timestamp()),
        -70001: row["epoch"],
        -70002: row["seq"],
        -70003: row["boot"],
        -70004: row["software"],
        -70005: row["configuration"],
    }
    return {number: claim for number, claim in claims.items() if claim is not None}


def test_an_accepted_message_carries_who_it_is_from_and_how_it_was_judged(job: Job) -> None:
    (engine,) = {event["engine"] for event in job.journal if event["event"] == "engine"}
    for row in job.accepted.values():
        line = job.registry[row["device_id"]]
        registered = line["tenant"], line["vehicle_id"], line["epoch"], line["kid"], line["alg"]
        assert (row["tenant"], row["vehicle_id"], row["epoch"], row["kid"], row["algorithm"]) == registered
        assert (row["policy_digest"], row["engine"]) == (POLICY.digest(), engine)
        assert row["build"].startswith("0.1.0+")
        late_s = (row["received_at"] - row["issued_at"]).total_seconds()
        quality = "ok" if abs(late_s) <= POLICY.clock_ok_s_max else "behind" if late_s > 0 else "ahead"
        assert row["time_quality"] == quality
    assert {row["time_quality"] for row in job.accepted.values()} == {"ok", "ahead", "behind"}


def test_every_sample_of_an_accepted_message_is_stored(job: Job) -> None:
    released = {name: _released(text) for name, text in schemas.read_telemetry().items()}
    sent: Counter[tuple[str, str, int, int]] = Counter()
    for row in job.accepted.values():
        payload = cbor2.loads(row["envelope"]).value[2]
        start, schema = released[row["schema"]]
        assert payload[:10] == start
        body: Any = fastavro.schemaless_reader(io.BytesIO(payload[10:]), schema, None, return_record_name=True)
        samples = [kind.rsplit(".", 1)[1] for kind, _ in body["samples"]]
        assert len(samples) == row["samples"]
        sent.update((KINDS[kind], row["device_id"], row["epoch"], row["seq"]) for kind in samples)
    stored: Counter[tuple[str, str, int, int]] = Counter()
    for view in KINDS.values():
        rows = job.house.query(
            f"select device_id, epoch, seq, count(distinct sample_no) from weighbridge.{view} group by 1, 2, 3"  # noqa: S608 (a view named above)
        )
        stored.update({(view, row[0], row[1], row[2]): row[3] for row in rows})
    assert stored == sent


def _released(text: str) -> tuple[bytes, Any]:
    """How a payload of this schema begins, and the schema."""
    schema = fastavro.parse_schema(json.loads(text))
    mark = fastavro.schema.fingerprint(fastavro.schema.to_parsing_canonical_form(schema), "CRC-64-AVRO")
    return b"\xc3\x01" + bytes.fromhex(mark), schema


def test_metrics_and_health_agree_with_the_store(job: Job) -> None:
    assert job.health == [{"healthy": True, "reasons": []}] * PROCESSES
    counted: Counter[tuple[str, ...]] = Counter()
    for text in job.metrics:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                names = tuple(sample.labels[label] for label in ("verdict", "reason", "kind") if label in sample.labels)
                counted[(sample.name, *names)] += int(sample.value)
    verdicts = job.house.query("select verdict, coalesce(reason, ''), count(*) from weighbridge.verdict group by 1, 2")
    told = {key[1:]: n for key, n in counted.items() if key[0] == "weighbridge_messages_total" and n}
    assert told == {(row[0], row[1]): row[2] for row in verdicts}
    assert counted["weighbridge_consumed_total",] == MESSAGES
    assert counted["weighbridge_lag_records",] == 0
    for kind, view in KINDS.items():
        (row,) = job.house.query(f"select count(*) from weighbridge.{view}")  # noqa: S608 (a view named above)
        assert counted["weighbridge_samples_total", kind] == row[0]


def test_the_questions_about_conservation_that_stand_beside_the_alerts_show_nothing(job: Job) -> None:
    lines = ALERTS.read_text(encoding="utf-8").splitlines()
    questions = " ".join(line.removeprefix("#   ") for line in lines if line.startswith("#   ")).split(";")[:-1]
    assert len(questions) == 2
    for question in questions:
        assert job.house.query(question) == []
        assert job.house.query(question.replace("<>", "=").replace("is distinct from", "=")) != [], "it was asked"


def test_the_journal_is_json_about_batches_and_transitions_and_nothing_else(job: Job) -> None:
    ours = {event["event"] for event in job.journal if event["level"] == "info"}  # libraries speak up from warnings on
    assert ours == TRANSITIONS | {"batch"}
    batches = [event for event in job.journal if event["event"] == "batch"]
    assert all(event.keys() == BATCH_FIELDS for event in batches)
    assert sum(event[v] for event in batches for v in ("accepted", "duplicate", "held", "refused")) == MESSAGES


def test_the_journal_shows_nothing_of_what_was_sent(job: Job) -> None:
    for line in job.registry.values():
        key = "".join(line["public_key"].splitlines()[1:-1])
        assert not any(secret in job.journal_text for secret in (line["device_id"], line["kid"], key, key[-43:]))
    for row in job.accepted.values():
        payload = cbor2.loads(row["envelope"]).value[2]
        written = payload[10:26].hex(), base64.b64encode(payload).decode()[16:40], repr(payload[10:26])[2:-1]
        assert not any(form in job.journal_text for form in written)


def test_of_what_is_refused_only_the_beginning_is_kept(job: Job) -> None:
    rows = job.house.query("select * from weighbridge.exception")
    assert Counter(row["verdict"] for row in rows) == {v: job.summary[v] for v in ("duplicate", "refused")}
    for row in rows:
        value = job.log[row["partition"], row["kafka_offset"]].value or b""
        assert (row["envelope_bytes"], row["envelope"]) == (len(value), value[:REFUSED_BYTES_MAX])
    assert max(row["envelope_bytes"] for row in rows) > POLICY.envelope_bytes_max


def test_what_is_held_is_kept_whole(job: Job) -> None:
    rows = job.house.query("select * from weighbridge.held")
    assert len(rows) == job.summary["held"]
    for row in rows:
        assert row["envelope"] == job.log[row["partition"], row["kafka_offset"]].value
