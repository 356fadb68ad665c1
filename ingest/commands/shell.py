"""How does every command begin and end? With its settings read, its trouble told in a line."""

import contextlib
import functools
import getpass
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
import uvloop

from ingest.adapters.postgres.audit import BrokenChainError, Decision, UnfitActError
from ingest.adapters.postgres.connection import Connection, connect, trouble
from ingest.adapters.postgres.migration import MigrationError
from ingest.adapters.postgres.registry import ImportProblemsError
from ingest.adapters.postgres.resumption import NotHaltedError
from ingest.adapters.topics import TopicError
from ingest.config import Settings, SettingsError, read_file
from ingest.core.enrolment import EnrolmentError
from ingest.core.schema import SchemaError
from ingest.ports import TroubleError

EXPECTED = (
    SettingsError, TroubleError, MigrationError, TopicError, ImportProblemsError, NotHaltedError, EnrolmentError,
    UnfitActError, BrokenChainError, SchemaError, OSError,
)  # fmt: skip
WORDS_MAX = 500

T = TypeVar("T")

config_option = click.option(
    "--config", type=click.Path(path_type=Path), help="Settings as TOML; WEIGHBRIDGE_* in the environment go before it."
)

json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")


def _words(_context: click.Context, _parameter: click.Parameter, text: str) -> str:
    """Take a line for people: what is kept for good shall be legible."""
    if not (text.strip() and text.isprintable() and len(text) <= WORDS_MAX):
        raise click.BadParameter(f"give one line of 1 to {WORDS_MAX} printable characters")
    return text


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a number that has no name here
        raise click.UsageError("say with --by who decides") from None


def decision_options(reason: str | None = None) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Ask who decides and why, and give the command a `decision`; without a usual reason, one must be given."""
    # to click, a default of None is an answer: with one, nothing is required
    usual: dict[str, Any] = {"required": True} if reason is None else {"default": reason, "show_default": True}

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @click.option("--reason", callback=_words, help="Why; it is kept.", **usual)
        @click.option("--by", default=_user, show_default="the user", callback=_words, help="Who decides; it is kept.")
        @functools.wraps(command)
        def decided(*arguments: object, reason: str, by: str, **options: object) -> None:
            command(*arguments, decision=Decision(by, reason), **options)

        return decided

    return decorate


def run(work: Coroutine[Any, Any, int]) -> None:
    """Run to the end, and exit with the status that it gives, if that is not 0."""
    status_code = _finish(work)
    if status_code:
        sys.exit(status_code)


def ask(config: Path | None, question: Callable[[Connection], Awaitable[T]]) -> T:
    """Ask the database something, or do something in it; returns the answer."""
    settings = settings_of(config, "database")

    async def work() -> T:
        async with connected(settings) as connection:
            return await question(connection)

    return _finish(work())


def _finish(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end; what a person can mend is said in a line, not as a traceback."""
    try:
        return uvloop.run(work)
    except BrokenPipeError:
        raise  # whoever read our output has seen enough
    except EXPECTED as error:
        raise click.ClickException(str(error)) from None


def show_rows(rows: Iterable[Mapping[str, Any]], columns: Sequence[str] = (), *, as_json: bool) -> None:
    """Show one row a line: as JSON, or the columns that a person wants to see."""
    for row in rows:
        shown = (str(row[name]) for name in columns or row)
        click.echo(json.dumps(row) if as_json else "  ".join(shown))


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
    with trouble("asking the registry"):
        try:
            yield connection
        finally:
            await connection.close()
