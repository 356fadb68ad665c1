"""Does one seed keep the laws? A scenario with its oracle, ready to be played under any plan."""

import random
from collections.abc import Callable, Iterator

import msgspec

from ingest.core.policy import Policy
from loadtest.simulation.corpus import Remembering, examiner, scenario
from loadtest.simulation.oracle import BURST_BYTES_MAX, BURST_MAX, HELD_BYTES_MAX, REFUSED_BYTES_MAX, Oracle
from loadtest.simulation.storm import Calm, Chronicle, Fault, Plan, Single, Storm
from loadtest.simulation.world import Setting, run

SCENARIOS = 25  # a seed's remainder names its scenario
SMALL_SCENARIO, SMALL_MESSAGES, SMALL_SEED = 16, 16, 4  # for the exhaustive loop: it has a pill, and an unkeepable one
CALLS_MAX = 2_000  # of the small scenario: the exhaustive loop ends
WAYS = ((Fault.FAILURE, False), (Fault.FAILURE, True), (Fault.CRASH, False), (Fault.CRASH, True))

# Little enough that a scenario spends it.
POLICY = Policy(
    refused_bytes_max=REFUSED_BYTES_MAX,
    refused_burst_bytes_max=BURST_BYTES_MAX,
    held_bytes_max=HELD_BYTES_MAX,
    device_burst_max=BURST_MAX,
    device_away_s_max=0,
    tenant_burst_max=BURST_MAX,
    fleet_burst_max=BURST_MAX,
)

Say = Callable[[str], object]


class Finding(msgspec.Struct, frozen=True):
    """What came of one run."""

    seed: int
    objections: list[str]
    chronicle: Chronicle


class Trial:
    """One scenario, signed once, and what its runs are held to."""

    def __init__(self, number: int, messages: int = 40) -> None:
        self._sent = scenario(number, messages)
        self._examiner = examiner(Remembering(), POLICY)
        calm = run(self._sent, self._examiner, Setting(0, lambda _: Calm()))
        self._oracle = Oracle(self._sent, calm.books)
        objections = calm.failures or self._oracle.objections(calm.books)
        assert objections == [], f"scenario {number} breaks laws in a calm run: {objections}"

    def play(self, seed: int, plan: Callable[[random.Random], Plan] = Storm, say: Say | None = None) -> Finding:
        """Play one seed and ask the oracle."""
        played = run(self._sent, self._examiner, Setting(seed, plan, say))
        return Finding(seed, played.failures or self._oracle.objections(played.books), played.chronicle)


def exhaust(trial: Trial) -> Iterator[Finding]:
    """Fail the N-th call to log or store, in each way, for every N until there are no more calls."""
    for fault, reply in WAYS:
        for number in range(1, CALLS_MAX):
            plan = Single(number, fault, reply=reply)
            finding = trial.play(SMALL_SEED, lambda _, plan=plan: plan)  # type: ignore[misc]
            yield finding
            if not plan.struck:
                break
        else:
            raise AssertionError(f"the small scenario has more than {CALLS_MAX} calls")
