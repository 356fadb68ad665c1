"""The ledger is exact for any order, and bounded by its gaps."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.core.sequence import Ledger, Use, add, look

RANGES_MAX = 64


def fill(numbers: list[int], ranges_max: int = RANGES_MAX) -> Ledger:
    ledger = Ledger()
    for number in numbers:
        ledger = add(ledger, number, ranges_max)
    return ledger


@given(st.sets(st.integers(1, 300)), st.randoms())
def test_any_order_of_the_same_numbers_gives_the_same_answers(numbers: set[int], chance: random.Random) -> None:
    order = sorted(numbers)
    chance.shuffle(order)
    ledger = fill(order, ranges_max=1_000)
    assert ledger == fill(sorted(numbers), ranges_max=1_000)
    assert {n for n in range(1, 302) if look(ledger, n) is Use.USED} == numbers
    assert all(look(ledger, n) is Use.NEW for n in range(1, 302) if n not in numbers)
    span = max(numbers) - min(numbers) + 1 if numbers else 0
    assert ledger.missing == span - len(numbers)


@given(st.lists(st.integers(1, 2_000), unique=True, max_size=400), st.integers(1, 8))
def test_a_compacted_ledger_is_unsure_but_never_wrong(numbers: list[int], ranges_max: int) -> None:
    ledger = Ledger()
    for number in numbers:
        assert look(ledger, number) is not Use.USED
        ledger = add(ledger, number, ranges_max)
        assert len(ledger.ranges) <= 2 * ranges_max
        assert look(ledger, number) is not Use.NEW
    assert ledger.accepted == len(numbers)
    assert ledger.highest == max(numbers, default=0)
    for number in range(1, 2_002):
        if look(ledger, number) is Use.USED:
            assert number in numbers
        if look(ledger, number) is Use.NEW:
            assert number not in numbers


def test_a_device_that_counts_in_order_costs_one_range() -> None:
    assert fill(list(range(1, 10_001))).ranges == (1, 10_001)


def test_a_gap_bomber_costs_no_more_than_the_cap() -> None:
    ledger = fill(list(range(1, 100_000, 2)))
    assert len(ledger.ranges) == 2 * RANGES_MAX
    assert all(look(ledger, even) is not Use.USED for even in range(2, 100_000, 2))
    assert look(ledger, 99_998) is Use.NEW
    assert look(ledger, 2) is Use.UNSURE


def test_a_cap_that_was_lowered_holds_from_the_next_number_on_though_it_comes_in_order() -> None:
    assert add(Ledger((1, 2, 3, 4, 5, 6), 0, 1, 5, 3), 6, ranges_max=2) == Ledger((3, 4, 5, 7), 2, 1, 6, 4)


def test_late_numbers_below_the_floor_do_not_come_back_into_the_ranges() -> None:
    ledger = fill(list(range(1, 1_000, 2)))
    late = add(ledger, 2, RANGES_MAX)
    assert late.ranges == ledger.ranges
    assert late.floor == ledger.floor
    assert late.accepted == ledger.accepted + 1


def test_the_highest_number_of_the_contract_fits() -> None:
    top = 2**63 - 2
    ledger = fill([top])
    assert ledger.ranges == (top, top + 1)
    assert look(ledger, top) is Use.USED


def test_a_number_cannot_be_entered_twice() -> None:
    with pytest.raises(AssertionError, match="in the ledger already"):
        add(fill([5]), 5, RANGES_MAX)
