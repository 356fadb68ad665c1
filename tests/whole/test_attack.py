"""What `weighbridge attack` shows at size, at a size that a test has time for: by the command, on real servers."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from deploy import embedded

pytestmark = pytest.mark.real

RUN_S_MAX = 280


def attack(servers: embedded.Addresses, state: Path, *arguments: str) -> dict[str, Any]:
    """Run an attack; returns what it says of itself, which its exit status has to agree with."""
    command = [sys.executable, "-m", "ingest", "attack", *arguments, "--rate", "600", "--state", str(state), "--json"]
    environ = {**os.environ, "WEIGHBRIDGE_KAFKA": servers.kafka, "WEIGHBRIDGE_DATABASE": servers.database}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=RUN_S_MAX, check=False)
    assert done.stdout, done.stderr
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode == (0 if said["good"] else 1), done.stderr
    return said


def missed(report: dict[str, Any]) -> list[dict[str, Any]]:
    """List the claims that do not hold."""
    return [claim for claim in report["claims"] if not claim["kept"]]


def test_forged_and_replayed_messages_cost_those_whom_they_name_nothing(
    servers: embedded.Addresses, tmp_path: Path
) -> None:
    amounts = ("--vehicles", "12", "--honest", "300", "--forged", "1500", "--replays", "300")
    assert missed(attack(servers, tmp_path, "forged", *amounts)) == []


def test_a_release_that_is_killed_judges_each_held_message_once(servers: embedded.Addresses, tmp_path: Path) -> None:
    amounts = ("--devices", "4", "--messages", "8000", "--kills", "1")  # four batches each: the kill is in time
    assert missed(attack(servers, tmp_path, "release", *amounts)) == []


def test_each_copied_unit_is_quarantined_and_nobody_else(servers: embedded.Addresses, tmp_path: Path) -> None:
    assert missed(attack(servers, tmp_path, "clones", "--vehicles", "400", "--clones", "40")) == []
