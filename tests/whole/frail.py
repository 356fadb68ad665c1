"""What is a worker that some messages kill? The house's own, under its own supervisor, with an engine that is frail."""

import os
import sys
from collections.abc import Sequence

import uvloop

from ingest.commands.worker import consume
from ingest.config import read_file
from ingest.journal import open_journal
from ingest.supervisor import supervise
from tests.whole.pill import Frail


def main(parent: Sequence[str]) -> int:
    """Be the supervisor, or the worker process of the one that is named."""
    settings = read_file(None, os.environ)
    open_journal(settings.log_level)
    if parent:
        return uvloop.run(consume(settings, 0, int(parent[0]), Frail()))
    return uvloop.run(supervise([["-m", "tests.whole.frail", str(os.getpid())]], settings.drain_s_max))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
