"""What does a supervisor say of the processes that it kept, once they have ended? Real processes, small ones."""

import signal
import subprocess
import sys
from collections.abc import Sequence

import pytest

from ingest.supervisor import exit_status

END_S_MAX = 30.0
BEGUN = "import os, signal, time; os.write(1, b'!')"  # one byte: lines of two processes could mingle
OBEDIENT = f"import signal; signal.signal(signal.SIGTERM, lambda *_: exit(0)); {BEGUN}; signal.pause()"
FAILING = f"import signal; signal.signal(signal.SIGTERM, lambda *_: exit(3)); {BEGUN}; signal.pause()"
UNREADY = f"{BEGUN}; signal.pause()"
DEAF = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {BEGUN}; time.sleep(60)"


def supervised(*programs: str) -> int:
    """Start them under a supervisor, tell it to stop once all are there, and give its exit status."""
    commands = [["-c", program] for program in programs]
    program = f"import asyncio; from ingest.supervisor import supervise; exit(asyncio.run(supervise({commands}, 0)))"
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        assert process.stdout.read(len(programs)) == b"!" * len(programs)
        process.send_signal(signal.SIGTERM)
        return process.wait(END_S_MAX)


def test_all_is_well_when_all_did_as_they_were_told() -> None:
    assert supervised(OBEDIENT, UNREADY) == 0


def test_one_that_failed_is_not_hidden_by_one_that_did_not() -> None:
    assert supervised(OBEDIENT, FAILING) == 3


def test_one_that_had_to_be_killed_is_not_hidden_by_one_that_ended_well() -> None:
    assert supervised(OBEDIENT, DEAF) == 128 + signal.SIGKILL


@pytest.mark.parametrize(
    ("statuses", "told"), [([0, 0], 0), ([0, 1], 1), ([1, -9], 137), ([-11, -9], 139), ([0, -9, 2], 137)]
)
def test_the_worst_status_is_the_one_that_is_told(statuses: Sequence[int], told: int) -> None:
    assert exit_status(statuses) == told
