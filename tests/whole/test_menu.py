"""What a command loads is what it needs; what the help says of it without loading it is true."""

import subprocess
import sys

import pytest

from ingest.__main__ import COMMANDS
from ingest.commands.menu import Listed

ABOUT_CHARACTERS_MAX = 200
DRIVERS = {"aiokafka", "asyncpg", "cryptography", "fastavro", "msgspec", "structlog", "uvloop"}
RIG = {"cbor2", "deploy", "device_sim", "loadtest"}
FOR_METRICS = {"aiohttp"}
FOR_CERTIFICATES = {"cryptography.x509", "ingest.core.certificate"}


@pytest.mark.parametrize("listed", COMMANDS, ids=lambda one: one.name)
def test_the_help_says_of_a_command_what_the_command_says_of_itself(listed: Listed) -> None:
    command = listed.load()
    assert command.name == listed.name
    assert command.get_short_help_str(ABOUT_CHARACTERS_MAX) == listed.get_short_help_str(ABOUT_CHARACTERS_MAX)
    assert not command.hidden


def loaded_by(*arguments: str) -> set[str]:
    """Name the modules that a command loads to show its help."""
    script = "import sys; from ingest.__main__ import main; main(standalone_mode=False); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments, "--help"], capture_output=True, text=True, check=True
    )
    return set(done.stdout.splitlines()[-1].split())


def test_the_list_of_commands_loads_none_of_them() -> None:
    assert loaded_by() & (DRIVERS | RIG | FOR_METRICS) == set()


def test_a_worker_loads_what_it_needs() -> None:
    loaded = loaded_by("worker")
    assert loaded >= DRIVERS
    assert loaded & (RIG | FOR_METRICS | FOR_CERTIFICATES) == set()


def test_who_asks_for_the_servers_loads_nothing_of_the_house() -> None:
    assert (
        loaded_by("status") & (DRIVERS - {"msgspec"} | FOR_METRICS | {"device_sim", "ingest.config", "loadtest"})
        == set()
    )
