"""What ends the process that examines it is found, by real child processes; what does no harm is never blamed."""

import asyncio
import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import uvloop
from structlog.testing import capture_logs

import schemas
from ingest.core.device import Key, KeyRing, KeyState, Sender
from ingest.core.enrolment import admit
from ingest.core.examine import Examiner
from ingest.core.message import Envelope, RawRecord, Refused
from ingest.core.payload import load
from ingest.core.policy import Policy
from ingest.core.signature import Engine
from ingest.ordeal import CPU_S_MAX, MEMORY_BYTES_MAX
from ingest.ports import TroubleError
from ingest.trial import find_killers
from tests.whole.device import Stranger, ed25519_key, p256_key
from tests.whole.pill import HANGING, Broken, Frail

NOW_MS = 1_790_000_000_000
SILENCE_S_MAX = 3.0
LOOKS_MAX = 3_000
DEVICES = (Stranger("one", ed25519_key()), Stranger("two", p256_key()))

Run = Callable[..., frozenset[int]]


def examiner(engine: Engine) -> Examiner:
    return Examiner(Policy(), load(schemas.read_telemetry()), engine)


def ring() -> KeyRing:
    senders = {}
    for number, device in enumerate(DEVICES, 1):
        line = device.registration()
        key = Key(number, device.kid, *admit(str(line["alg"]), str(line["public_key"])), KeyState.ACTIVE, 0, None, None)
        senders[device.name] = Sender(number, number, 1, 1, {key.kid: key})
    return KeyRing(senders, frozenset({b"somebody else's"}))


def messages(count: int, pills: Mapping[int, str]) -> list[Envelope | Refused]:
    """Make so many sound messages, with some of them marked; offsets are ten times the index."""
    values = [
        DEVICES[at % 2].say(at + 1, m70004=f"pill: {pills[at]}" if at in pills else "unit 1.0") for at in range(count)
    ]
    records = [RawRecord("t", 0, 10 * at, NOW_MS, value) for at, value in enumerate(values)]
    return examiner(Frail()).read(records)


def tried(
    batch: Sequence[Envelope | Refused], engine: Engine | None = None, run: Run = uvloop.run
) -> tuple[frozenset[int], dict[str, Any]]:
    """Find the killers, and what the journal says of it."""
    with capture_logs() as journal:
        found = run(find_killers(examiner(engine or Frail()), batch, ring(), SILENCE_S_MAX))
    (event,) = journal
    return found, dict(event)


def children() -> dict[int, str]:
    """Name our child processes."""
    tasks = Path("/proc/self/task").iterdir()
    found = {int(pid) for task in tasks for pid in (task / "children").read_text().split()}
    return {pid: Path(f"/proc/{pid}/comm").read_text().strip() for pid in found}


async def when(reached: Callable[[], bool]) -> None:
    """Wait until something is so; not for ever."""
    for _ in range(LOOKS_MAX):
        if reached():
            return
        await asyncio.sleep(0.01)
    raise AssertionError(children())


@contextlib.asynccontextmanager
async def hanging() -> AsyncIterator[tuple[int, asyncio.Task[frozenset[int]]]]:
    """Have a child that hangs over its second message, until the end of the block; gives its number and the trial."""
    trial = asyncio.create_task(find_killers(examiner(Frail()), messages(2, {1: "hang"}), ring()))
    try:
        await when(lambda: HANGING in children().values())
        (child,) = children()
        yield child, trial
    finally:
        trial.cancel()
        await asyncio.gather(trial, return_exceptions=True)


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_five_that_crash_among_two_hundred_are_found_in_eleven_children_at_most(run: Run) -> None:
    pills = (0, 17, 18, 120, 199)
    found, event = tried(messages(200, dict.fromkeys(pills, "crash")), run=run)
    assert found == frozenset(pills)
    assert event["killers"] == [0, 170, 180, 1200, 1990]
    assert event["messages"] == 200
    assert event["children"] <= 2 * len(pills) + 1
    assert children() == {}


@pytest.mark.parametrize("harm", ["leave", "fail", "hang", "spin", "hoard"])
def test_whatever_the_harm_it_is_found(harm: str) -> None:
    found, _ = tried(messages(4, {2: harm}))
    assert found == {2}


def test_calm_messages_are_tried_in_one_child_and_nobody_is_blamed() -> None:
    found, event = tried(messages(200, {}))
    assert found == frozenset()
    assert event["children"] == 1


def test_nothing_to_try_needs_no_child() -> None:
    found, event = tried([])
    assert found == frozenset()
    assert event["children"] == 0


def test_two_trials_at_once_do_not_disturb_each_other() -> None:
    async def try_both() -> list[frozenset[int]]:
        trials = [find_killers(examiner(Frail()), messages(20, {pill: "crash"}), ring()) for pill in (3, 11)]
        return await asyncio.gather(*trials)

    assert uvloop.run(try_both()) == [{3}, {11}]


def test_what_a_library_prints_counts_for_nothing() -> None:
    found, _ = tried(messages(4, {1: "chatter", 2: "crash"}))
    assert found == {2}


def test_what_is_refused_already_is_not_tried() -> None:
    noise = examiner(Frail()).read([RawRecord("t", 0, 0, NOW_MS, b"noise")])
    found, event = tried([*noise, *messages(3, {1: "crash"})])
    assert found == {2}
    assert event["messages"] == 3


def test_where_whatever_is_examined_kills_no_message_is_to_blame() -> None:
    with pytest.raises(TroubleError, match="before it could begin"):
        tried(messages(2, {}), Broken())
    assert children() == {}


def test_a_signal_from_elsewhere_puts_no_blame_on_the_message_in_progress() -> None:
    async def strike() -> None:
        async with hanging() as (child, trial):
            os.kill(child, signal.SIGKILL)
            await when(lambda: HANGING in children().values() and child not in children())
            assert not trial.done(), "it is examined again, before all others"

    uvloop.run(strike())


def test_a_child_has_no_socket_of_ours_is_limited_and_ends_when_the_trial_is_cancelled() -> None:
    async def cancel(ours: Path) -> None:
        async with hanging() as (child, trial):
            theirs = {path.readlink() for path in list_files(child)}
            assert ours not in theirs
            assert len(theirs) == 3, "standard input, standard output, and nowhere"
            limits = (Path("/proc") / str(child) / "limits").read_text()
            assert re.search(rf"Max cpu time +{CPU_S_MAX} ", limits)
            assert re.search(rf"Max address space +{MEMORY_BYTES_MAX} ", limits)
            assert re.search(r"Max core file size +0 ", limits)
            trial.cancel()
            with pytest.raises(asyncio.CancelledError):
                await trial
            assert children() == {}

    with socket.create_server(("127.0.0.1", 0)) as listening:
        uvloop.run(cancel(Path(f"/proc/self/fd/{listening.fileno()}").readlink()))


def list_files(pid: int) -> list[Path]:
    return list(Path(f"/proc/{pid}/fd").iterdir())


def test_a_child_ends_with_its_parent() -> None:
    program = "import uvloop; from tests.adapters.test_trial import run_hanging; uvloop.run(run_hanging())"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = Path("/proc") / parent.stdout.readline().decode().strip()
        assert child.exists()
        parent.kill()
    uvloop.run(when(lambda: not child.exists()))


async def run_hanging() -> None:
    """Be the parent of a child that hangs, and say which."""
    async with hanging() as (child, trial):
        print(child, flush=True)  # noqa: T201 (whoever has started us waits for it)
        await trial
