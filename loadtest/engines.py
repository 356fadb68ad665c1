"""What CPU does a signature cost, by engine, algorithm and number asked at once? Medians of interleaved rounds."""

import itertools
import statistics
import time
from collections import defaultdict
from collections.abc import Sequence

import click

from ingest.adapters.multibuffer import Multibuffer, UnavailableError
from ingest.adapters.sodium import Sodium
from ingest.core.device import Algorithm
from ingest.core.signature import Engine, Job, OpenSSL
from loadtest.forgery import Forger

SIZES = (1, 8, 64, 256, 2_000)
ASKED_MIN = 256  # in a round, at least, in as many calls as it takes
JOBS = 2_000  # of some four hundred keys, which OpenSSL's engine keeps

Case = tuple[str, str, int]  # what is asked, the engine's name, and how many at once


@click.command
@click.option("--rounds", default=9, show_default=True, type=click.IntRange(1, 1_000))
def engines(rounds: int) -> None:
    """Show µs of CPU a signature, sound and forged."""
    rivals: list[Engine] = [OpenSSL(), Sodium()]
    try:
        rivals.append(Multibuffer())
    except UnavailableError as error:
        click.echo(f"without the multibuffer engine: {error}", err=True)
    found = measure(rivals, rounds)
    click.echo(f"{'µs a signature, asked at once':<36}" + "".join(f"{size:>8,}" for size in SIZES))
    for what, name in dict.fromkeys(case[:2] for case in found):
        click.echo(f"{what + ', ' + name:<36}" + "".join(f"{found[what, name, size]:>8.1f}" for size in SIZES))


def measure(rivals: Sequence[Engine], rounds: int) -> dict[Case, float]:
    """Ask each engine the same, turn by turn; returns the median of what a signature took."""
    asked, took = make(), defaultdict[Case, list[float]](list)
    for _ in range(rounds):
        for (what, jobs), size, engine in itertools.product(asked.items(), SIZES, rivals):
            calls = [jobs[at : at + size] for at in range(0, max(size, ASKED_MIN), size)]
            started = time.process_time()
            for call in calls:
                engine.check(call)
            took[what, engine.name, size].append((time.process_time() - started) / sum(map(len, calls)))
    return {case: statistics.median(times) * 1e6 for case, times in sorted(took.items())}


def make() -> dict[str, list[Job]]:
    """Sign with many keys, by both algorithms, and give each signature to another message as well."""
    forger = Forger(seed=1)
    sound = {Algorithm.ED25519: forger.eddsa, Algorithm.P256: forger.es256}
    made = {algorithm: [sign() for _ in range(JOBS)] for algorithm, sign in sound.items()}
    forged = {f"{algorithm} forged": [_forge(job) for job in jobs] for algorithm, jobs in made.items()}
    return {f"{algorithm} sound": jobs for algorithm, jobs in made.items()} | forged


def _forge(job: Job) -> Job:
    return Job(job.algorithm, job.public, job.signed + b"!", job.signature)


if __name__ == "__main__":
    engines()
