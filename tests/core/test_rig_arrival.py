"""When messages are due is known beforehand, and each comes once, whoever sends it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.config import EngineChoice
from ingest.core.device import Algorithm
from ingest.core.verdict import Verdict
from loadtest.compare.ground import PARTITIONS
from loadtest.rig.arrival import Flow, Stretch, merged
from loadtest.rig.scenario import SCENARIOS, Course, Wish

WISH = Wish(
    rate=100.0,
    seconds=20.0,
    warm=2.0,
    devices=50,
    samples=1,
    algorithm=Algorithm.ED25519,
    engine=EngineChoice.AUTO,
    processes=2,
    senders=1,
    seed=1,
)
flows = st.builds(
    Flow,
    st.lists(st.builds(Stretch, st.floats(0, 5), st.floats(0, 200)), max_size=4).map(tuple),
    st.integers(0, 50),
)
plans = pytest.mark.parametrize(
    "course",
    [course for scenario in SCENARIOS.values() for course in scenario.plan(WISH)],
    ids=lambda course: course.name,
)


def test_messages_are_as_far_apart_as_the_rate_says() -> None:
    flow = Flow((Stretch(1.0, 4.0), Stretch(2.0, 0.0), Stretch(0.5, 8.0)))
    assert [at_s for at_s, _ in flow.moments(0, 1)] == [0, 0.25, 0.5, 0.75, 3.0, 3.125, 3.25, 3.375]


def test_what_is_there_at_once_is_due_at_the_beginning() -> None:
    assert list(Flow((Stretch(1.0, 2.0),), at_once=2).moments(0, 1)) == [(0, 0), (0, 1), (0, 2), (0.5, 3)]


@given(flows, st.integers(1, 6))
def test_each_number_comes_once_whatever_the_number_of_partitions(flow: Flow, step: int) -> None:
    shares = [list(flow.moments(first, step)) for first in range(step)]
    together = sorted((number, at_s) for share in shares for at_s, number in share)
    assert [number for number, _ in together] == list(range(flow.count))
    assert [at_s for _, at_s in together] == sorted(at_s for _, at_s in together)
    assert sorted(together) == [(number, at_s) for at_s, number in flow.moments(0, 1)]


@given(st.lists(flows, min_size=1, max_size=3))
def test_several_flows_come_in_the_order_in_which_they_are_due(several: list[Flow]) -> None:
    found = list(merged(several, 0, 1))
    assert found == sorted(found)
    assert len(found) == sum(flow.count for flow in several)


@plans
def test_a_scenario_sends_no_more_than_is_signed_and_each_device_into_one_partition(course: Course) -> None:
    for stream in course.streams:
        assert stream.order.devices % PARTITIONS == 0
        places: dict[int, int] = {}
        for number in range(stream.flow.count):
            index = stream.index(number)
            assert index < stream.order.messages
            assert places.setdefault(index % stream.order.devices, number % PARTITIONS) == number % PARTITIONS


@plans
def test_what_is_watched_is_honest_and_phases_follow_one_another(course: Course) -> None:
    assert course.streams[0].verdict is Verdict.ACCEPTED
    assert course.count == sum(len(list(flow.moments(0, 1))) for flow in course.flows)
    ends = [edge for phase in course.phases for edge in (phase.from_s, phase.until_s)]
    assert ends == sorted(ends)
    assert ends[1:-1:2] == ends[2::2]


def test_what_is_replayed_was_sent_before() -> None:
    (course,) = SCENARIOS["replay"].plan(WISH)
    honest, again = course.streams
    for partition in range(PARTITIONS):
        sent: set[int] = set()
        for _, which, number in merged(course.flows, partition, PARTITIONS):
            if which:
                assert again.index(number) in sent
            else:
                sent.add(honest.index(number))


def test_the_outage_loses_nothing() -> None:
    (course,) = SCENARIOS["reconnect"].plan(WISH)
    assert course.count == pytest.approx((WISH.seconds + WISH.warm) * WISH.rate, abs=1)
