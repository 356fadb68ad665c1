"""What can be typed, and where does it stand? The command line: the only file that names the commands of every room."""

import click

from ingest.commands.menu import Listed

COMMANDS = (
    Listed("up", "deploy.embedded.command:up",
           "Start Kafka and PostgreSQL unless they run, and prepare them.",
           lent="ingest.commands.prepare:prepare_these"),
    Listed("status", "deploy.embedded.command:status", "Say how Kafka and PostgreSQL are."),
    Listed("down", "deploy.embedded.command:down", "Stop Kafka and PostgreSQL."),
    Listed("prepare", "ingest.commands.prepare:prepare", "Make the topic and the tables, or bring them up to date."),
    Listed("worker", "ingest.commands.worker:worker", "Consume, examine, judge and commit, until SIGTERM."),
    Listed("simulate", "device_sim.command:simulate",
           "Put a fleet of simulated vehicles on the road, that know what verdict each message deserves.",
           lent="ingest.commands.devices:enrol"),
    Listed("check", "loadtest.check:check", "Compare what each message of a run deserved with what the store says."),
    Listed("demo", "loadtest.demo:demo",
           "Send a fleet over the weighbridge, some of it misbehaving, and prove that every message is accounted for."),
    Listed("chaos", "loadtest.chaos.command:chaos",
           "Ill-treat workers, Kafka and PostgreSQL under load, and prove that nothing is lost, doubled or wrong."),
    Listed("attack", "loadtest.attack.command:attack",
           "Attack workers of its own, on a topic and a database of its own, and show what becomes of it."),
    Listed("loadtest", "loadtest.command:loadtest", "Measure, on servers of its own."),
    Listed("lifecycle", "loadtest.lifecycle:lifecycle_",
           "Rotate, revoke, replace, transfer and enrol while a fleet speaks, thieves in it: each message gets its "
           "due."),
    Listed("devices", "ingest.commands.devices:devices", "Enrol devices, look at them, and change their keys."),
    Listed("tenants", "ingest.commands.tenants:tenants",
           "See the tenants, and name the authorities that may vouch for their devices."),
    Listed("partitions", "ingest.commands.partitions:partitions",
           "See where each partition stands, and let one go on whose log is broken."),
    Listed("audit", "ingest.commands.audit:audit",
           "See what people have decided, and whether anything that is stored was changed."),
    Listed("quarantine", "ingest.commands.quarantine:quarantine",
           "See which devices are suspected, and decide what becomes of them."),
    Listed("held", "ingest.commands.held:held", "Look after the messages that wait."),
    Listed("alerts", "ingest.commands.alerts:alerts",
           "See what there is to be told: clones, quarantines, keys that are used by others."),
)  # fmt: skip


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, commands=COMMANDS)
@click.version_option(package_name="weighbridge")
def main() -> None:
    """Weighbridge: every vehicle message is accounted for, with a reason."""


if __name__ == "__main__":
    main()
