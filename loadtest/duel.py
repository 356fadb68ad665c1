"""Do the fast engines agree with OpenSSL? Signatures by who has the key and who has not; all keys are admitted.

Exit status 1 at the first that they do not agree on; the job is shown, and its seed makes it again.
"""

import sys
from collections import Counter
from collections.abc import Sequence

import click
import msgspec

from ingest.adapters.multibuffer import Multibuffer, UnavailableError
from ingest.adapters.sodium import Sodium
from ingest.core.signature import Engine, OpenSSL
from loadtest.forgery import Attempt, Forger

GROUPS_MAX = (*[40] * 15, 700)  # jobs asked at once: groups of eight, whole and not; some are laid out in portions
SHOW_EVERY = 10_000


class Disagreement(msgspec.Struct, frozen=True):
    """What one engine lets pass and the other does not."""

    attempt: Attempt
    passes: str  # the engine that it passes
    among: int  # so many were asked at once

    def __str__(self) -> str:
        job = self.attempt.job
        shown = f"{job.algorithm} public={job.public.hex()} signature={job.signature.hex()} signed={job.signed.hex()}"
        return f"{self.attempt.kind}, among {self.among}, passes {self.passes} alone: {shown}"


def compare(one: Engine, other: Engine, attempts: Sequence[Attempt]) -> Disagreement | None:
    """Ask both the same; returns the first answer that differs."""
    jobs = [attempt.job for attempt in attempts]
    for attempt, first, second in zip(attempts, one.check(jobs), other.check(jobs), strict=True):
        if first is not second:
            return Disagreement(attempt, one.name if first else other.name, len(jobs))
    return None


def fight(one: Engine, other: Engine, count: int, seed: int) -> tuple[Counter[str], Disagreement | None]:
    """Try so many, in groups of all sizes; returns how many of each kind there were, and what was not agreed on."""
    forger = Forger(seed)
    tried: Counter[str] = Counter()
    shown = SHOW_EVERY
    while tried.total() < count:
        size = forger.random.randint(1, forger.random.choice(GROUPS_MAX))
        group = [forger.attempt() for _ in range(min(size, count - tried.total()))]
        if found := compare(one, other, group):
            return tried, found
        tried.update(attempt.kind for attempt in group)
        if tried.total() >= shown:
            click.echo(f"{tried.total():,} of {count:,}: agreed", err=True)
            shown += SHOW_EVERY
    return tried, None


@click.command
@click.option("--count", default=100_000, show_default=True, type=click.IntRange(1))
@click.option("--seed", default=1, show_default=True, type=click.IntRange(0))
def duel(count: int, seed: int) -> None:
    """Ask OpenSSL and each fast engine the same, so many times."""
    rivals: list[Engine] = [Sodium()]
    try:
        rivals.append(Multibuffer())
    except UnavailableError as error:
        click.echo(f"without the multibuffer engine: {error}", err=True)
    for fast in rivals:
        tried, found = fight(fast, OpenSSL(), count, seed)
        for kind, number in sorted(tried.items()):
            click.echo(f"{number:>9,}  {kind}")
        if found:
            click.echo(f"seed {seed}: {found}")
            sys.exit(1)
        click.echo(f"{tried.total():>9,}  in all: {fast.name} and portable agree")


if __name__ == "__main__":
    duel()
