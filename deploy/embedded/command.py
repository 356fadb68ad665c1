"""What does a person type to have the servers, and what does a shell read back? The addresses, as exports."""

import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import click

from deploy import embedded, software
from deploy.embedded.pair import Condition

STATE = Path(__file__).resolve().parents[2] / ".weighbridge"
Prepare = Callable[[str, str], None]  # of the command line, which knows what the servers are for; takes both addresses
STOPPED = 3  # the exit status of `status` for a server that is not running, as with service scripts (LSB)

state_option = click.option(
    "--state",
    type=click.Path(file_okay=False, path_type=Path),
    default=STATE,
    show_default=".weighbridge of the checkout",
    help="Directory that the servers keep their data, logs and addresses in.",
)


def say(line: str) -> None:
    """Tell the person; stdout is for the shell."""
    click.echo(line, err=True)


def bring_up(state: Path) -> embedded.Addresses:
    """Start what is not running, or end the command with the one line that says why not."""
    try:
        return embedded.up(state, say)
    except (software.Missing, embedded.Stuck) as problem:
        raise click.ClickException(str(problem)) from None


def tell_shell(addresses: embedded.Addresses) -> None:
    """Print what a shell can eval."""
    click.echo(f"export WEIGHBRIDGE_KAFKA={shlex.quote(addresses.kafka)}")
    click.echo(f"export WEIGHBRIDGE_DATABASE={shlex.quote(addresses.database)}")


@click.command
@state_option
@click.pass_obj
def up(prepare: Prepare | None, /, state: Path) -> None:
    """Start Kafka and PostgreSQL unless they run, and prepare them. For a shell: eval "$(weighbridge up)"."""
    addresses = bring_up(state)
    if prepare is not None:
        prepare(addresses.kafka, addresses.database)
    tell_shell(addresses)


@click.command
@state_option
def status(state: Path) -> None:
    """Say how Kafka and PostgreSQL are. Exit status 0: both can be used; 3: not both."""
    reports = embedded.status(state)
    for report in reports:
        where = f"at {_without_password(report.address)}" if report.address else "never started"
        process = f", process {report.pid}" if report.pid else ""
        click.echo(f"{report.name}: {report.condition}, {where}{process}")
    if not {report.condition for report in reports} <= {Condition.RUNNING, Condition.GIVEN}:
        sys.exit(STOPPED)


@click.command
@state_option
@click.option("--erase", is_flag=True, help="Throw their data away, too.")
def down(state: Path, *, erase: bool) -> None:
    """Stop Kafka and PostgreSQL. Their data stay, for the next `up`."""
    try:
        (embedded.erase if erase else embedded.down)(state, say)
    except embedded.Stuck as problem:
        raise click.ClickException(str(problem)) from None
    say(f"Kafka and PostgreSQL are down{', their data are gone' if erase else ''}")


def _without_password(address: str) -> str:
    """Leave out what stands before the @ of a URL: `up` gives it to a shell, a screen need not show it."""
    scheme, _, rest = address.rpartition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}" if scheme else address
