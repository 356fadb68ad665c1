"""Do the simulator's truth and the core agree? Two readings of envelope.md, made apart, meet here, without servers."""

from collections.abc import Iterator
from itertools import islice

import pytest

from device_sim.fault import Fault
from device_sim.fleet import MIXES, Plan, sends
from device_sim.identity import Fleet, Identity
from device_sim.truth import Comparison, Deserved, Found
from device_sim.vehicle import Send
from ingest.adapters.memory.store import MemoryStore
from ingest.core import payload
from ingest.core.device import Device, Key, KeyState, Sender, Standing
from ingest.core.enrolment import admit
from ingest.core.examine import Examiner
from ingest.core.message import RawRecord
from ingest.core.outcome import span_of
from ingest.core.policy import Policy
from ingest.core.signature import OpenSSL
from ingest.decision import decide
from schemas import read_telemetry

START_S = 1_795_000_000.0
BATCH = 500
MESSAGES = 6_000


def enrolled(identity: Identity) -> MemoryStore:
    senders, devices = {}, []
    for number, one in enumerate(identity.registrations()):
        algorithm, public = admit(one.alg, one.public_key)
        kid = bytes.fromhex(one.kid)
        key = Key(number, kid, algorithm, public, KeyState.ACTIVE, 0, None, None)
        senders[one.device_id] = Sender(number, number, 1, 1, {kid: key})
        devices.append(Device(number, Standing.TRUSTED, 1, one.epoch, 0, (), {}))
    return MemoryStore(senders, devices)


def landed(sent: list[Send], *, late_partition_first: bool) -> Iterator[tuple[RawRecord, Send]]:
    """Two partitions: the devices' own, and the one that copies are sent to."""
    parts = [[s for s in sent if not s.partition_shift], [s for s in sent if s.partition_shift]]
    order = (1, 0) if late_partition_first else (0, 1)
    for partition in order:
        for offset, send in enumerate(parts[partition]):
            yield RawRecord("t", partition, offset, int((START_S + 60) * 1000), send.value or b""), send


async def weigh(store: MemoryStore, partition: int, records: list[RawRecord]) -> None:
    examiner = Examiner(Policy(), payload.load(read_telemetry()), OpenSSL())
    async with store.take_over("t", partition) as lease:
        for first in range(0, len(records), BATCH):
            batch = records[first : first + BATCH]
            read = examiner.read(batch)
            examined = examiner.examine(read, await lease.key_ring(read))
            async with lease.transaction() as transaction:
                span = span_of(batch, lease.next_offset)
                await transaction.commit(await decide(transaction, examined, Policy(), span))


@pytest.mark.parametrize("seed", range(4))
async def test_every_send_gets_the_verdict_that_it_deserves(seed: int) -> None:
    fleet = Fleet(seed, vehicles=200)
    plan = Plan(fleet, MIXES["everything"], START_S, samples_max=3)
    sent = list(islice(sends(plan), MESSAGES))
    assert {send.cause for send in sent} >= set(Fault)
    store, comparison = enrolled(Identity(fleet)), Comparison()
    records: dict[int, list[RawRecord]] = {0: [], 1: []}
    for record, send in landed(sent, late_partition_first=seed % 2 == 1):
        records[record.partition].append(record)
        comparison.expect(
            Deserved(
                "t", record.partition, record.offset, send.verdict, send.reason, send.group, send.cause, send.device_id
            )
        )
    for partition in (0, 1) if seed % 2 == 0 else (1, 0):
        await weigh(store, partition, records[partition])
    for (topic, partition, offset), verdicts in store.verdicts.items():
        for verdict, reason in verdicts:
            comparison.find(Found(topic, partition, offset, verdict, reason))
    differences = comparison.differences()
    assert differences.agrees, differences
