"""Whatever is changed in the store behind the house's back is found and named: real changes to a real store."""

import asyncio
import contextlib
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest
from msgspec.structs import replace

from deploy import embedded
from ingest.core.seal import BEGINNING, seal
from tests.conftest import database_url
from tests.whole.device import Stranger, ed25519_key, encode, state
from tests.whole.house import House, Record, open_house

pytestmark = pytest.mark.real

SENT, OTHERS = 700, 9 + 9 + 11
UNKNOWN = b"\xc3\x01" + bytes(8) + b"of a schema that nobody knows"
Tampered = dict[str, tuple[int, list[str]]]  # by what was changed: its offset, and all that was found
PLACE = re.compile(r"(\S+)/1/(\d)")

# By column: a change, and what is said of it.
OTHER_ROW = "the row (accepted) is not the one that was committed (accepted)"
MESSAGES = {
    "envelope": ("set_byte(envelope, 200, get_byte(envelope, 200) # 1)", OTHER_ROW),
    "time_quality": ("'behind' || time_quality", OTHER_ROW),
    "received_at": ("received_at + interval '1 microsecond'", OTHER_ROW),
    "traceparent": ("coalesce(traceparent, '') || 'x'", OTHER_ROW),
    "judged_by": ("judged_by + 1", "another code or policy judged it"),
    "issued_at": ("issued_at + interval '1 microsecond'", "issued_at: not what"),
    "expires_at": ("coalesce(expires_at, now()) + interval '1 microsecond'", "expires_at: not what"),
    "device_no": ("device_no + 1", "device_no, key_no, vehicle_no: not what"),
    "vehicle_no": ("vehicle_no + 1", "vehicle_no"),
    "key_no": ("key_no + 1", "key_no: not what"),
    "cose_alg": ("cose_alg - 1", "cose_alg: not what"),
    "epoch": ("epoch + 1", "epoch: not what"),
    "seq": ("seq + 1000000", "seq: not what"),
    "boot": ("'\\x00'", "boot: not what"),
    "software": ("software || ' '", "software: not what"),
    "configuration": ("sha256(configuration)", "configuration: not what"),
    "schema": ("schema + 1", "schema: not what"),
    "samples": ("samples - 1", "samples: not what"),
    "digest": ("sha256(digest)", "digest: not what"),
}
REFUSED = {
    "reason": "'poison'",
    "detail": "detail || '!'",
    "received_at": "received_at + interval '1 second'",
    "verdict": "'duplicate'",
    "reached": "'verified'",
    "device_id": "'tcu-nobody'",
    "envelope_bytes": "envelope_bytes + 1",
    "envelope": "null",
}
HELD = {
    "reason": "'stale'",
    "issued_at_s": "issued_at_s + 1",
    "device_no": "device_no + 1",
    "seq": "seq + 1000000",
    "digest": "sha256(digest)",
    "envelope": "envelope || '\\x00'",
}
CHANGE = "update store.{table} set {column} = {change} where partition = 0 and kafka_offset = $1"
REMOVE = "delete from store.{table} where partition = 0 and kafka_offset = $1"
SWAP = """
    update store.message set kafka_offset = $1::bigint + $2::bigint - kafka_offset
    where partition = 0 and kafka_offset in ($1, $2)"""
NUMBER = """
    (device_no, epoch, seq) = (
        select device_no, epoch, seq from store.message where partition = 0 and kafka_offset = $1
    ) and sample_no = 1"""
ADD = """
    insert into store.message
    select (jsonb_populate_record(m, jsonb_build_object(
        'partition', $2::integer, 'kafka_offset', $3::bigint, 'seq', m.seq + $4
    ))).* from store.message m where partition = 0 and kafka_offset = $1 order by seq limit 1"""
SAMPLES = {
    "speed": "update {table} set speed = speed + 0.001 where {number}",
    "recorded_at": "update {table} set recorded_at = recorded_at + '1 s' where {number}",
    "removed": "delete from {table} where {number}",
    "added": "insert into {table} select * from {table} where {number}",
}


