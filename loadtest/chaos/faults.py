"""What goes wrong, how often, and in which order? Faults dealt from a seed, so that none is forgotten."""

import random
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from types import MappingProxyType

PAUSE_S_MIN, PAUSE_S_MAX = 0.3, 2.0  # from one fault to the next


class Fault(StrEnum):
    """What is done to the house."""

    KILL = "kill"  # kill -9 of a worker; it is started again
    ZOMBIE = "zombie"  # SIGSTOP until its partitions have been given away, then SIGCONT
    RIVAL = "rival"  # a worker of another group takes everything over, and ends no backend: only the fence is left
    TERMINATE = "terminate"  # pg_terminate_backend of a lease's owner
    DATABASE_CRASH = "database-crash"  # immediate stop, then a start
    DATABASE_OUTAGE = "database-outage"  # down for some seconds
    LONG_OUTAGE = "long-outage"  # down for a fifth of the storm
    DISK_FULL = "disk-full"  # of the tables
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


# Each of these stops the group for up to its session timeout: were they dealt as often as the others, nobody would own
# a partition for most of the storm, and the others would strike nothing.
GROUP = frozenset(
    {Fault.KILL, Fault.ZOMBIE, Fault.RIVAL, Fault.BROKER_KILL, Fault.VISITOR, Fault.ROLLING, Fault.PARTITIONS}
)
ONCE = frozenset({Fault.LONG_OUTAGE})  # in the middle of the storm
TIMES: Mapping[Fault, int] = MappingProxyType(
    {
        **dict.fromkeys(Fault, 2),
        Fault.COMMIT_UNSENT: 4,
        Fault.COMMIT_UNANSWERED: 4,
        Fault.TERMINATE: 3,
        Fault.KILL: 3,
        Fault.ROLLING: 3,
        **dict.fromkeys((Fault.DATABASE_CRASH, Fault.DATABASE_OUTAGE, Fault.DISK_FULL, Fault.HALF_OPEN), 1),
        **dict.fromkeys((Fault.ZOMBIE, Fault.BROKER_KILL, Fault.PARTITIONS), 1),
    }
)  # in a round


def deal(chance: random.Random, faults: Sequence[Fault]) -> Iterator[Fault]:
    """Give faults without end, if there are any, in shuffled rounds that hold each of them."""
    while faults:
        dealt = [fault for fault in faults for _ in range(TIMES[fault])]
        chance.shuffle(dealt)
        yield from dealt
