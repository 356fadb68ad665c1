"""A report says first whether the verdicts are right, and hides neither a late sender nor a claim that fails."""

import re

import msgspec
from msgspec.structs import replace

from loadtest.rig.histogram import Histogram
from loadtest.rig.page import page
from loadtest.rig.result import Count, Machine, Part, Report, Result, Second, Sent, Usage, spread
from loadtest.rig.scenario import SCENARIOS
from loadtest.rig.trial import settle

WAITED = Histogram([(40_000, 900), (700_000, 100)])
SPREAD = spread(WAITED)
MACHINE = Machine("a processor", 2, 8_192, [0.5, 0.4, 0.3], "Linux", "3.11", "abc", "0.1.0", {"PostgreSQL fsync": "on"})
RESULT = Result(
    name="flood",
    backlog=False,
    watched="honest",
    streams=[Sent("honest", 1_000, 1_000, 327.0, "honest", 7, 60, "accepted")],
    messages=1_000,
    seconds=2.5,
    rate=400.0,
    lag_max=30,
    enrolled=60,
    enrolling_s=0.5,
    engines=["portable"],
    waited=SPREAD,
    whole=SPREAD,
    handed_late=spread(Histogram([(10_000, 1_000)])),
    buckets=list(WAITED.buckets()),
    seconds_seen=[Second(at, 400, 400, 400, 30, 40.0, 700.0) for at in range(3)],
    usage=[Usage(float(at), {"workers": 0.5, "rig": 0.1}, {11: 80.0, 12: 81.0}) for at in range(1, 4)],
    cpu_us={"workers": 100.0, "rig": 20.0},
    rss_mb_max=161.0,
    parts=[
        Part("alone", 0, 1.25, 400.0, 400.0, SPREAD, SPREAD),
        Part("flood", 1.25, 2.5, 4_400.0, 300.0, SPREAD, SPREAD),
    ],
    counts=[Count("accepted", "", 1_000, 1_000)],
    unaccounted=0,
    wrong=0,
    examples=[],
)


def report(result: Result) -> Report:
    ratios = settle(SCENARIOS["flood"], [result])
    return Report("flood", "A flood.", "2030-01-01", {"rate": 400.0, "seed": 7}, MACHINE, [result], ratios)


def test_figures_stand_where_they_are_looked_for() -> None:
    text = re.sub(r"<[^>]+>", " ", page(report(RESULT)))
    for said in ("every one got the verdict", "p50 40.2 ms", "p99 700 ms", "a processor", "fsync on", "seeds", "75.0%"):
        assert said in text, said


def test_a_wrong_verdict_is_the_first_thing_said() -> None:
    wrong = replace(RESULT, wrong=3, examples=["0/7 (honest): deserved accepted, found <held>"])
    assert not report(wrong).right
    text = page(report(wrong))
    assert "3 did not get the verdict that they deserve" in text
    assert "found &lt;held&gt;" in text


def test_a_claim_that_does_not_hold_is_said_to_fail() -> None:
    assert [ratio.holds for ratio in report(RESULT).ratios] == [False]
    good = replace(RESULT, parts=[RESULT.parts[0], replace(RESULT.parts[1], goodput=390.0)])
    assert [ratio.holds for ratio in report(good).ratios] == [True]


def test_memory_is_compared_between_two_fleets() -> None:
    more = replace(RESULT, rss_mb_max=RESULT.rss_mb_max * 1.2)
    (ratio,) = settle(SCENARIOS["devices"], [RESULT, more])
    assert (round(ratio.value, 3), ratio.holds) == (1.2, False)


def test_a_sender_that_was_late_is_not_believed() -> None:
    behind = replace(RESULT, handed_late=spread(Histogram([(10_000, 900), (5_000_000, 100)])))
    assert "the sender was up to 5,000 ms late" in page(report(behind))
    assert "the sender was" not in page(report(RESULT))


def test_a_backlog_has_no_latency() -> None:
    text = page(report(replace(RESULT, backlog=True)))
    assert "append to commit" not in text
    assert text.count("<svg") == 4


def test_the_json_file_says_all_that_the_page_says() -> None:
    again = msgspec.json.decode(msgspec.json.encode(report(RESULT)), type=Report)
    assert page(again) == page(report(RESULT))
