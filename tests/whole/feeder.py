"""What is a worker process that only relays alerts? It starts in half the time, and so can be killed more often."""

import os

import uvloop

from ingest.adapters.channel import open_channel
from ingest.adapters.postgres.outbox import open_outbox
from ingest.config import read_file
from ingest.feed import relay
from ingest.journal import open_journal
from ingest.metrics import Metrics


async def main() -> None:
    settings = read_file(None, os.environ)
    open_journal(settings.log_level)
    await relay(
        lambda: open_outbox(settings.database),
        lambda: open_channel(settings.kafka, settings.alerts_topic),
        Metrics("test", "none"),
    )


if __name__ == "__main__":
    uvloop.run(main())
