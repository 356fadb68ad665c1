"""How does every command begin and end? With its settings read, its trouble told in a line."""

import contextlib
import os
import sys
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any

import click
import uvloop

from ingest.adapters.postgres.connection import Connection, connect, trouble
from ingest.adapters.postgres.migration import MigrationError
from ingest.adapters.postgres.registry import ImportProblemsError
from ingest.adapters.postgres.resumption import NotHaltedError
from ingest.adapters.topics import TopicError
from ingest.config import Settings, SettingsError, read_file
from ingest.ports import TroubleError

EXPECTED = (SettingsError, TroubleError, MigrationError, TopicError, ImportProblemsError, NotHaltedError, OSError)

config_option = click.option(
    "--config", type=click.Path(path_type=Path), help="Settings as TOML; WEIGHBRIDGE_* in the environment go before it."
)


def run(work: Coroutine[Any, Any, int]) -> None:
    """Run to the end; what a person can mend is said in a line, not as a traceback."""
    try:
        status_code = uvloop.run(work)
    except BrokenPipeError:
        raise  # whoever read our output has seen enough
    except EXPECTED as error:
        raise click.ClickException(str(error)) from None
    if status_code:
        sys.exit(status_code)


def settings_of(config: Path | None, *required: str) -> Settings:
    """Read the settings, or say all that is wrong with them."""
    try:
        return read_file(config, os.environ, required)
    except SettingsError as error:
        raise click.ClickException(str(error)) from None


@contextlib.asynccontextmanager
async def connected(settings: Settings) -> AsyncIterator[Connection]:
    """Open a connection for one command."""
    connection = await connect(settings.database, "weighbridge command")
    try:
        with trouble("asking the registry"):
            yield connection
    finally:
        await connection.close()
