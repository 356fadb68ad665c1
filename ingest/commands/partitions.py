"""Where does each partition stand? And let one go on whose log is broken."""

from pathlib import Path

import click
from aiokafka import TopicPartition

from ingest.adapters.continuity import compare
from ingest.adapters.postgres.audit import Decision
from ingest.adapters.postgres.resumption import State, list_partitions, resume
from ingest.commands.shell import (
    ask,
    config_option,
    connected,
    decision_options,
    json_option,
    run,
    settings_of,
    show_rows,
)
from ingest.ports import Mark


@click.group
def partitions() -> None:
    """See where each partition stands, and let one go on whose log is broken."""


@partitions.command("list")
@config_option
@json_option
def list_partitions_(config: Path | None, as_json: bool) -> None:  # noqa: FBT001 (click gives flags so)
    """List the partitions of the topic, halted ones first."""
    settings = settings_of(config, "database")

    show_rows(ask(config, lambda connection: list_partitions(connection, settings.topic)), as_json=as_json)


@partitions.command("resume")
@config_option
@click.argument("partition", type=click.IntRange(0))
@decision_options()
def resume_(config: Path | None, partition: int, decision: Decision) -> None:
    """Let a halted PARTITION go on with the log as it is now.

    What is gone is written down as a gap. Another log is read from its beginning, as another incarnation of the topic.
    """
    settings = settings_of(config, "kafka", "database")

    async def work() -> int:
        at = settings.topic, partition
        found = await compare(settings.kafka, TopicPartition(*at), Mark(0, None, None))
        state = State(found.log_id, found.bounds.first)
        async with connected(settings) as connection:
            done = await resume(connection, at, state, decision)
        how = "reads its new log from the beginning" if done.lost is None else f"passes over {done.lost} lost records"
        click.echo(f"partition {partition} halted at offset {done.halted_at}: {done.halted_why}")
        click.echo(f"it goes on, and {how}")
        return 0

    run(work())
