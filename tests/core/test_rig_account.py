"""The rows of the store beside the schedule: what is missing, doubled or wrong is found, and times are exact."""

from collections.abc import AsyncIterator, Sequence

import pytest

from ingest.config import EngineChoice
from ingest.core.device import Algorithm
from loadtest.rig.account import Account, Batch, Row
from loadtest.rig.probe import Progress
from loadtest.rig.scenario import SCENARIOS, Course, Wish
from loadtest.rig.sender import Span

BEGIN_S = 1_000_000.0
WARM_S = 2.0


def course() -> Course:
    """Six messages a second, for two seconds that do not count and four that do: one a second in each partition."""
    wish = Wish(6.0, 4.0, WARM_S, 6, 1, Algorithm.ED25519, EngineChoice.AUTO, 1, 1, 1)
    return SCENARIOS["steady"].plan(wish)[0]


def row(offset: int, verdict: str = "accepted", reason: str = "") -> Row:
    """Appended 10 ms after it was due."""
    return offset, verdict, reason, BEGIN_S + offset + 0.01


def batch(start: int, stop: int) -> Batch:
    """Committed 150 ms after the last of it was due."""
    return start, stop, BEGIN_S + stop - 1 + 0.15


async def account(rows: Sequence[Row], batches: Sequence[Batch]) -> Account:
    async def given() -> AsyncIterator[Row]:
        for one in rows:
            yield one

    found = Account(course(), "t", BEGIN_S)
    await found._read(0, given(), iter(batches))
    return found


async def test_times_are_those_of_the_rows_and_count_only_after_the_warm_up() -> None:
    found = await account([row(offset) for offset in range(6)], [batch(0, 3), batch(3, 6)])
    assert found.comparison.differences().agrees
    assert found.waited.count == 4
    assert found.waited.max == pytest.approx(2.14e6, abs=2)  # the first of the second batch waited for two more
    assert found.whole.max == pytest.approx(2.15e6, abs=2)
    seconds = found.seconds()
    assert [second.due for second in seconds] == [1, 1, 1, 1]
    assert [second.committed for second in seconds] == [3, 0, 0, 3]
    assert [second.lag for second in seconds] == [0, 1, 2, 0]
    assert found.committed == 6


async def test_what_has_no_verdict_is_missed() -> None:
    found = await account([row(offset) for offset in (0, 1, 3)], [batch(0, 6)])
    differences = found.comparison.differences()
    assert (differences.unaccounted, differences.wrong) == (3, 0)
    assert {example.offset for example in differences.examples} == {2, 4, 5}


async def test_a_second_verdict_and_a_wrong_one_are_found() -> None:
    rows = [row(0), row(1), row(1), row(2, "refused", "malformed"), row(3), row(4), row(5)]
    differences = (await account(rows, [batch(0, 6)])).comparison.differences()
    assert (differences.unaccounted, differences.wrong, differences.unexpected) == (0, 1, 1)


def test_spans_and_commits_are_paired_whichever_is_heard_of_first() -> None:
    progress = Progress()
    progress.commit(0, 5, 1_100)
    progress.append([Span(0, 0, 5, 1_000), Span(0, 5, 5, 1_050)])
    progress.append([Span(1, 0, 1, 1_000)])
    progress.commit(0, 12, 1_300)
    assert (progress.sent, progress.waited.count, progress.waited.max) == (11, 10, 250)
    assert progress.waited.quantile(0.5) == 100
