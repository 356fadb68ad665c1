"""What goes wrong, how often, and in which order? Faults dealt from a seed, so that none is forgotten."""

import random
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from types import MappingProxyType

PAUSE_S_MIN, PAUSE_S_MAX = 0.3, 2.0  # from one fault to the next


class Fault(StrEnum):
    """What is done to the house."""

    KILL = "kill"  # kill -9 of a worker; it is started again
    ZOMBIE = "zombie"  # SIGSTOP for longer than the session timeout, then SIGCONT
    USURP = "usurp"  # a lease taken over, its owner's backend alive: only the fence is left
    TERMINATE = "terminate"  # pg_terminate_backend of a lease's owner
    DATABASE_CRASH = "database-crash"  # immediate stop, then a start
    DATABASE_OUTAGE = "database-outage"  # down for some seconds
    COMMIT_UNSENT = "commit-unsent"  # cut before the COMMIT reached PostgreSQL
    COMMIT_UNANSWERED = "commit-unanswered"  # cut after it did, before the reply
    CUT = "cut"  # all connections to PostgreSQL
    HALF_OPEN = "half-open"  # a connection that swallows everything, and stays open
    DELAY = "delay"
    THROTTLE = "throttle"
    BROKER_KILL = "broker-kill"  # kill -9 of Kafka, then a start
    VISITOR = "visitor"  # a member that joins the group, and leaves it
    ROLLING = "rolling"  # SIGTERM of a worker; it is started again
    PARTITIONS = "partitions"  # one more


TIMES: Mapping[Fault, int] = MappingProxyType(
    {
        **dict.fromkeys(Fault, 2),
        Fault.COMMIT_UNSENT: 4,
        Fault.COMMIT_UNANSWERED: 4,
        Fault.TERMINATE: 3,
        Fault.ZOMBIE: 1,
        Fault.DATABASE_CRASH: 1,
        Fault.DATABASE_OUTAGE: 1,
        Fault.HALF_OPEN: 1,
        Fault.BROKER_KILL: 1,
        Fault.PARTITIONS: 1,
    }
)  # in a round


def deal(chance: random.Random, faults: Sequence[Fault]) -> Iterator[Fault]:
    """Give faults without end, in shuffled rounds that hold each of them."""
    while True:
        dealt = [fault for fault in faults for _ in range(TIMES[fault])]
        chance.shuffle(dealt)
        yield from dealt
