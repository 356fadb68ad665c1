"""Durations are counted to within 0.8 %, whatever their size, and what was written down is the same again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.rig.histogram import Histogram

values = st.lists(st.integers(0, 10**12), min_size=1, max_size=300)


def counted(found: list[int]) -> Histogram:
    return Histogram((value, 1) for value in found)


@given(values, st.sampled_from([0.0, 0.5, 0.9, 0.99, 0.999, 1.0]))
def test_a_quantile_is_that_of_the_values_to_within_a_128th(found: list[int], share: float) -> None:
    true = next(value for place, value in enumerate(sorted(found), 1) if place >= share * len(found))
    assert true <= counted(found).quantile(share) <= true + true // 128


@given(values)
def test_the_count_and_the_highest_are_exact(found: list[int]) -> None:
    histogram = counted(found)
    assert (histogram.count, histogram.max) == (len(found), max(found))
    assert sum(count for _, _, count in histogram.buckets()) == len(found)


@given(values)
def test_buckets_come_in_order_and_do_not_overlap(found: list[int]) -> None:
    edges = [edge for low, high, _ in counted(found).buckets() for edge in (low, high)]
    assert edges == sorted(edges)
    assert all(any(low <= value <= high for low, high, _ in counted(found).buckets()) for value in found)


@given(values, values)
def test_two_that_are_merged_are_as_if_counted_in_one(one: list[int], other: list[int]) -> None:
    merged = counted(one)
    merged.merge(counted(other))
    both = counted(one + other)
    assert list(merged.buckets()) == list(both.buckets())
    assert (merged.count, merged.max) == (both.count, both.max)


@given(values)
def test_what_is_written_down_is_the_same_again(found: list[int]) -> None:
    histogram = counted(found)
    again = Histogram(histogram.pairs())
    assert list(again.buckets()) == list(histogram.buckets())
    assert (again.count, again.max) == (histogram.count, histogram.max)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_one_without_values_says_nothing(share: float) -> None:
    assert Histogram().quantile(share) == 0
    assert list(Histogram().buckets()) == []


def test_what_took_less_than_nothing_counts_as_nothing() -> None:
    histogram = Histogram([(-5, 2)])
    assert (histogram.count, histogram.max, histogram.quantile(1.0)) == (2, 0, 0)
