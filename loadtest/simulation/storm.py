"""What goes wrong, and when? A plan says of each request and each reply whether a fault strikes it."""

import random
from collections import Counter
from collections.abc import Callable
from enum import StrEnum
from typing import Protocol

from ingest.adapters.memory.wire import Call

FAULTS_MAX = 12  # of one run: it must end
SHARES = (0.01, 0.03, 0.08)  # of the requests and replies that are struck while there are faults left
OFTENER = {"write": 4, "trial": 2, "COMMIT": 4, "end previous owner": 5, "BEGIN": 2}  # times


class Fault(StrEnum):
    """What may strike a request or a reply."""

    CRASH = "crash of a worker process"
    ASLEEP = "worker process asleep"
    REBALANCE = "rebalance, old owner drained"
    REBALANCE_LATE = "rebalance, old owner told late"
    REBALANCE_UNTOLD = "rebalance, old owner never told"
    FAILURE = "call failed"
    SLOW = "call slow"
    TIMEOUT = "call timed out"
    COMMIT_LATE = "COMMIT takes effect after the client gave up"
    END_LATE = "old owner's connection ended late"
    ENDED = "connection ended by the server"
    RESTART = "restart of the database"
    KEYS_MOVED = "keys moved"
    ASTRAY = "redelivery from an older offset"
    AHEAD = "consumer's position astray ahead"


_ANYWHERE = {
    Fault.CRASH: 4,
    Fault.ASLEEP: 4,
    Fault.REBALANCE: 2,
    Fault.REBALANCE_LATE: 2,
    Fault.REBALANCE_UNTOLD: 1,
    Fault.FAILURE: 4,
    Fault.SLOW: 3,
    Fault.TIMEOUT: 1,
}
_STORE = {**_ANYWHERE, Fault.ENDED: 2, Fault.RESTART: 1}
_ODDS: dict[tuple[str, bool], dict[Fault, int]] = {
    ("fetch", False): {**_ANYWHERE, Fault.ASTRAY: 16, Fault.AHEAD: 12},
    ("fetch", True): _ANYWHERE,
    ("trial", False): _ANYWHERE,
    ("trial", True): _ANYWHERE,
    ("confirm", False): _ANYWHERE,
    ("confirm", True): _ANYWHERE,
    ("end previous owner", False): {**_STORE, Fault.END_LATE: 30},
    ("BEGIN", False): {**_STORE, Fault.KEYS_MOVED: 12},
    ("COMMIT", False): {**_STORE, Fault.COMMIT_LATE: 10},
}


class Plan(Protocol):
    """Says what strikes."""

    def strike(self, call: Call, *, reply: bool) -> Fault | None:
        """Say whether a fault strikes this request, or the reply to it."""


class Storm:
    """Strikes at random, a bounded number of times."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._left = chance.randint(1, FAULTS_MAX)
        self._share = chance.choice(SHARES)

    def strike(self, call: Call, *, reply: bool) -> Fault | None:
        """See Plan."""
        share = self._share * OFTENER.get(call.operation, 1)
        if not self._left or self._chance.random() >= share:
            return None
        self._left -= 1
        odds = _ODDS.get((call.operation, reply), _STORE)
        return self._chance.choices(list(odds), list(odds.values()))[0]


class Single:
    """Strikes the N-th call, once: before its effect, or after it."""

    def __init__(self, number: int, fault: Fault, *, reply: bool) -> None:
        self._left = number
        self._fault = fault
        self._reply = reply
        self.struck: str | None = None  # which operation

    def strike(self, call: Call, *, reply: bool) -> Fault | None:
        """See Plan."""
        if reply is not self._reply or self.struck is not None:
            return None
        self._left -= 1
        if self._left > 0:
            return None
        self.struck = call.operation
        return self._fault


class Calm:
    """Strikes never."""

    def strike(self, call: Call, *, reply: bool) -> Fault | None:  # noqa: ARG002 (the shape of a plan)
        """See Plan."""
        return None


class Chronicle:
    """What really happened in a run: each fault with its time, and counts. Every step is told to who wants to hear."""

    def __init__(self, say: Callable[[str], object] | None = None) -> None:
        self.counts: Counter[str] = Counter()
        self.faults: list[str] = []
        self.steps = 0
        self._say = say

    def step(self, at_s: float, who: str, call: Call, *, reply: bool) -> None:
        """Take note of a request or a reply."""
        self.steps += 1
        if self._say:
            self._say(_line(at_s, who, call, reply=reply))

    def strike(self, at_s: float, step: tuple[str, Call, bool], fault: Fault) -> None:
        """Take note of a fault."""
        who, call, reply = step
        self.faults.append(f"{_line(at_s, who, call, reply=reply)}: {fault.upper()}")
        self._count(call, fault, reply=reply)
        if self._say:
            self._say(f"{at_s:10.4f} s  {fault.upper()}")

    def tell(self, at_s: float, text: str) -> None:
        """Take note of what followed."""
        if self._say:
            self._say(f"{at_s:10.4f} s  {text}")

    def _count(self, call: Call, fault: Fault, *, reply: bool) -> None:
        ours = "store" if call.connection is not None else "trial" if call.operation == "trial" else "log"
        match fault:
            case Fault.FAILURE | Fault.TIMEOUT if call.operation == "COMMIT":
                self.counts[f"COMMIT unanswered, {'had taken' if reply else 'took no'} effect"] += 1
            case Fault.FAILURE | Fault.SLOW | Fault.TIMEOUT:
                self.counts[f"{ours}: {fault}"] += 1
            case Fault.COMMIT_LATE | Fault.ASTRAY | Fault.AHEAD | Fault.KEYS_MOVED | Fault.ASLEEP:
                pass  # counted when they had consequences
            case _:
                self.counts[fault] += 1
        if fault in _IN_FLIGHT and call.operation in ("BEGIN", "recall", "priors", "write", "COMMIT"):
            self.counts[f"{_IN_FLIGHT[fault]} with a transaction open"] += 1


_IN_FLIGHT = {
    Fault.CRASH: "crash",
    Fault.REBALANCE: "rebalance",
    Fault.REBALANCE_LATE: "rebalance",
    Fault.REBALANCE_UNTOLD: "rebalance",
}


def _line(at_s: float, who: str, call: Call, *, reply: bool) -> str:
    return f"{at_s:10.4f} s  {who}, partition {call.partition}, {call.operation}{', replied' if reply else ''}"
