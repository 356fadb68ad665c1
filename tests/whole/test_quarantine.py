"""A device that two units speak for is caught, what it says waits, and a person lets it out: through the commands."""

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest

from deploy import embedded
from ingest.adapters.postgres.connection import connect
from ingest.adapters.postgres.lane import BYTES_AT_ONCE
from ingest.adapters.postgres.lapse import lapse
from ingest.adapters.postgres.provenance import Stamp
from ingest.core.policy import Policy
from tests.whole.device import Stranger, ed25519_key, encode, state
from tests.whole.house import House, Record, open_house, wait_for

pytestmark = pytest.mark.real

HELD = 1_200  # more than two batches of a release


@pytest.fixture
def house(servers: embedded.Addresses, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with open_house(servers, tmp_path_factory.mktemp("quarantine"), partitions=1) as house:
        yield house


def enrolled(house: House, name: str) -> Stranger:
    device = Stranger(name, ed25519_key())
    house.enrol([device.registration()])
    return device


def weigh(house: House, *values: bytes) -> None:
    expected = house.consumed() + len(values)
    house.send([Record(value) for value in values])
    house.wait_consumed(expected)


def verdicts(house: House) -> dict[tuple[str, str], int]:
    rows = house.query("select verdict, coalesce(reason, ''), count(*) from weighbridge.verdict group by 1, 2")
    return {(row[0], row[1]): row[2] for row in rows}


def shown(house: House, device: Stranger) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(house.run("quarantine", "show", device.name).stdout)
    return found


def test_a_clone_is_quarantined_with_its_evidence_and_released_by_a_person_who_is_written_down(house: House) -> None:
    clone, honest = enrolled(house, "tcu-clone"), enrolled(house, "tcu-honest")
    waits = clone.say(2)
    with house.worker():
        weigh(house, clone.say(1), clone.say(1, encode(state(speed=1.0))), waits, clone.say(3), honest.say(1))
        listed = [json.loads(line) for line in house.run("quarantine", "list", "--json").stdout.splitlines()]
        assert [(row["device_id"], row["standing"], row["held"]) for row in listed] == [("tcu-clone", "quarantined", 3)]
        found = shown(house, clone)
        assert [(row["evidence"], row["after"], row["seq"]) for row in found["evidence"]] == [
            ("equivocation", "quarantined", 1)
        ]
        assert found["waiting"] == {"equivocation": 1, "quarantined": 2}
        house.run("quarantine", "release", "tcu-clone", "--reason", "the copy was found", "--by", "me")
        assert verdicts(house) == {("accepted", ""): 4, ("held", "equivocation"): 1}
        weigh(house, clone.say(4), waits)
    found = shown(house, clone)
    assert (found["standing"], found["suspicion"], found["held"]) == ("released", 0, 1)
    assert [(row["after"], row["actor"]) for row in found["transitions"]] == [
        ("quarantined", "policy"),
        ("released", "me"),
    ]
    assert verdicts(house) == {("accepted", ""): 5, ("duplicate", ""): 1, ("held", "equivocation"): 1}
    assert "only one that is watched or quarantined" in house.refuse(
        "quarantine", "release", "tcu-clone", "--reason", "x"
    )
    house.check_tiles()


def test_a_release_that_is_killed_in_the_middle_goes_on_and_judges_each_message_once(house: House) -> None:
    device = enrolled(house, "tcu-1")
    with house.worker():
        weigh(house, device.say(1), device.say(1, encode(state(speed=1.0))))
        weigh(house, *[device.say(seq) for seq in range(2, HELD + 2)])
    assert verdicts(house) == {("accepted", ""): 1, ("held", "equivocation"): 1, ("held", "quarantined"): HELD}
    command = [sys.executable, "-m", "ingest", "quarantine", "release", "tcu-1", "--reason", "killed in the middle"]
    with subprocess.Popen(command, env=house.environ, cwd=house.folder, stderr=subprocess.PIPE) as release:
        assert release.stderr is not None
        assert b"release 1" in release.stderr.readline()
        release.send_signal(signal.SIGKILL)
    done = verdicts(house)["accepted", ""]
    assert 1 < done <= HELD + 1
    wait_for(
        lambda: not house.query("select from pg_stat_activity where application_name = 'weighbridge command'"), str
    )
    house.run("quarantine", "release", "tcu-1", "--reason", "once more")
    assert verdicts(house) == {("accepted", ""): HELD + 1, ("held", "equivocation"): 1}
    (row,) = house.query("select accepted, held, done_at is not null from weighbridge.release")
    assert tuple(row) == (HELD, 1, True)
    house.check_tiles()


def quarantine(house: House, device: Stranger) -> None:
    """Let a device say two things under its first number."""
    weigh(house, device.say(1), device.say(1, encode(state(speed=1.0))))


def waits_for_a_lock(house: House) -> bool:
    asked = "select from pg_stat_activity where application_name = 'weighbridge command' and wait_event_type = 'Lock'"
    return bool(house.query(asked))


async def lapse_before(house: House, release: subprocess.Popen[bytes]) -> int:
    """Keep a release from its device, until the first two messages that it has found have lapsed."""
    connection = await connect(house.database, "test")
    async with connection.transaction():
        held = await connection.fetch(
            "select * from store.held join store.device_state using (device_no) "
            "where reason = 'quarantined' order by kafka_offset limit 2 for update"
        )
        await asyncio.to_thread(wait_for, lambda: waits_for_a_lock(house) or release.poll() is not None, str)
        stamp = Stamp(held[0]["topic_no"], held[0]["partition"], 0, held[0]["judged_by"], "test")
        lapsed = await lapse(connection, stamp, held, "a test", Policy())
    await connection.close()
    return lapsed


def test_what_lapses_while_it_is_released_is_not_judged_as_well(house: House) -> None:
    device = enrolled(house, "tcu-5")
    with house.worker():
        quarantine(house, device)
        weigh(house, *[device.say(seq) for seq in range(2, 7)])
    command = [sys.executable, "-m", "ingest", "quarantine", "release", "tcu-5", "--reason", "at the same time"]
    house.query("update store.device_state set standing = 'released'")
    house.query("insert into store.release (device_no, actor, why) select device_no, 'me', 'x' from store.device_state")
    with subprocess.Popen(command, env=house.environ, cwd=house.folder) as release:
        assert asyncio.run(lapse_before(house, release)) == 2
        assert release.wait(30) == 0
    assert verdicts(house) == {("accepted", ""): 4, ("held", "equivocation"): 1, ("refused", "lapsed"): 2}
    assert shown(house, device)["held"] == 1
    house.check_tiles()


def test_where_policy_asks_for_two_one_proposes_and_another_approves(house: House) -> None:
    device = enrolled(house, "tcu-3")
    with house.worker():
        quarantine(house, device)
        weigh(house, device.say(2))
    two = {"policy_release_approvals": 2}
    release = ("quarantine", "release", "tcu-3", "--reason", "the copy was found", "--by", "ada")
    proposed = house.attempt(*release, **two)
    assert proposed.returncode == 0
    assert "proposal 1: release tcu-3. Nothing has changed yet" in proposed.stdout
    found = shown(house, device)
    assert (found["standing"], [row["actor"] for row in found["proposals"]]) == ("quarantined", ["ada"])
    assert "ada's own" in house.refuse("quarantine", "approve", "1", "--reason", "x", "--by", "Ada", **two)
    assert verdicts(house)["held", "quarantined"] == 1
    assert "ada" in house.run("quarantine", "proposals").stdout
    house.run("quarantine", "approve", "1", "--reason", "I have seen it", "--by", "bob")
    assert verdicts(house) == {("accepted", ""): 2, ("held", "equivocation"): 1}
    house.attempt("quarantine", "revoke", "tcu-3", "--reason", "after all", "--by", "bob", **two)
    house.run("quarantine", "withdraw", "2", "--reason", "or not")
    assert shown(house, device)["standing"] == "released"
    assert house.run("quarantine", "proposals").stdout == ""
    house.run("audit", "verify")


def test_what_is_held_without_bytes_lapses_at_the_release_and_is_judged_when_it_is_sent_again(house: House) -> None:
    device = enrolled(house, "tcu-4")
    said = [device.say(seq) for seq in range(2, 7)]
    with house.worker(policy_held_bytes_max=3 * len(said[0])):
        quarantine(house, device)
        weigh(house, *said)
        found = shown(house, device)
        assert (found["waiting"], found["waiting_without_bytes"]) == ({"equivocation": 1, "quarantined": 5}, 3)
        done = house.run("quarantine", "release", "tcu-4", "--reason", "the copy was found")
        assert "2 accepted, 1 held" in done.stderr
        assert "of what has lapsed no bytes were kept" in done.stderr
        assert verdicts(house) == {("accepted", ""): 3, ("held", "equivocation"): 1, ("refused", "lapsed"): 3}
        house.check_tiles()
        weigh(house, *said)
    assert verdicts(house) == {
        ("accepted", ""): 6,
        ("duplicate", ""): 2,
        ("held", "equivocation"): 1,
        ("refused", "lapsed"): 3,
    }
    (row,) = house.query("select accepted, held, refused, done_at is not null from weighbridge.release")
    assert tuple(row) == (2, 1, 3, True)
    house.check_tiles()


def test_large_messages_are_released_fewer_at_a_time(house: House) -> None:
    device = enrolled(house, "tcu-6")
    large = encode(*[state()] * 1_000)
    with house.worker():
        quarantine(house, device)
        weigh(house, *[device.say(seq, large) for seq in range(2, 52)])
    done = house.run("quarantine", "release", "tcu-6", "--reason", "the copy was found")
    assert len(done.stderr.splitlines()) == -(-50 * len(large) // BYTES_AT_ONCE)
    assert verdicts(house) == {("accepted", ""): 51, ("held", "equivocation"): 1}
    house.check_tiles()


def test_what_is_held_for_a_schema_is_judged_again_and_held_again_while_the_schema_is_missing(house: House) -> None:
    device = enrolled(house, "tcu-2")
    unknown = b"\xc3\x01" + bytes(8) + b"what it says"
    with house.worker():
        weigh(house, device.say(1, unknown), device.say(2))
    (waiting,) = [json.loads(line) for line in house.run("held", "list", "--json").stdout.splitlines()]
    assert (waiting["reason"], waiting["messages"], waiting["devices"], waiting["without_bytes"]) == (
        ("schema_unknown", 1, 1, 0)
    )
    (lapses_from,) = house.query("select (received_at + interval '90 days')::timestamptz(0) from weighbridge.held")[0]
    assert abs(datetime.fromisoformat(waiting["lapses_from"]) - lapses_from) <= timedelta(seconds=1)
    house.run("held", "rejudge", "schema_unknown", "--reason", "it may be there now")
    assert verdicts(house) == {("accepted", ""): 1, ("held", "schema_unknown"): 1}
    assert [tuple(row) for row in house.query("select reason, held from weighbridge.release")] == [
        ("schema_unknown", 1)
    ]


def test_who_lost_a_counter_is_not_accused_when_that_is_judged_again(house: House) -> None:
    device = enrolled(house, "tcu-forgetful")
    first, second, third = ({"m70003": boot} for boot in (b"boot-one", b"boot-two", b"boot-thr"))
    with house.worker():
        weigh(house, *[device.say(seq, **first) for seq in (1, 2, 3)])
        weigh(house, *[device.say(seq, **second) for seq in (2, 3, 4, 5)], device.say(6, **third))
        house.run("held", "rejudge", "counter_rollback", "--reason", "to see what comes of it")
        weigh(house, device.say(7, **third))
    assert verdicts(house) == {("accepted", ""): 7, ("held", "equivocation"): 2}
    found = shown(house, device)
    assert (found["standing"], found["suspicion"], found["evidence"]) == ("trusted", 0, [])