@pytest.fixture(scope="module")
def original(servers: embedded.Addresses, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A house that a fleet with every fault has sent to, in which a device was released, and a vehicle transferred."""
    with open_house(servers, tmp_path_factory.mktemp("tampering"), partitions=2, batch_records_max=20) as house:
        suspect, other = Stranger("tcu-suspect", ed25519_key()), Stranger("tcu-other", ed25519_key())
        house.enrol([suspect.registration(), other.registration()])
        said = [suspect.say(1), suspect.say(1, encode(state(speed=1.0))), *map(suspect.say, range(2, 9))]
        unknown = [other.say(seq, UNKNOWN) for seq in range(1, 10)]
        forged = [replace(other, key=ed25519_key()).say(seq) for seq in range(1, 12)]
        with house.worker():
            house.send([Record(value, partition=1) for value in said])
            house.send_fleet(run=1, count=SENT)
            house.send([Record(value) for value in unknown + forged])
            house.wait_consumed(SENT + OTHERS)
        house.run("quarantine", "release", "tcu-suspect", "--reason", "a test")
        house.run("tenants", "add", "another")
        house.run("devices", "transfer", "vehicle of tcu-suspect", "--to", "another", "--reason", "sold")
        yield house


@contextlib.contextmanager
def copied(original: House, servers: embedded.Addresses) -> Iterator[House]:
    """Give a copy of the house's store, to be tampered with."""
    name, of = f"copy_{secrets.token_hex(6)}", urlsplit(original.database).path[1:]
    database = database_url(servers, name)

    async def administer(statement: str) -> None:
        connection = await asyncpg.connect(servers.database)
        await connection.execute(statement)
        await connection.close()

    asyncio.run(administer(f"create database {name} template {of}"))
    yield replace(original, database=database, environ={**original.environ, "WEIGHBRIDGE_DATABASE": database})
    asyncio.run(administer(f"drop database {name} with (force)"))


@pytest.fixture
def house(original: House, servers: embedded.Addresses) -> Iterator[House]:
    with copied(original, servers) as house:
        yield house


def heads(house: House, *arguments: str | Path) -> str:
    return house.run("audit", "verify", *arguments).stdout


def found(house: House, *arguments: str | Path) -> list[str]:
    *lines, _ = house.run("audit", "verify", *arguments, status=1).stderr.splitlines()
    return [PLACE.sub(r"\2", line) for line in lines if not line.startswith("not checked")]


def kept(house: House) -> Path:
    path = house.folder / f"heads-{secrets.token_hex(4)}"
    path.write_text(heads(house))
    return path


def numbers(house: House, query: str) -> list[int]:
    return [row[0] for row in house.query(query)]


# Rows that were changed: all at once, each another one ---------------------------------------------------------------


@pytest.fixture(scope="module")
def tampered(original: House, servers: embedded.Addresses) -> Tampered:
    """Change every column of some row in partition 0; gives the offset of each, and all that was found."""
    with copied(original, servers) as house:
        victims = _tamper(house)
        lines = found(house)
    return {name: (offset, lines) for name, offset in victims.items()}


def _tamper(house: House) -> dict[str, int]:
    accepted = iter(
        numbers(
            house,
            "select kafka_offset from store.message m where partition = 0 and samples > 2 and exists (select from "
            "store.vehicle_state s where (s.device_no, s.epoch, s.seq) = (m.device_no, m.epoch, m.seq) "
            "and s.sample_no = 1) order by kafka_offset",
        )
    )
    ended = "select kafka_offset from store.exception where partition = 0 and reason = 'bad_signature' order by 1"
    refused = iter(numbers(house, ended))
    held = iter(numbers(house, "select kafka_offset from store.held where partition = 0 order by 1"))
    victims: dict[str, int] = {}
    tables = (("message", accepted, {n: c for n, (c, _) in MESSAGES.items()}), ("exception", refused, REFUSED))
    for table, rows, changes in (*tables, ("held", held, HELD)):
        for column, change in changes.items():
            at = victims[f"{table}.{column}"] = next(rows)
            house.query(CHANGE.format(table=table, column=column, change=change), at)
        at = victims[f"{table} removed"] = next(rows)
        house.query(REMOVE.format(table=table), at)
    for name, statement in SAMPLES.items():
        at = victims[f"sample.{name}"] = next(accepted)
        house.query(statement.format(table="store.vehicle_state", number=NUMBER), at)
    victims["swapped"], victims["with"] = next(accepted), next(accepted)
    house.query(SWAP, victims["swapped"], victims["with"])
    return victims


@pytest.mark.parametrize("column", MESSAGES)
def test_a_changed_column_of_a_message_is_named(column: str, tampered: Tampered) -> None:
    at, lines = tampered[f"message.{column}"]
    assert [line for line in lines if line.startswith(f"0: offset {at}:") and MESSAGES[column][1] in line]


@pytest.mark.parametrize("name", [*(f"exception.{name}" for name in REFUSED), *(f"held.{name}" for name in HELD)])
def test_a_changed_row_of_what_was_not_accepted_is_named(name: str, tampered: Tampered) -> None:
    at, lines = tampered[name]
    was, now = ("held", "held") if name.startswith("held") else ("refused", "refused")
    now = "duplicate" if name == "exception.verdict" else now
    assert f"0: offset {at}: the row ({now}) is not the one that was committed ({was})" in lines


@pytest.mark.parametrize(("table", "was"), [("message", "accepted"), ("exception", "refused"), ("held", "held")])
def test_a_removed_row_is_named(table: str, was: str, tampered: Tampered) -> None:
    at, lines = tampered[f"{table} removed"]
    assert f"0: offset {at}: the row ({was}) is not there any more" in lines


@pytest.mark.parametrize("name", SAMPLES)
def test_a_changed_sample_is_named(name: str, tampered: Tampered) -> None:
    at, lines = tampered[f"sample.{name}"]
    assert [line for line in lines if re.match(rf"0: offset {at}: its sample [12] in store.vehicle_state is not", line)]


def test_messages_that_changed_places_are_named(tampered: Tampered) -> None:
    for name in ("swapped", "with"):
        at, lines = tampered[name]
        assert f"0: offset {at}: {OTHER_ROW}" in lines


def test_nothing_else_is_named(tampered: Tampered) -> None:
    """But for the samples of messages that are called something else now, or are gone."""
    victims = {at for at, _ in tampered.values()}
    (lines,) = {tuple(lines) for _, lines in tampered.values()}
    named = [re.match(r"0: offset (\d+): ", line) for line in lines]
    assert {int(one[1]) for one in named if one} == victims
    assert all("is of no message that is stored" in line for line, one in zip(lines, named, strict=True) if not one)


# What was added ------------------------------------------------------------------------------------------------------


def test_an_added_row_is_named(house: House) -> None:
    (at,) = numbers(house, "select min(kafka_offset) from store.message where partition = 0")
    for seq, partition, offset in ((10**6 + 1, 0, at), (10**6 + 2, 0, 10**6), (10**6 + 3, 7, 1)):
        house.query(ADD, at, partition, offset, seq)
    lines = found(house)
    assert f"0: offset {at}: there is a row (accepted) that was not committed" in lines
    assert "store.message, topic_no 1, partition 0: no log has been judged at offset 1000000" in lines
    assert "store.message, topic_no 1, partition 7: no log has been judged at offset 1" in lines


# Batches, and what binds them ----------------------------------------------------------------------------------------


def batch(house: House, nth: int) -> tuple[int, int]:
    rows = house.query("select from_offset, to_offset from store.batch where partition = 0 order by from_offset")
    return rows[nth][0], rows[nth][1]


SEALED = "to {end}: its links are not those that were sealed"
COUNTED = "to {end}: its counts, or what it skipped, were changed"
BATCHES = {
    "removed": ("delete from store.batch where {it}", "there is no batch from offset {start} to {end}"),
    "seal": ("update store.batch set seal = sha256(seal) where {it}", SEALED),
    "links": ("update store.batch set links = set_byte(links, 3, get_byte(links, 3) # 1) where {it}", SEALED),
    "unlinked": (
        "update store.batch set links = null, seal = null where {it}",
        "to {end} has no links, though there were",
    ),
    "counts": ("update store.batch set refused = refused - 1, held = held + 1 where {it}", COUNTED),
    "skipped": ("insert into store.skipped values (1, 0, {start}, {start} + 1)", COUNTED),
    "shortened": (
        """update store.batch set to_offset = to_offset - 1, accepted = accepted - 1,
        links = substring(links from 1 for length(links) - 35) where {it}""",
        "there is no batch from offset {less} to {end}",
    ),
}


@pytest.fixture(scope="module")
def rebatched(original: House, servers: embedded.Addresses) -> dict[str, bool]:
    """Change some batches, each in another way; says which were named."""
    with copied(original, servers) as house:
        said = {}
        for number, (name, (change, finding)) in enumerate(BATCHES.items()):
            start, end = batch(house, 2 * number + 2 if number == 0 else 2 * number + 1)  # one is gone by then
            house.query(change.format(it=f"partition = 0 and from_offset = {start}", start=start))
            said[name] = finding.format(start=start, end=end, less=end - 1)
        lines = found(house)
    return {name: any(finding in line for line in lines) for name, finding in said.items()}


@pytest.mark.parametrize("name", BATCHES)
def test_a_changed_batch_is_named(name: str, rebatched: dict[str, bool]) -> None:
    assert rebatched[name]


def test_a_removed_last_batch_is_named(house: House) -> None:
    start, end = batch(house, -1)
    house.query("delete from store.batch where partition = 0 and from_offset = $1", start)
    assert f"0: its lease has come to offset {end}, but the last batch, to {start}, does not lead there" in found(house)


def test_the_first_batch_cannot_be_taken_for_one_that_retention_dropped(house: House) -> None:
    start, end = batch(house, 0)
    house.query("delete from store.batch where partition = 0 and from_offset = $1", start)
    assert f"0: there is no batch from offset 0 to {end}" in found(house)


def rewrite(house: House, after: int = -1) -> None:
    """Make the seals of partition 0 anew, as who can write everything could, from the batch at this offset on."""
    before, last = BEGINNING, BEGINNING
    query = "select from_offset, links from store.batch where partition = 0 and from_offset > $1 order by 1"
    for start, links in house.query(query, after):
        before = last = seal(before, links)
        house.query("update store.batch set seal = $2 where partition = 0 and from_offset = $1", start, before)
    house.query("update store.partition_lease set seal = $1 where partition = 0", last)


def test_a_chain_that_was_made_anew_is_known_by_who_kept_its_head(house: House) -> None:
    early = kept(house)
    start, _ = batch(house, 1)
    house.query(BATCHES["links"][0].format(it="partition = 0 and from_offset = $1"), start)
    rewrite(house)
    assert not any("sealed" in line for line in found(house))
    assert any("what leads to it was made anew" in line for line in found(house, "--expect", early))


def test_an_end_that_was_cut_off_is_missed_by_who_kept_the_head(house: House) -> None:
    early = kept(house)
    start, end = batch(house, -1)
    house.query("update store.partition_lease set next_offset = $1, seal = (select seal from store.batch "
                "where partition = 0 and to_offset = $1) where partition = 0", start)  # fmt: skip
    for table in ("message", "held", "exception"):
        house.query(REMOVE.replace("= $1", ">= $1").format(table=table), start)
    house.query("delete from store.batch where partition = 0 and from_offset >= $1", start)
    assert f"0: no batch ends at offset {end} any more" in found(house, "--expect", early)


# The held lane -------------------------------------------------------------------------------------------------------


def test_what_left_the_lane_is_watched_as_well(house: House) -> None:
    house.query("update store.relink set seal = sha256('')")
    (device_no,) = numbers(house, "select device_no from store.device where device_id = 'tcu-suspect'")
    house.query("update store.message set traceparent = 'x' where seq = 5 and device_no = $1", device_no)
    lines = found(house)
    assert "lane: row 0 of store.relink is not the one that was written there" in lines
    assert [line for line in lines if line.startswith("1: offset ") and line.endswith(OTHER_ROW)]


def test_what_left_the_lane_unwritten_is_named(house: House) -> None:
    early = kept(house)
    house.query("delete from store.relink")
    lines = found(house, "--expect", early)
    assert "lane: row 0 of store.relink is not the one that the chain ended with" in lines
    named = [line for line in lines if line.endswith("the row (accepted) is not the one that was committed (held)")]
    assert len(named) == 7


def test_a_row_that_never_waited_cannot_be_written_anew(house: House) -> None:
    house.query(
        "update store.relink set offsets[1] = (select min(kafka_offset) from store.message where partition = 1)"
    )
    assert any("its row was written anew, though it was not held" in line for line in found(house))


# What is no tampering ------------------------------------------------------------------------------------------------


def test_a_store_that_nobody_touched_is_whole_and_goes_on_from_its_heads(house: House) -> None:
    early = kept(house)
    assert [line.split()[0] for line in early.read_text().splitlines()] == [
        "acts", "lane", f"{house.topic}/1/0", f"{house.topic}/1/1",
    ]  # fmt: skip
    with house.worker():
        house.send_fleet(run=2, count=300)
        while house.consumed() < SENT + OTHERS + 300:
            heads(house, "--expect", early)  # while it is written to
    assert heads(house, "--expect", early) != early.read_text()
    assert heads(house, "--since", "2999-01-01").count("\n") == 4


def test_what_retention_has_dropped_is_counted_as_such(house: House) -> None:
    (day,) = numbers(house, "select to_char(max(committed_at) at time zone 'UTC', 'YYYYMMDD') from store.batch")
    for table in ("message", "exception", "battery_charging"):
        house.query(f"drop table store.{table}_{day}")
    said = house.run("audit", "verify").stderr
    assert re.search(r"not checked: \d+ records of \d{4}-\d\d-\d\d, which is not kept any more", said)
    assert re.search(rf"not checked: \d+ samples of {day}, whose messages are not kept any more", said)
    house.query(f"drop table store.batch_{day}")
    house.query("update store.migration set applied_at = applied_at - interval '9 days'")
    said = house.run("audit", "verify").stderr
    assert re.search(r"not checked: \d+ offsets of \S+/0 whose batches are not kept", said)


def test_what_is_older_than_the_chain_is_not_found_fault_with(house: House) -> None:
    """As after an update: batches from before have no links."""
    start, _ = batch(house, 3)
    house.query("update store.batch set links = null, seal = null where partition = 0 and from_offset <= $1", start)
    rewrite(house, start)
    said = house.run("audit", "verify").stderr
    assert re.search(r"not checked: \d+ records that were judged before there were links", said)
