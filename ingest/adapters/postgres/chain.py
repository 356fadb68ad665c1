"""What do stored rows say for good, and what if a lawful act writes one anew? A newer link takes the old one's place.

A batch's links stay as they were committed (ingest/core/seal.py). Where a message left the held lane afterwards, its
position has a newer link in `store.relink`: a chain of its own, for such acts are of no partition's log.
"""

from collections.abc import Sequence

import asyncpg

from ingest.adapters.postgres.connection import Connection
from ingest.adapters.postgres.provenance import Stamp
from ingest.core.seal import BEGINNING, Fact, day_of, link, seal
from ingest.core.verdict import Verdict

RELINK_LOCK = 0x72656C696E6B  # "relink": one after the other; taken last

_LAST = "select relink_no, seal from store.relink order by relink_no desc limit 1"
_APPEND = """
    insert into store.relink (relink_no, topic_no, partition, offsets, links, judged_by, seal)
    values ($1, $2, $3, $4, $5, $6, $7)"""

# What a fact is made of, of all rows of some offsets of a partition.
FACTS = """
    select kafka_offset, partition, 'accepted' as verdict, time_quality as reason, received_at, issued_at, judged_by,
           traceparent, envelope, null::integer as envelope_bytes, null::bigint as device_no, null::bigint as key_no,
           null::float8 as issued_at_s, null::bytea as boot, null::bigint as epoch, null::bigint as seq,
           null::bytea as digest, null as detail, null as reached, null as device_id
    from store.message where topic_no = $1 and partition = $2 and kafka_offset >= $3 and kafka_offset < $4
    union all
    select kafka_offset, partition, 'held', reason, received_at, null, judged_by,
           traceparent, envelope, envelope_bytes, device_no, key_no,
           issued_at_s, boot, epoch, seq, digest, null, null, null
    from store.held where topic_no = $1 and partition = $2 and kafka_offset >= $3 and kafka_offset < $4
    union all
    select kafka_offset, partition, verdict, reason, received_at, null, judged_by,
           null, envelope, envelope_bytes, null, null,
           null, null, epoch, seq, digest, detail, reached, device_id
    from store.exception where topic_no = $1 and partition = $2 and kafka_offset >= $3 and kafka_offset < $4"""


async def relink(connection: Connection, stamp: Stamp, facts: Sequence[Fact]) -> None:
    """Link rows that were written anew in this transaction, in the order of their offsets."""
    if not facts:
        return
    await connection.execute("select pg_advisory_xact_lock($1)", RELINK_LOCK)
    last = await connection.fetchrow(_LAST)
    number, before = (0, BEGINNING) if last is None else (last["relink_no"] + 1, last["seal"])
    links = b"".join([link(fact) for fact in facts])
    await connection.execute(
        _APPEND, number, stamp.topic_no, stamp.partition, [fact.offset for fact in facts], links, stamp.judged_by,
        seal(before, links),
    )  # fmt: skip


def fact_of(row: asyncpg.Record) -> Fact:
    """Give what a row says for good, from the columns that FACTS names; the contrary of accepted.py and rows.py."""
    verdict = Verdict(row["verdict"])
    said: tuple[str, ...]
    match verdict:
        case Verdict.ACCEPTED:
            day, said = day_of(row["issued_at"]), ("traceparent", "envelope")
        case Verdict.HELD:
            day, said = 0, _HELD
        case Verdict.DUPLICATE | Verdict.REFUSED:
            day, said = day_of(row["received_at"]), _ENDED
    received_at_ms, rest_us = divmod(row["received_at"], 1000)
    at = -1 if rest_us else received_at_ms  # the broker's clock has no microseconds
    return Fact(
        row["partition"], row["kafka_offset"], verdict, row["reason"], at, day, tuple(row[name] for name in said)
    )


_HELD = (
    "device_no", "key_no", "issued_at_s", "epoch", "seq", "boot", "digest", "traceparent", "envelope_bytes", "envelope",
)  # fmt: skip
_ENDED = ("detail", "reached", "device_id", "epoch", "seq", "digest", "envelope_bytes", "envelope")
