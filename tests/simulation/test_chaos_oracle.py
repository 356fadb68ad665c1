"""The judge of the chaos run sees each kind of wrong, and its proxy sees each COMMIT."""

import ast
import random
import struct
from collections import Counter
from pathlib import Path

import pytest
from msgspec.structs import replace

from loadtest.chaos.crew import ENDS_NOBODY
from loadtest.chaos.faults import TIMES, Fault, deal
from loadtest.chaos.oracle import Batch, Books, Due, Given, Position, Sent, examine
from loadtest.chaos.proof import FAULTS, WHOLE
from loadtest.chaos.proxy import Frames, is_commit
from loadtest.chaos.variants import VARIANTS

ROOT = Path(__file__).parents[2]
ACCEPTED, DUPLICATE = ("accepted", ""), ("duplicate", "")
LANDED = {
    (1, 0, 0): Due("accepted", "", None),
    (1, 0, 1): Due("duplicate", "", None),
    (1, 1, 0): Due("accepted", "", None),
}
LOG = {(1, 0, 0): b"a", (1, 0, 1): b"a", (1, 1, 0): b"b"}
GOOD = Books(
    log=LOG,
    verdicts=[
        Given((1, 0, 0), ACCEPTED, ("ann", 1, 7)),
        Given((1, 0, 1), DUPLICATE, ("ann", 1, 7)),
        Given((1, 1, 0), ACCEPTED, ("bob", 1, 3)),
    ],
    batches=[Batch(1, 0, 0, 1, 1, 0), Batch(1, 0, 1, 2, 1, 0), Batch(1, 1, 0, 1, 1, 0)],
    ledgers={"ann": 1, "bob": 1, "eve": 0},
)
SENT = Sent(LANDED, [])


def kinds(sent: Sent, books: Books) -> set[str]:
    return {kind for kind, count in examine(sent, books).counts.items() if count}


def given(books: Books, *more: Given) -> Books:
    return replace(books, verdicts=[*books.verdicts, *more])


def test_a_calm_run_has_no_fault() -> None:
    assert examine(SENT, GOOD).kept


@pytest.mark.parametrize(
    ("books", "found"),
    [
        (replace(GOOD, verdicts=GOOD.verdicts[:2]), {"lost", "ledgers"}),
        (given(GOOD, GOOD.verdicts[1]), {"doubled"}),
        (given(replace(GOOD, verdicts=[GOOD.verdicts[0], GOOD.verdicts[2]]), Given((1, 0, 1), ACCEPTED, ("ann", 1, 7))),
         {"doubled", "wrong", "ledgers"}),
        (given(replace(GOOD, verdicts=GOOD.verdicts[:2]), Given((1, 1, 0), ("refused", "malformed"), None)),
         {"wrong", "ledgers"}),
        (given(GOOD, Given((1, 1, 9), DUPLICATE, ("bob", 1, 3))), {"unfounded"}),
        (replace(GOOD, batches=GOOD.batches[1:]), {"untiled"}),
        (replace(GOOD, batches=[*GOOD.batches, GOOD.batches[0]]), {"untiled"}),
        (replace(GOOD, batches=[*GOOD.batches[:2], Batch(1, 1, 0, 1, 0, 0)]), {"untiled"}),
        (replace(GOOD, batches=GOOD.batches[:2]), {"untiled"}),
        (replace(GOOD, ledgers={"ann": 2, "bob": 1}), {"ledgers"}),
        (replace(GOOD, log={**LOG, (1, 1, 1): b"x"}), {"lost", "unknown", "untiled"}),
    ],
)  # fmt: skip
def test_each_kind_of_wrong_is_found(books: Books, found: set[str]) -> None:
    assert kinds(SENT, books) == found


def test_what_was_acknowledged_must_be_in_the_log() -> None:
    sent = Sent({**LANDED, (1, 2, 0): Due("accepted", "", None)}, [])
    assert kinds(sent, GOOD) == {"vanished"}


def test_sends_without_an_acknowledgement_are_found_by_their_bytes_in_the_order_of_sending() -> None:
    landed: dict[Position, Due] = {(1, 1, 0): LANDED[1, 1, 0]}
    left = [(b"a", LANDED[1, 0, 0]), (b"a", LANDED[1, 0, 1]), (b"c", Due("accepted", "", None))]
    assert examine(Sent(landed, left), GOOD).kept
    assert kinds(Sent(landed, left[::-1]), GOOD) == {"wrong"}


