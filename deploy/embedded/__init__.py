"""One Kafka node and one PostgreSQL of our own, for the demo, the tests and a developer's day."""

from deploy.embedded.pair import Addresses, Condition, Report, down, erase, status, up
from deploy.embedded.process import Stuck

__all__ = ["Addresses", "Condition", "Report", "Stuck", "down", "erase", "status", "up"]
