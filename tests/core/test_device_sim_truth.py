"""Does the comparison find every way in which truth and store can differ, and only those?"""

from collections.abc import Iterable
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_sim.truth import Comparison, Deserved, Differences, Found, Owned, Span, Writer, compare, read
from ingest.core.verdict import Verdict

TRUTH = [
    Deserved("t", 0, 100, Verdict.ACCEPTED, "", None, "honest", "tcu-1"),
    Deserved("t", 0, 101, Verdict.DUPLICATE, "", None, "replay", "tcu-1"),
    Deserved("t", 0, 103, Verdict.REFUSED, "bad_signature", None, "forged", "tcu-2"),
    Deserved("t", 1, 5_000, Verdict.ACCEPTED, "", 7, "cross_partition_replay", "tcu-3"),
    Deserved("t", 2, 9, Verdict.DUPLICATE, "", 7, "cross_partition_replay", "tcu-3"),
]
STORE = [Found(row.topic, row.partition, row.offset, row.verdict, row.reason) for row in TRUTH]


def compared(store: Iterable[Found], truth: Iterable[Deserved] = TRUTH) -> Differences:
    rows = list(store)

    def read_store(span: Span) -> list[Found]:
        return [row for row in rows if (row.topic, row.partition) == (span.topic, span.partition)]

    return compare(truth, read_store)


def counts(differences: Differences) -> tuple[int, int, int]:
    return differences.unaccounted, differences.wrong, differences.unexpected


def test_a_store_that_says_the_same_agrees() -> None:
    differences = compared(STORE)
    assert differences.agrees
    assert differences.sent == 5
    assert (
        differences.deserved
        == differences.found
        == {
            ("accepted", ""): 2,
            ("duplicate", ""): 2,
            ("refused", "bad_signature"): 1,
        }
    )
    assert differences.examples == []


def test_positions_of_a_group_may_exchange_their_verdicts() -> None:
    exchanged = [Found("t", 1, 5_000, "duplicate", ""), Found("t", 2, 9, "accepted", "")]
    assert compared(STORE[:3] + exchanged).agrees


@pytest.mark.parametrize("verdict", ["accepted", "duplicate"])
def test_a_group_owes_each_of_its_verdicts_once(verdict: str) -> None:
    same = [Found("t", 1, 5_000, verdict, ""), Found("t", 2, 9, verdict, "")]
    assert counts(compared(STORE[:3] + same)) == (0, 1, 0)


def test_a_missing_verdict_is_unaccounted_and_named() -> None:
    differences = compared(STORE[:1] + STORE[2:])
    assert counts(differences) == (1, 0, 0)
    assert [(e.offset, e.fault, e.found) for e in differences.examples] == [(101, "replay", "no verdict")]


def test_another_reason_is_wrong() -> None:
    other = msgspec.structs.replace(STORE[2], reason="unknown_key")
    differences = compared([*STORE[:2], other, *STORE[3:]])
    assert counts(differences) == (0, 1, 0)
    assert differences.examples[0].deserved == "refused (bad_signature)"
    assert differences.examples[0].found == "refused (unknown_key)"


def test_a_second_verdict_for_a_position_is_unexpected() -> None:
    assert counts(compared([*STORE, STORE[0]])) == (0, 0, 1)


def test_a_verdict_where_nothing_was_sent_is_unexpected_only_inside_the_run() -> None:
    inside, before, after = (Found("t", 0, offset, "accepted", "") for offset in (102, 99, 104))
    assert counts(compared([*STORE, inside, before, after])) == (0, 0, 1)


def test_a_topic_that_the_run_never_wrote_to_says_nothing() -> None:
    assert compared([*STORE, Found("other", 0, 100, "refused", "malformed")]).agrees


def test_a_truth_that_names_a_position_twice_is_no_truth() -> None:
    with pytest.raises(ValueError, match="t/0/100 twice"):
        compared(STORE, [*TRUTH, TRUTH[0]])


def test_nothing_at_all_is_unaccounted_in_full() -> None:
    assert counts(compared([])) == (5, 0, 0)


@given(st.permutations(TRUTH), st.permutations(STORE))
def test_order_does_not_matter(truth: list[Deserved], store: list[Found]) -> None:
    comparison = Comparison()
    for row in truth:
        comparison.expect(row)
    for found in store:
        comparison.find(found)
    assert comparison.differences().agrees


@given(st.sets(st.integers(0, 4)), st.sets(st.integers(0, 2)))
def test_every_difference_is_counted_once(missing: set[int], changed: set[int]) -> None:
    store = [
        msgspec.structs.replace(row, verdict="held", reason="stale") if index in changed else row
        for index, row in enumerate(STORE)
        if index not in missing
    ]
    assert counts(compared(store)) == (len(missing), len(changed - missing), 0)


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    path = tmp_path / "truth.jsonl"
    with path.open("w") as file:
        writer = Writer(file)
        for row in TRUTH:
            writer.write(row)
    assert list(read(path)) == TRUTH


def test_a_line_that_is_no_truth_is_named(tmp_path: Path) -> None:
    path = tmp_path / "truth.jsonl"
    path.write_text('{"topic": "t"}\n')
    with pytest.raises(ValueError, match="line 1: not a line of truth"):
        list(read(path))


@pytest.mark.parametrize(
    ("found", "wrong"),
    [(("accepted", ""), 0), (("refused", "key_revoked"), 0), (("refused", "key_not_valid"), 1)],
)
def test_what_may_meet_either_registry_deserves_one_of_two_verdicts(found: tuple[str, str], wrong: int) -> None:
    one = msgspec.structs.replace(TRUTH[0], otherwise=(Verdict.REFUSED, "key_revoked"))
    differences = compared([Found("t", 0, 100, *found)], [one])
    assert (differences.wrong, differences.either) == (wrong, 1)
    assert differences.deserved == {(("accepted", "") if wrong else found): 1}


def test_a_stored_message_of_another_owner_is_named() -> None:
    comparison = Comparison()
    comparison.expect(msgspec.structs.replace(TRUTH[0], tenant="ours"))
    comparison.expect(msgspec.structs.replace(TRUTH[1], tenant="ours"))
    comparison.expect(TRUTH[2])
    for row in STORE[:3]:
        comparison.find(row)
    assert comparison.names_owners
    for offset, tenant in ((100, "theirs"), (101, "ours"), (103, "theirs"), (9_999, "theirs")):
        comparison.own(Owned("t", 0, offset, tenant))
    differences = comparison.differences()
    assert not differences.agrees
    assert (differences.owned, differences.misowned) == (2, 1)
    assert [(one.offset, one.deserved, one.found) for one in differences.examples] == [(100, "ours", "theirs")]
