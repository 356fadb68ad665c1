"""The laws of ARCHITECTURE.md that one can see without a broker or a database."""

import itertools

import pytest
from msgspec.structs import replace

from device_sim.fault import Fault
from ingest.adapters.memory.store import MemoryStore
from ingest.core.message import RawRecord
from ingest.core.seal import BEGINNING
from ingest.core.verdict import AlertKind, Verdict
from tests.simulation import corridor

FORGERIES = {Fault.FORGED, Fault.TAMPERED, Fault.DOMAIN_CONFUSION, Fault.MALFORMED, Fault.WRONG_DEVICE_KEY}

RAISED_BY_FLEET = {
    AlertKind.CLOCK_DRIFT,
    AlertKind.CROSS_VEHICLE_KEY,
    AlertKind.EQUIVOCATION,
    AlertKind.QUARANTINE,
}


@pytest.fixture(scope="module")
def sent() -> corridor.Traffic:
    return corridor.traffic(seed=11, count=3_000)


@pytest.fixture(scope="module")
def judged(sent: corridor.Traffic) -> tuple[MemoryStore, corridor.Listener]:
    store = corridor.enrolled(sent.entries)
    return store, corridor.run(sent.partitions, store)


def test_every_record_gets_exactly_one_verdict(
    sent: corridor.Traffic, judged: tuple[MemoryStore, corridor.Listener]
) -> None:
    store, listener = judged
    assert corridor.verdicts(store).keys() == sent.deserved.keys()
    for outcome in listener.outcomes:
        positions = outcome.span.to_offset - outcome.span.from_offset
        assert positions == outcome.consumed == sum(outcome.total(verdict) for verdict in Verdict)


def test_every_verdict_is_the_deserved_one(
    sent: corridor.Traffic, judged: tuple[MemoryStore, corridor.Listener]
) -> None:
    assert corridor.undeserved(judged[0], sent) == []
    assert {send.cause for send in sent.deserved.values()} >= set(Fault)


def test_batches_tile_each_partition(judged: tuple[MemoryStore, corridor.Listener]) -> None:
    by_partition = itertools.groupby(
        sorted(judged[0].batches, key=lambda s: (s.partition, s.from_offset)), lambda s: s.partition
    )
    for _, spans in by_partition:
        ends = [0]
        for span in spans:
            assert span.from_offset == ends[-1]
            ends.append(span.to_offset)


def test_the_same_log_gives_the_same_verdicts_and_rows(sent: corridor.Traffic) -> None:
    first, second = corridor.enrolled(sent.entries), corridor.enrolled(sent.entries)
    one = {0: list(_as_one_partition(sent))}
    corridor.run(one, first)
    corridor.run(one, second)
    assert corridor.verdicts(first) == corridor.verdicts(second)
    assert first.devices == second.devices


@pytest.mark.parametrize(
    ("batch_records_max", "batch_samples_max"), [(1, 50_000), (7, 50_000), (256, 50_000), (8_000, 50_000), (8_000, 1)]
)
def test_batches_do_not_matter(sent: corridor.Traffic, batch_records_max: int, batch_samples_max: int) -> None:
    whole, cut = corridor.enrolled(sent.entries), corridor.enrolled(sent.entries)
    one = {0: list(_as_one_partition(sent))}
    corridor.run(one, whole, 1_000_000)
    corridor.run(one, cut, batch_records_max, batch_samples_max)
    assert corridor.verdicts(cut) == corridor.verdicts(whole)
    assert cut.devices == whole.devices
    assert cut.leases[corridor.TOPIC, 0].seal == whole.leases[corridor.TOPIC, 0].seal != BEGINNING
    assert list(cut.alerts.values()) == list(whole.alerts.values())
    assert {alert.kind for alert in whole.alerts.values()} >= RAISED_BY_FLEET


def _as_one_partition(sent: corridor.Traffic) -> list[RawRecord]:
    records = itertools.chain.from_iterable(sent.partitions[partition] for partition in sorted(sent.partitions))
    return [replace(record, partition=0, offset=offset) for offset, record in enumerate(records)]


def test_unverified_traffic_and_replays_change_no_device(sent: corridor.Traffic) -> None:
    """Take the guilty messages alone, then with everything that was accepted before, sent again."""
    store = corridor.enrolled(sent.entries)
    forged = [
        send.value or b""
        for send in sent.deserved.values()
        if send.cause in FORGERIES and send.verdict is Verdict.REFUSED
    ]
    assert len(forged) > 30
    before = dict(store.devices)
    corridor.run({0: _records(forged)}, store)
    assert store.devices == before

    store = corridor.enrolled(sent.entries)
    corridor.run(sent.partitions, store)
    before = dict(store.devices)
    again = [send.value or b"" for send in sent.deserved.values() if send.verdict is Verdict.ACCEPTED]
    corridor.run({9: _records(again + forged, partition=9)}, store)
    assert store.devices == before
    given = [verdict for (partition, _), verdict in corridor.verdicts(store).items() if partition == 9]
    assert given[: len(again)] == [(Verdict.DUPLICATE, "")] * len(again)


def _records(values: list[bytes], partition: int = 0) -> list[RawRecord]:
    received_at_ms = int(corridor.START_S * 1000)
    return [RawRecord(corridor.TOPIC, partition, offset, received_at_ms, value) for offset, value in enumerate(values)]
