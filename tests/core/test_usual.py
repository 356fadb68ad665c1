"""What goes on where its device stood is accepted at once, and no otherwise than if every rule had been asked."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from ingest.core import judge
from ingest.core.device import KeyState
from ingest.core.policy import Policy
from tests.core.court import DAY_S, EPOCH, NOW_MS, Court, Say

TIGHT = Policy(
    device_per_s_max=1, device_burst_max=6, tenant_per_s_max=2, tenant_burst_max=9, fleet_per_s_max=3,
    fleet_burst_max=14, seq_jump_max=8, ledger_ranges_max=2,
)  # fmt: skip
TWISTS: list[dict[str, object]] = [
    {"late_s": 400.0}, {"late_s": -400.0}, {"late_s": 31 * DAY_S}, {"late_s": -2 * DAY_S}, {"epoch": EPOCH + 1},
    {"epoch": EPOCH - 1}, {"boot": "boot-002"}, {"software": "2.0"}, {"key": KeyState.RETIRED, "cutoff": 3},
    {"key": KeyState.RETIRED, "cutoff": 99}, {"readable": False}, {"content": "b"},
    {"content": "b", "boot": "boot-002"}, {"content": "b", "boot": "boot-003"},
]  # fmt: skip
STEPS = [1] * 8 + [0, -1, 2, 12]  # from one number to the next
TWISTED = st.tuples(st.sampled_from(STEPS), st.sampled_from([{}] * 16 + TWISTS), st.integers(0, 2))
BATCHES = st.lists(st.tuples(st.lists(TWISTED, min_size=1, max_size=8), st.booleans()), min_size=1, max_size=5)


@settings(max_examples=1_000)
@given(BATCHES, st.booleans())
def test_the_short_way_ends_where_the_long_way_does(
    batches: list[tuple[list[tuple[int, dict[str, object], int]], bool]],
    charging: bool,  # noqa: FBT001 (drawn)
) -> None:
    short, long = Court(policy=TIGHT), Court(policy=TIGHT)
    short.charging = long.charging = charging
    last = seconds = 0
    for twisted, released in batches:
        says = []
        for step, twist, passed_s in twisted:
            last, seconds = max(1, last + step), seconds + passed_s
            says.append(replace(Say(last, at_ms=NOW_MS + 1_000 * seconds), **twist))
        for court in (short, long) if released else ():
            court.devices[1] = replace(court.device, held=0)
        found = short.judge(*says)
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(vars(judge)["_Bench"], "_accept_usual", lambda *_: None)
            assert long.judge(*says) == found
            words = long.weigh(*says)
        assert short.weigh(*says) == words
    assert (short.devices, short.shares) == (long.devices, long.shares)
