"""How are the rooms put together? The command line: the only file that knows every other."""

import asyncio
import contextlib
import os
from pathlib import Path

import click
import structlog

import schemas
from deploy.embedded.command import bring_up, down, state_option, status, tell_shell
from device_sim.command import simulate
from ingest.adapters import http
from ingest.adapters.channel import open_channel
from ingest.adapters.kafka import open_log
from ingest.adapters.multibuffer import UnavailableError
from ingest.adapters.postgres.migration import migrate
from ingest.adapters.postgres.outbox import open_outbox
from ingest.adapters.postgres.provenance import Provenance
from ingest.adapters.postgres.revocation import watch_revocations
from ingest.adapters.postgres.store import PostgresStore
from ingest.adapters.topics import make_topic, prepare_topic
from ingest.build import identify
from ingest.commands.alerts import alerts
from ingest.commands.audit import audit
from ingest.commands.devices import devices, enrol
from ingest.commands.held import held
from ingest.commands.partitions import partitions
from ingest.commands.quarantine import quarantine
from ingest.commands.shell import config_option, run, settings_of
from ingest.commands.tenants import tenants
from ingest.config import EngineChoice, Settings, read_file
from ingest.core.examine import Examiner
from ingest.core.payload import load
from ingest.core.signature import Engine
from ingest.engines import open_engine
from ingest.feed import relay
from ingest.journal import open_journal
from ingest.metrics import Metrics
from ingest.process import Partitions, before, listening, notice_orphaned, until_told
from ingest.supervisor import supervise
from ingest.trial import find_killers
from ingest.worker import Limits, Worker
from loadtest.attack.command import attack
from loadtest.chaos.command import chaos
from loadtest.check import check
from loadtest.command import loadtest
from loadtest.demo import demo
from loadtest.lifecycle import lifecycle_

PARTITIONS = 6  # of a topic that is made here


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="weighbridge")
@click.pass_context
def main(context: click.Context) -> None:
    """Weighbridge: every vehicle message is accounted for, with a reason."""
    context.obj = enrol  # how the simulator, which does not know the registry, enrols its fleet


COMMANDS = (
    status, down, simulate, check, demo, chaos, attack, loadtest, lifecycle_,
    devices, tenants, partitions, audit, quarantine, held, alerts,
)  # fmt: skip
for command in COMMANDS:
    main.add_command(command)


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
    feed, _ = await make_topic(settings.kafka, settings.alerts_topic, partitions)
    applied = await migrate(settings.database)
    for name, found in ((settings.topic, topic), (settings.alerts_topic, feed)):
        how = "made" if found.made else "was there, and is fit"
        click.echo(f"topic {name}: {how}, {found.partitions} partitions", err=True)
    click.echo(f"migrations: {', '.join(applied) or 'up to date'}", err=True)
    return 0


@main.command
@config_option
@click.option("--processes", default=1, show_default=True, type=click.IntRange(1, 256), help="How many to run.")
@click.option("--engine", "wish", type=click.Choice([choice.value for choice in EngineChoice]),
              help="What checks signatures.  [default: as is set, auto if nothing is]")  # fmt: skip
@click.option("--index", default=0, hidden=True, type=int)
@click.option("--parent", hidden=True, type=int, help="The process that supervises this one.")
def worker(config: Path | None, processes: int, index: int, parent: int | None, wish: str | None) -> None:
    """Consume, examine, judge and commit, until SIGTERM."""
    settings = settings_of(config, "kafka", "database")
    open_journal(settings.log_level)
    chosen = EngineChoice(wish or settings.engine)
    try:
        engine = open_engine(chosen)
    except UnavailableError as error:
        raise click.ClickException(f"there is no multibuffer engine here: {error}; portable works anywhere") from None
    if processes == 1:
        return run(consume(settings, index, parent, engine))
    named = [] if config is None else ["--config", str(config)]
    named += ["--parent", str(os.getpid()), "--engine", chosen]
    commands = [["-m", "ingest", "worker", "--index", str(i), *named] for i in range(processes)]
    return run(supervise(commands, settings.drain_s_max))


async def consume(settings: Settings, index: int, parent: int | None, engine: Engine) -> int:
    """Be one worker process: put the parts together, join the group, drain when told."""
    catalogue, build = load(schemas.read_telemetry()), identify()
    metrics, tended = Metrics(build, engine.name), Partitions(settings.drain_s_max)
    metrics.watch(engine)
    signed = tuple(kind.schema for kind in catalogue.known.values())
    store = PostgresStore(settings.database, lambda: Provenance(build, engine.name, settings.policy, signed))
    examiner, benches = Examiner(settings.policy, catalogue, engine), asyncio.Semaphore(settings.batches_at_once)

    async def assigned(numbers: frozenset[int]) -> None:
        assert log is not None, "who has not joined the group is assigned nothing"
        limits = Limits(settings.batch_records_max, settings.batch_samples_max)
        worker = Worker(settings.topic, log, store, examiner, find_killers, metrics, limits, benches)
        tended.begin(worker, numbers)

    def find_faults() -> list[str]:
        return metrics.find_faults() if tended.joined else ["not a member of the group yet"]

    async with contextlib.AsyncExitStack() as stack:
        told = stack.enter_context(listening())
        if parent is not None:
            await stack.enter_async_context(tended.alongside(notice_orphaned(parent, told), "orphaned?"))
        if settings.http_port:
            port = settings.http_port + index
            await stack.enter_async_context(http.serve(settings.http_host, port, metrics.render, find_faults))
        await stack.enter_async_context(tended.alongside(store.upkeep(), "upkeep"))
        await stack.enter_async_context(tended.alongside(feed(settings, metrics), "feed"))
        watching = watch_revocations(settings.database, metrics)
        await stack.enter_async_context(tended.alongside(watching, "revocations"))
        log = await before(told, stack.enter_async_context(open_log(settings)))
        if log is not None:
            log.join(assigned, tended.end, tended.fail)
            await until_told(told, tended)
            await tended.end(tended.ours)
    tended.check()
    structlog.get_logger().info("stopped")
    return 0


async def feed(settings: Settings, metrics: Metrics) -> None:
    """Relay alerts from the store to their topic."""
    await relay(
        lambda: open_outbox(settings.database),
        lambda: open_channel(settings.kafka, settings.alerts_topic),
        metrics,
    )


if __name__ == "__main__":
    main()