def test_a_group_may_exchange_its_verdicts_but_not_get_others() -> None:
    group = (0, 5)
    landed = {**LANDED, (1, 0, 0): Due("duplicate", "", group), (1, 0, 1): Due("accepted", "", group)}
    assert examine(Sent(landed, []), GOOD).kept
    assert kinds(Sent({**landed, (1, 0, 1): Due("duplicate", "", group)}, []), GOOD) == {"wrong"}


def test_a_group_of_which_a_part_landed_may_have_any_verdict_of_the_whole() -> None:
    group = (0, 5)
    landed = {**LANDED, (1, 1, 0): Due("duplicate", "", group)}
    assert examine(Sent(landed, [(b"x", Due("accepted", "", group))]), GOOD).kept


def test_what_the_log_lost_unjudged_is_no_loss_of_ours_if_it_is_noted() -> None:
    log = {**LOG, (1, 1, 1): b"x"}
    batches = [*GOOD.batches, Batch(1, 1, 1, 2, 0, 1)]
    gone = replace(GOOD, log=log, batches=batches, gone={(1, 1, 1)}, skipped=[(1, 1, 1)])
    sent = Sent({**LANDED, (1, 1, 1): Due("accepted", "", None)}, [])
    assert examine(sent, gone).kept
    assert kinds(sent, replace(gone, skipped=[])) == {"unrecorded"}
    assert kinds(sent, replace(gone, gone=set())) == {"lost"}


def test_what_is_read_again_in_another_incarnation_is_a_repetition() -> None:
    again = replace(GOOD, log={**LOG, (2, 1, 0): b"b"}, batches=[*GOOD.batches, Batch(2, 1, 0, 1, 1, 0)])
    assert examine(SENT, given(again, Given((2, 1, 0), DUPLICATE, ("bob", 1, 3)))).kept
    assert kinds(SENT, given(again, Given((2, 1, 0), ACCEPTED, ("bob", 1, 3)))) == {"doubled", "wrong", "ledgers"}
    assert kinds(SENT, again) == {"lost"}


def query(text: bytes) -> bytes:
    return b"Q" + struct.pack(">i", len(text) + 5) + text + b"\0"


def test_a_commit_is_seen_however_the_bytes_arrive() -> None:
    startup = struct.pack(">ihh", 8, 1234, 5679), struct.pack(">ihh", 12, 3, 0) + b"ab\0\0"
    payload = b"d" + struct.pack(">i", 4 + len(query(b"COMMIT;"))) + query(b"COMMIT;")
    said = [*startup, query(b"BEGIN;"), payload, query(b"COMMIT;"), query(b"commit")]
    whole, chance = b"".join(said), random.Random(1)
    for _ in range(50):
        frames, at, cut = Frames(), 0, list[bytes]()
        while at < len(whole):
            size = chance.randint(1, 20)
            cut += frames.cut(whole[at : at + size])
            at += size
        assert cut == said
        assert [is_commit(frame) for frame in cut] == [False, False, False, False, True, True]


def test_the_same_seed_deals_the_same_faults_and_each_round_has_all_of_them() -> None:
    size = sum(TIMES.values())
    rounds = [[next(dealt) for _ in range(size)] for dealt in [deal(random.Random(5), tuple(Fault)) for _ in range(2)]]
    assert rounds[0] == rounds[1]
    assert Counter(rounds[0]) == dict(TIMES)


def test_each_broken_variant_breaks_what_is_there_and_has_faults_that_bring_it_out() -> None:
    assert {*VARIANTS, WHOLE} == {*FAULTS, ENDS_NOBODY}
    for name, changes in VARIANTS.items():
        for target, attribute, replacement in changes:
            assert getattr(target, attribute) != replacement, name


@pytest.mark.parametrize("module", ["oracle", "reading"])
def test_the_judge_is_written_apart_from_the_product(module: str) -> None:
    tree = ast.parse((ROOT / "loadtest" / "chaos" / f"{module}.py").read_text())
    named = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not {name for name in named if name.split(".")[0] == "ingest"}
