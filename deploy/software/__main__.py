"""Fetch what the servers need, as far as it is not here. `make setup` runs this after making the environment."""

import os
import sys

from deploy.software import Missing, java, kafka, postgres


def say(line: str) -> None:
    """Tell the user."""
    print(f"setup: {line}", file=sys.stderr, flush=True)  # noqa: T201 - it is what this program is for


def provide() -> None:
    """Provide each server's software, unless there is a server to use instead."""
    if os.environ.get("WEIGHBRIDGE_KAFKA"):
        say("WEIGHBRIDGE_KAFKA is set: no Kafka of our own is needed")
    else:
        say(f"Apache Kafka {kafka.version()} in {kafka.jars(say)}, run by {java.provide(say)}")
    if os.environ.get("WEIGHBRIDGE_DATABASE"):
        say("WEIGHBRIDGE_DATABASE is set: no PostgreSQL of our own is needed")
    else:
        folder = postgres.provide(None, say)
        say(f"PostgreSQL {postgres.version(folder)} in {folder}")


if __name__ == "__main__":
    try:
        provide()
    except Missing as missing:
        say(str(missing))
        sys.exit(1)
