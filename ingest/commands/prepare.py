"""What must be there before a worker can begin? `prepare`: the topics and the tables, made or brought up to date."""

import os
from pathlib import Path

import click

from ingest.adapters.postgres.migration import migrate
from ingest.adapters.topics import make_topic, prepare_topic
from ingest.commands.shell import config_option, run, settings_of
from ingest.config import Settings, read_file

PARTITIONS = 6  # of a topic that is made here


@click.command
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


def prepare_these(kafka: str, database: str) -> None:
    """Prepare the servers that are up."""
    ours = {"WEIGHBRIDGE_KAFKA": kafka, "WEIGHBRIDGE_DATABASE": database}
    if not ours.items() <= os.environ.items():  # servers of one's own are prepared when one says so
        run(prepare_both(read_file(None, {**os.environ, **ours}), PARTITIONS))
