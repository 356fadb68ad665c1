"""How are the rooms put together? The command line: the only file that knows every other."""

import contextlib
import getpass
import json
import os
import sys
from collections.abc import AsyncIterator, Coroutine, Iterable
from pathlib import Path
from typing import Any, TextIO

import click
import structlog
import uvloop
from aiokafka import TopicPartition

import schemas
from deploy.embedded.command import bring_up, down, state_option, status, tell_shell
from device_sim.command import simulate
from ingest.adapters import http
from ingest.adapters.continuity import compare
from ingest.adapters.kafka import open_log
from ingest.adapters.postgres.connection import Connection, connect, trouble
from ingest.adapters.postgres.migration import MigrationError, migrate
from ingest.adapters.postgres.registry import (
    LIST_ROWS_MAX,
    ImportProblemsError,
    import_devices,
    list_devices,
    read_lines,
    show_device,
)
from ingest.adapters.postgres.resumption import Decision, NotHaltedError, State, list_partitions, resume
from ingest.adapters.postgres.store import PostgresStore, Provenance
from ingest.adapters.topics import TopicError, prepare_topic
from ingest.build import identify
from ingest.config import Settings, SettingsError, read_file
from ingest.core.examine import Examiner
from ingest.core.payload import load
from ingest.core.signature import Engine, Portable
from ingest.journal import open_journal
from ingest.metrics import Metrics
from ingest.ports import Mark, TroubleError
from ingest.process import Partitions, before, listening, notice_orphaned, until_told
from ingest.supervisor import supervise
from ingest.trial import find_killers
from ingest.worker import Limits, Worker
from loadtest.chaos.command import chaos
from loadtest.check import check
from loadtest.demo import demo

PARTITIONS = 6  # of a topic that is made here
EXPECTED = (SettingsError, TroubleError, MigrationError, TopicError, ImportProblemsError, NotHaltedError, OSError)

config_option = click.option(
    "--config", type=click.Path(path_type=Path), help="Settings as TOML; WEIGHBRIDGE_* in the environment go before it."
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="weighbridge")
@click.pass_context
def main(context: click.Context) -> None:
    """Weighbridge: every vehicle message is accounted for, with a reason."""
    context.obj = enrol  # how the simulator, which does not know the registry, enrols its fleet


for command in (status, down, simulate, check, demo, chaos):
    main.add_command(command)


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


@main.command
@state_option
def up(state: Path) -> None:
    """Start Kafka and PostgreSQL unless they run, and prepare them. For a shell: eval "$(weighbridge up)"."""
    addresses = bring_up(state)
    ours = {"WEIGHBRIDGE_KAFKA": addresses.kafka, "WEIGHBRIDGE_DATABASE": addresses.database}
    if not ours.items() <= os.environ.items():  # servers of one's own are prepared when one says so
        run(prepare_both(read_file(None, {**os.environ, **ours}), PARTITIONS))
    tell_shell(addresses)


@main.command
@config_option
@click.option("--partitions", default=PARTITIONS, show_default=True, help="Of the topic, where it is to be made.")
def prepare(config: Path | None, partitions: int) -> None:
    """Make the topic and the tables, or bring them up to date."""
    run(prepare_both(settings_of(config, "kafka", "database"), partitions))


async def prepare_both(settings: Settings, partitions: int) -> int:
    """Make what is missing, and say what was done."""
    topic = await prepare_topic(settings.kafka, settings.topic, partitions)
    applied = await migrate(settings.database)
    how = "made" if topic.made else "was there, and is fit"
    click.echo(f"topic {settings.topic}: {how}, {topic.partitions} partitions", err=True)
    click.echo(f"migrations: {', '.join(applied) or 'up to date'}", err=True)
    return 0


@main.command
@config_option
@click.option("--processes", default=1, show_default=True, type=click.IntRange(1, 256), help="How many to run.")
@click.option("--index", default=0, hidden=True, type=int)
@click.option("--parent", hidden=True, type=int, help="The process that supervises this one.")
def worker(config: Path | None, processes: int, index: int, parent: int | None) -> None:
    """Consume, examine, judge and commit, until SIGTERM."""
    settings = settings_of(config, "kafka", "database")
    open_journal(settings.log_level)
    if processes == 1:
        return run(consume(settings, index, parent, Portable()))
    named = [] if config is None else ["--config", str(config)]
    named += ["--parent", str(os.getpid())]
    commands = [["-m", "ingest", "worker", "--index", str(i), *named] for i in range(processes)]
    return run(supervise(commands, settings.drain_s_max))


async def consume(settings: Settings, index: int, parent: int | None, engine: Engine) -> int:
    """Be one worker process: put the parts together, join the group, drain when told."""
    catalogue, build = load(schemas.read_telemetry()), identify()
    metrics, partitions = Metrics(build, engine.name), Partitions(settings.drain_s_max)
    provenance = Provenance(build, engine.name, settings.policy, tuple(k.schema for k in catalogue.known.values()))
    store, examiner = PostgresStore(settings.database, provenance), Examiner(settings.policy, catalogue, engine)

    async def assigned(numbers: frozenset[int]) -> None:
        assert log is not None, "who has not joined the group is assigned nothing"
        limits = Limits(settings.batch_records_max, settings.batch_samples_max)
        worker = Worker(settings.topic, log, store, examiner, find_killers, metrics, limits)
        partitions.begin(worker, numbers)

    def find_faults() -> list[str]:
        return metrics.find_faults() if partitions.joined else ["not a member of the group yet"]

    async with contextlib.AsyncExitStack() as stack:
        told = stack.enter_context(listening())
        if parent is not None:
            await stack.enter_async_context(partitions.alongside(notice_orphaned(parent, told), "orphaned?"))
        if settings.http_port:
            port = settings.http_port + index
            await stack.enter_async_context(http.serve(settings.http_host, port, metrics.render, find_faults))
        await stack.enter_async_context(partitions.alongside(store.upkeep(), "upkeep"))
        log = await before(told, stack.enter_async_context(open_log(settings)))
        if log is not None:
            log.join(assigned, partitions.end, partitions.fail)
            await until_told(told, partitions)
            await partitions.end(partitions.ours)
    partitions.check()
    structlog.get_logger().info("stopped")
    return 0


