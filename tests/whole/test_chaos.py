"""A short storm over real servers breaks no promise, and the judge of it sees what a broken commit does."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from loadtest.chaos.stage import clear

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

RUN_S_MAX = 280
FAULTS = ("kill", "rival", "terminate", "database-crash", "commit-unsent", "commit-unanswered")
WRONG = (
    "lost", "doubled", "wrong", "unfounded", "untiled", "ledgers", "unknown", "vanished", "exits_bad",
)  # fmt: skip
BROKEN = ("no fence", "offset committed before the effects")


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "chaos"
    clear(tmp_path / "chaos")  # what a run has left that was killed for taking too long


def run(*arguments: str | Path) -> tuple[int, str]:
    command = [sys.executable, "-m", *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=RUN_S_MAX, check=False)
    return done.returncode, done.stdout


def test_a_short_storm_loses_doubles_and_misjudges_nothing(state: Path) -> None:
    only = [word for fault in FAULTS for word in ("--only", fault)]
    _, said = run("ingest", "chaos", "--seconds", "15", "--rate", "100", *only, "--state", state, "--json")
    report = json.loads(said.splitlines()[-1])
    assert not report["absent"], report
    assert report["settled_s"] is not None, report
    assert report["fenced"] > 0, report
    assert report["rebalances"] > 0, report
    assert [report[kind] for kind in WRONG] == [0] * len(WRONG), report


def test_broken_variants_of_the_commit_are_caught_on_real_servers(state: Path) -> None:
    status, said = run("loadtest.chaos.proof", *BROKEN, "--state", state)
    assert status == 0, said
