"""How are the rooms put together? `worker`, the only command that runs the house itself."""

import asyncio
import contextlib
import os
from pathlib import Path

import click
import structlog

import schemas
from ingest.adapters.channel import open_channel
from ingest.adapters.kafka import open_log
from ingest.adapters.multibuffer import UnavailableError
from ingest.adapters.postgres.outbox import open_outbox
from ingest.adapters.postgres.provenance import Provenance
from ingest.adapters.postgres.revocation import watch_revocations
from ingest.adapters.postgres.store import PostgresStore
from ingest.build import identify
from ingest.commands.shell import config_option, run, settings_of
from ingest.config import EngineChoice, Settings
from ingest.core.examine import Examiner
from ingest.core.payload import load
from ingest.core.signature import Engine
from ingest.engines import open_engine
from ingest.feed import relay
from ingest.journal import open_journal
from ingest.metrics import Metrics
from ingest.process import Partitions, before, listening, notice_orphaned, seek_garbage_seldom, until_told
from ingest.supervisor import supervise
from ingest.trial import find_killers
from ingest.worker import Limits, Worker


@click.command
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
        seek_garbage_seldom()
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
    limits = Limits(settings.batch_records_max, settings.batch_samples_max)

    def find_faults() -> list[str]:
        return metrics.find_faults() if tended.joined else ["not a member of the group yet"]

    async with contextlib.AsyncExitStack() as stack:
        told = stack.enter_context(listening())
        if parent is not None:
            await stack.enter_async_context(tended.alongside(notice_orphaned(parent, told), "orphaned?"))
        if settings.http_port:
            from ingest.adapters import http  # noqa: PLC0415 (its library takes as long to load as half of all others)

            port = settings.http_port + index
            await stack.enter_async_context(http.serve(settings.http_host, port, metrics.render, find_faults))
        await stack.enter_async_context(tended.alongside(store.upkeep(), "upkeep"))
        await stack.enter_async_context(tended.alongside(feed(settings, metrics), "feed"))
        watching = watch_revocations(settings.database, metrics)
        await stack.enter_async_context(tended.alongside(watching, "revocations"))
        log = await before(told, stack.enter_async_context(open_log(settings)))
        if log is not None:
            worker = Worker(settings.topic, log, store, examiner, find_killers, metrics, limits, benches)

            async def assigned(numbers: frozenset[int]) -> None:
                tended.begin(worker, numbers)

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
