"""A loop dares half as much after trouble, twice as much after a commit, and finds the message that is to blame."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.adapters.memory.store import MemoryStore
from ingest.core.message import Envelope, RawRecord, Refused
from ingest.core.verdict import Refusal
from ingest.pace import BACKOFF_S_MAX, BACKOFF_S_MIN, Pace
from ingest.ports import Lease, TroubleError, UnkeepableError

TROUBLE = TroubleError("no answer")
UNKEEPABLE = UnkeepableError("a row has a value that cannot be kept")

Messages = list[Envelope | Refused]


def log(count: int) -> Messages:
    return [Refused(RawRecord("t", 0, at, 0, b"x"), Refusal.MALFORMED, "not CBOR") for at in range(count)]


def take(pace: Pace, count: int = 1_000) -> int:
    return len(pace.take(log(count)))


def lease_after(deaths: int, judged_since: int = 0) -> Lease:
    """Give the lease of who takes over after so many have died, and one more after so many offsets."""

    async def take_over() -> Lease:
        store = MemoryStore({}, [])
        for _ in range(deaths):
            async with store.take_over("t", 0):
                pass
        if judged_since:
            async with store.take_over("t", 0):
                store.leases["t", 0].next_offset = judged_since
        async with store.take_over("t", 0) as lease:
            return lease

    return asyncio.run(take_over())


def test_half_as_much_after_each_trouble_and_twice_as_much_after_each_commit() -> None:
    pace, sizes = Pace(0, 100), list[int]()
    for _ in range(8):
        sizes.append(take(pace))
        pace.failed(TROUBLE)
    assert sizes == [100, 50, 25, 12, 6, 3, 1, 1]
    sizes.clear()
    for _ in range(9):
        sizes.append(take(pace))
        pace.committed(sizes[-1])
    assert sizes == [1, 2, 4, 8, 16, 32, 64, 100, 100]


def test_what_was_in_flight_is_halved_not_what_might_have_been() -> None:
    pace = Pace(0, 8_000)
    assert take(pace, 40) == 40
    pace.failed(TROUBLE)
    assert take(pace) == 20


def test_trouble_with_nothing_in_flight_makes_no_batch_smaller() -> None:
    pace = Pace(0, 100)
    for _ in range(5):
        pace.failed(TROUBLE)
    assert take(pace) == 100
    pace.committed(100)
    pace.failed(TROUBLE)
    assert take(pace) == 100


def test_what_always_fails_is_tried_less_and_less_often_until_something_succeeds() -> None:
    pace = Pace(0, 100)
    waits_s = [pace.failed(TROUBLE) for _ in range(9)]
    assert waits_s == [min(BACKOFF_S_MIN * 2**n, BACKOFF_S_MAX) for n in range(9)]
    assert waits_s[-1] == BACKOFF_S_MAX
    pace.idle()
    assert pace.failed(TROUBLE) == BACKOFF_S_MIN
    pace.failed(TROUBLE)
    pace.committed(1)
    assert pace.failed(TROUBLE) == BACKOFF_S_MIN


@pytest.mark.parametrize("error", [TROUBLE, UNKEEPABLE])
def test_of_one_message_only_its_rows_are_to_blame_never_the_weather(error: TroubleError) -> None:
    pace, messages = Pace(0, 1), log(2)
    assert pace.take(messages) == messages[:1]
    pace.failed(error)
    taken = pace.take(messages)
    if error is TROUBLE:
        assert taken == messages[:1]
    else:
        (refused,) = taken
        assert isinstance(refused, Refused)
        assert (refused.record, refused.reason) == (messages[0].record, Refusal.POISON)


def test_who_is_to_blame_is_forgotten_with_the_commit() -> None:
    """Another log has other messages at the same offsets."""
    pace, messages = Pace(0, 1), log(1)
    pace.take(messages)
    pace.failed(UNKEEPABLE)
    assert pace.take(messages) != messages
    pace.committed(1)
    assert pace.take(messages) == messages


def play(pace: Pace, messages: Messages, bad: frozenset[int]) -> tuple[list[int], int]:
    """Commit all to a store that refuses the rows of some; returns who was refused, and after how many attempts."""
    at, refused, attempts = 0, list[int](), 0
    while at < len(messages):
        taken = pace.take(messages[at:])
        poison = [one.record.offset for one in taken if isinstance(one, Refused) and one.reason is Refusal.POISON]
        attempts += 1
        if bad & {one.record.offset for one in taken} - set(poison):
            pace.failed(UNKEEPABLE)
        else:
            pace.committed(len(taken))
            at += len(taken)
            refused += poison
    return refused, attempts


@settings(deadline=None)  # time is not what is tested
@given(st.integers(1, 200), st.frozensets(st.integers(0, 199), max_size=20), st.integers(1, 300))
def test_whoever_is_unkeepable_is_found_and_nobody_else_is_refused(
    count: int, bad: frozenset[int], records_max: int
) -> None:
    there = frozenset(at for at in bad if at < count)
    refused, attempts = play(Pace(0, records_max), log(count), there)
    assert refused == sorted(there)
    fruitless = 2 * records_max.bit_length() ** 2
    assert attempts <= -(-count // records_max) + (1 + len(there)) * fruitless


def test_one_in_500_costs_a_few_attempts() -> None:
    refused, attempts = play(Pace(0, 500), log(500), frozenset({249}))
    assert refused == [249]
    assert attempts < 30


def test_where_an_owner_died_each_message_is_tried_first_as_far_as_it_can_have_read() -> None:
    pace = Pace(0, 100)
    pace.begin(lease_after(deaths=1))
    for consumed in (60, 39, 1):
        assert pace.careful
        pace.committed(consumed)
    assert not pace.careful


@pytest.mark.parametrize(("judged_since", "left"), [(1, 100), (2, 99), (60, 70), (198, 1), (199, 1)])
def test_who_comes_later_is_as_careful_for_what_is_left_of_that_and_for_markers_in_between(
    judged_since: int, left: int
) -> None:
    pace = Pace(0, 100)
    pace.begin(lease_after(1, judged_since))
    assert take(pace) == 100, "only where they died it takes less"
    pace.committed(left - 1)
    assert pace.careful
    pace.committed(1)
    assert not pace.careful


@pytest.mark.parametrize("judged_since", [200, 10_000])
def test_beyond_that_all_is_as_ever(judged_since: int) -> None:
    pace = Pace(0, 100)
    pace.begin(lease_after(1))
    pace.begin(lease_after(1, judged_since))
    assert not pace.careful


@pytest.mark.parametrize(("deaths", "taken"), [(0, 100), (1, 25), (2, 12), (9, 1)])
def test_the_more_of_them_died_the_less_is_taken(deaths: int, taken: int) -> None:
    pace = Pace(0, 100)
    pace.begin(lease_after(deaths))
    assert take(pace) == taken
