"""What is there to run, and what must be fetched: Java and Kafka's jars, PostgreSQL's programs."""

from deploy.software.system import Missing, Say

__all__ = ["Missing", "Say"]