@main.group
def partitions() -> None:
    """See where each partition stands, and let one go on whose log is broken."""


@partitions.command("list")
@config_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def list_partitions_(config: Path | None, as_json: bool) -> None:  # noqa: FBT001 (click gives flags so)
    """List the partitions of the topic, halted ones first."""
    settings = settings_of(config, "database")

    async def work() -> int:
        async with connected(settings) as connection:
            found = await list_partitions(connection, settings.topic)
        for row in found:
            click.echo(json.dumps(row, default=str) if as_json else "  ".join(str(value) for value in row.values()))
        return 0

    run(work())


@partitions.command("resume")
@config_option
@click.argument("partition", type=click.IntRange(0))
@click.option("--reason", required=True, help="Why; it is kept.")
@click.option("--by", default=getpass.getuser, show_default="the user", help="Who decides; it is kept.")
def resume_(config: Path | None, partition: int, reason: str, by: str) -> None:
    """Let a halted PARTITION go on with the log as it is now.

    What is gone is written down as a gap. Another log is read from its beginning, as another incarnation of the topic.
    """
    settings = settings_of(config, "kafka", "database")

    async def work() -> int:
        at = settings.topic, partition
        found = await compare(settings.kafka, TopicPartition(*at), Mark(0, None, None))
        state = State(found.log_id, found.bounds.first)
        async with connected(settings) as connection:
            done = await resume(connection, at, state, Decision(by, reason))
        how = "reads its new log from the beginning" if done.lost is None else f"passes over {done.lost} lost records"
        click.echo(f"partition {partition} halted at offset {done.halted_at}: {done.halted_why}")
        click.echo(f"it goes on, and {how}")
        return 0

    run(work())


@main.group
def devices() -> None:
    """Enrol devices, and look at them."""


@contextlib.asynccontextmanager
async def connected(settings: Settings) -> AsyncIterator[Connection]:
    """Open a connection for one command."""
    connection = await connect(settings.database, "weighbridge command")
    try:
        with trouble("asking the registry"):
            yield connection
    finally:
        await connection.close()


@devices.command("import")
@config_option
@click.argument("file", type=click.File(encoding="utf-8", errors="replace"))  # what it replaces, no line may have
def import_(config: Path | None, file: TextIO) -> None:
    r"""Enrol the devices of FILE, one JSON object a line; all of them or none.

    \b
    device_id, tenant, vehicle_id   text
    epoch                           whole number
    kid                             hexadecimal, 1 to 32 bytes
    alg                             "EdDSA" or "ES256"
    public_key                      SubjectPublicKeyInfo, PEM
    """
    run(enrol_lines(settings_of(config, "database"), file))


def enrol(lines: Iterable[str]) -> None:
    """Enrol a simulated fleet."""
    run(enrol_lines(settings_of(None, "database"), lines))


async def enrol_lines(settings: Settings, lines: Iterable[str]) -> int:
    """Enrol all of them or none, and say what was done."""
    entries = read_lines(lines)
    async with connected(settings) as connection:
        done = await import_devices(connection, entries)
    new = f"{done.devices_new} new devices, {done.keys_new} new keys, {done.epochs_raised} epochs raised"
    click.echo(f"{done.lines} lines: {new}")
    if done.keys_shared:
        click.echo(f"warning: {done.keys_shared} public keys belong to several devices; each needs its own", err=True)
    return 0


@devices.command("list")
@config_option
@click.option("--tenant", help="Only the devices of this tenant.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def list_(config: Path | None, tenant: str | None, as_json: bool) -> None:  # noqa: FBT001 (click gives flags so)
    """List the devices, with what they have sent and what is missing."""
    settings = settings_of(config, "database")

    async def work() -> int:
        async with connected(settings) as connection:
            found = await list_devices(connection, tenant)
        if len(found) == LIST_ROWS_MAX:
            click.echo(f"the first {LIST_ROWS_MAX} devices; the view weighbridge.device has all", err=True)
        for row in found:
            click.echo(json.dumps(row) if as_json else "  ".join(str(value) for value in row.values()))
        return 0

    run(work())


@devices.command
@config_option
@click.argument("device_id")
def show(config: Path | None, device_id: str) -> None:
    """Show one device as JSON: its standing, keys, and the numbers that are missing."""
    settings = settings_of(config, "database")

    async def work() -> int:
        async with connected(settings) as connection:
            found = await show_device(connection, device_id)
        if found is None:
            raise click.ClickException(
                f"no device {device_id} is enrolled; `weighbridge devices list` shows those that are"
            )
        click.echo(json.dumps(found, indent=2, default=str))
        return 0

    run(work())


if __name__ == "__main__":
    main()
