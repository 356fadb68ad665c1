"""How is the simulation run by hand? `make simulate` for thousands of seeds, `make simulate SEED=n` to replay one."""

import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed

import click
import msgspec

from loadtest.simulation.trial import SCENARIOS, SMALL_MESSAGES, SMALL_SCENARIO, Finding, Trial, exhaust
from loadtest.simulation.variants import VARIANTS, first_caught

SHOWN_MAX = 5  # violations told in full


class Account(msgspec.Struct):
    """What came of many runs."""

    runs: int = 0
    steps: int = 0
    counts: Counter[str] = msgspec.field(default_factory=Counter)
    violations: list[Finding] = msgspec.field(default_factory=list)

    def add(self, other: "Account") -> None:
        """Take in the account of other runs."""
        self.runs += other.runs
        self.steps += other.steps
        self.counts.update(other.counts)
        self.violations += other.violations


@click.command
@click.option("--seeds", default=5_000, show_default=True, type=click.IntRange(1), help="How many seeds to play.")
@click.option("--seed", type=click.IntRange(0), help="Play this one only, and tell every step.")
def simulate(seeds: int, seed: int | None) -> None:
    """Play the worker's loop against faults, and hold every run to the laws. Exit status 1 when one is broken."""
    sys.exit(0 if (_play_many(seeds) if seed is None else _replay(seed)) else 1)


def _replay(seed: int) -> bool:
    finding = Trial(seed % SCENARIOS).play(seed, say=click.echo)
    click.echo(f"\nseed {seed}: {len(finding.chronicle.faults)} faults in {finding.chronicle.steps} steps")
    _tell(finding)
    return not finding.objections


def _tell(finding: Finding) -> None:
    for line in finding.chronicle.faults:
        click.echo(f"  {line}")
    for objection in finding.objections or ["every law was kept"]:
        click.echo(f"  {'VIOLATION: ' if finding.objections else ''}{objection}")


def _play_many(seeds: int) -> bool:
    started_s = time.monotonic()
    account = Account()
    for part in _accounts(seeds):
        account.add(part)
        click.echo(f"{account.runs:,} of {seeds:,} seeds, {len(account.violations)} violations")
    _report(account, time.monotonic() - started_s)
    return not account.violations and _play_every_call() and _prove_oracle()


def _play_every_call() -> bool:
    findings = list(exhaust(Trial(SMALL_SCENARIO, SMALL_MESSAGES)))
    violations = [finding for finding in findings if finding.objections]
    click.echo(
        f"\nEvery call failed once before and once after its effect, or was its process's last: {len(findings):,} runs"
    )
    for finding in violations[:SHOWN_MAX]:
        _tell(finding)
    return not violations


def _prove_oracle() -> bool:
    """Break the product's twins in each known way; say which seed shows it."""
    trials = [Trial(number) for number in range(SCENARIOS)]
    caught = {name: first_caught(name, trials) for name in VARIANTS}
    click.echo("\nBroken on purpose, and caught by the oracle:")
    for name, seed in caught.items():
        click.echo(f"  {name}: {'NOT CAUGHT' if seed is None else f'seed {seed}'}")
    return None not in caught.values()


def _accounts(seeds: int) -> Iterator[Account]:
    """Play on every core, one scenario at a time."""
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        parts = [pool.submit(_play_scenario, number, seeds) for number in range(min(SCENARIOS, seeds))]
        for part in as_completed(parts):
            yield part.result()


def _play_scenario(number: int, seeds: int) -> Account:
    trial, account = Trial(number), Account()
    for seed in range(number, seeds, SCENARIOS):
        finding = trial.play(seed)
        found = [finding] if finding.objections else []
        account.add(Account(1, finding.chronicle.steps, finding.chronicle.counts, found))
    return account


def _report(account: Account, seconds: float) -> None:
    violations = sorted(account.violations, key=lambda finding: finding.seed)
    for finding in violations[:SHOWN_MAX]:
        click.echo(f"\nseed {finding.seed} (replay it with: make simulate SEED={finding.seed})")
        _tell(finding)
    if len(violations) > SHOWN_MAX:
        click.echo(f"\nand seeds {', '.join(str(finding.seed) for finding in violations[SHOWN_MAX:])}")
    click.echo("\nWhat really happened:")
    for kind, count in sorted(account.counts.items()):
        click.echo(f"{count:>8,}  {kind}")
    played = f"{account.runs:,} seeds, {account.steps:,} steps in {seconds:.0f} s"
    click.echo(f"\n{played}: {len(violations):,} violations of the laws.")


if __name__ == "__main__":
    simulate()
