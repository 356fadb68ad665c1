"""Was the promise kept? Judged from plain data: what stands in the log, what was sent, and what the views say.

It shares nothing with the product but the words for verdicts. Every check is a comparison of sets and sums.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence

import msgspec

EXAMPLES_MAX = 5  # of each kind

Position = tuple[int, int, int]  # incarnation of the log, partition, offset
Verdict = tuple[str, str]  # and its reason, "" where there is none


class Due(msgspec.Struct, frozen=True, gc=False):
    """What one send deserves."""

    verdict: str
    reason: str
    group: tuple[int, int] | None  # wave and number: sends of one group may exchange their verdicts


class Given(msgspec.Struct, frozen=True, gc=False):
    """One row of the view of verdicts."""

    position: Position
    verdict: Verdict
    number: tuple[str, int, int] | None  # device, epoch, seq, where they are known


class Batch(msgspec.Struct, frozen=True, gc=False):
    """One row of the view of batches."""

    incarnation: int
    partition: int
    from_offset: int
    to_offset: int
    judged: int
    skipped: int


class Sent(msgspec.Struct, frozen=True):
    """What is known of the sends."""

    landed: Mapping[Position, Due]  # acknowledged
    open: Sequence[tuple[bytes, Due]]  # digest of each send without an acknowledgement, in the order of sending


class Books(msgspec.Struct, frozen=True):
    """What the log and the store hold at the end."""

    log: Mapping[Position, bytes]  # digest of each record, those included that it has lost since
    verdicts: Sequence[Given]
    batches: Sequence[Batch]
    ledgers: Mapping[str, int]  # by device: how many messages it says were accepted
    gone: Collection[Position] = frozenset()  # lost by the log before they were judged
    skipped: Sequence[Position] = ()  # each offset that the store has noted as gone


class Finding(msgspec.Struct, frozen=True):
    """What is wrong, by kind: how often, with some examples."""

    counts: Mapping[str, int]
    examples: Sequence[str]

    @property
    def kept(self) -> bool:
        """Whether the promise was kept."""
        return not any(self.counts.values())


def examine(sent: Sent, books: Books) -> Finding:
    """Find all that is wrong."""
    due, unlanded = adopt(sent, books.log)
    due |= _reread(books)
    objections = {
        "lost": _lost(books),
        "doubled": [*_twice(books.verdicts), *_accepted_twice(books.verdicts)],
        "wrong": _wrong(due, unlanded, books.verdicts),
        "unfounded": _unfounded(books),
        "untiled": _untiled(books),
        "unrecorded": [f"{at} is gone, and it is not noted" for at in sorted(books.gone) if at not in books.skipped],
        "ledgers": _ledgers(books),
        "unknown": [f"{at} is in the log, and nobody sent it" for at in books.log if at not in due],
        "vanished": [f"{at} was acknowledged, and is not in the log" for at in sent.landed if at not in books.log],
    }
    examples = [f"{kind}: {one}" for kind, found in objections.items() for one in found[:EXAMPLES_MAX]]
    return Finding({kind: len(found) for kind, found in objections.items()}, examples)


def adopt(sent: Sent, log: Mapping[Position, bytes]) -> tuple[dict[Position, Due], list[Due]]:
    """Look the sends without an acknowledgement up in the log, by their bytes; also gives those that are not there.

    A producer keeps the order of each partition, so that the first unexplained copy is the first that was sent.
    """
    due, waiting = dict(sent.landed), defaultdict[bytes, list[Due]](list)
    for digest, one in sent.open:
        waiting[digest].append(one)
    for at in sorted(log.keys() - due.keys()):
        if waiting.get(log[at]):
            due[at] = waiting[log[at]].pop(0)
    return due, [one for left in waiting.values() for one in left]


def _reread(books: Books) -> dict[Position, Due]:
    """Say what those deserve that are read again in another incarnation of the log: all but refusals are repeated."""
    judged = {one.position: one.verdict for one in books.verdicts}
    again = {}
    for (incarnation, partition, offset), bytes_ in books.log.items():
        before = incarnation - 1, partition, offset
        if books.log.get(before) == bytes_ and before in judged:
            verdict = judged[before] if judged[before][0] == "refused" else ("duplicate", "")
            again[incarnation, partition, offset] = Due(*verdict, None)
    return again


def _lost(books: Books) -> list[str]:
    answered = {given.position for given in books.verdicts}
    return [f"{at} has no verdict" for at in books.log if at not in answered and at not in books.gone]


def _twice(verdicts: Iterable[Given]) -> list[str]:
    times = Counter(given.position for given in verdicts)
    return [f"{at} has {count} verdicts" for at, count in times.items() if count > 1]


def _accepted_twice(verdicts: Iterable[Given]) -> list[str]:
    times = Counter(given.number for given in verdicts if given.verdict[0] == "accepted")
    return [f"{number} was accepted {count} times" for number, count in times.items() if count > 1]


def _wrong(due: Mapping[Position, Due], unlanded: Iterable[Due], verdicts: Iterable[Given]) -> list[str]:
    owed: dict[tuple[int, int], Counter[Verdict]] = defaultdict(Counter)
    for one in (*due.values(), *unlanded):
        if one.group is not None:
            owed[one.group][one.verdict, one.reason] += 1
    wrong = []
    for given in verdicts:
        deserved = due.get(given.position)
        if deserved is None:
            continue
        allowed = Counter([(deserved.verdict, deserved.reason)]) if deserved.group is None else owed[deserved.group]
        if allowed[given.verdict] < 1:
            wrong.append(f"{given.position} deserves {deserved.verdict} {deserved.reason}, got {given.verdict}")
        allowed[given.verdict] -= 1
    return wrong


def _unfounded(books: Books) -> list[str]:
    return [f"{one.position} is not in the log, and has {one.verdict}" for one in books.verdicts
            if one.position not in books.log]  # fmt: skip


def _untiled(books: Books) -> list[str]:
    """Lay the batches of each partition end to end, from 0 to the end of the log."""
    ends: dict[tuple[int, int], int] = {}
    for incarnation, partition, offset in books.log:
        at = incarnation, partition
        ends[at] = max(ends.get(at, 0), offset + 1)
    reached = dict.fromkeys(ends, 0)
    wrong = []
    for batch in sorted(
        books.batches, key=lambda one: (one.incarnation, one.partition, one.from_offset, one.to_offset)
    ):
        at = batch.incarnation, batch.partition
        if batch.from_offset != reached.get(at, 0):
            wrong.append(f"{batch} does not begin at {reached.get(at, 0)}")
        if batch.judged + batch.skipped != batch.to_offset - batch.from_offset or batch.skipped < 0:
            wrong.append(f"{batch} does not add up")
        reached[at] = batch.to_offset
    return wrong + [f"partition {at} ends at {ends.get(at, 0)}, its batches at {end}" for at, end in reached.items()
                    if end != ends.get(at, 0)]  # fmt: skip


def _ledgers(books: Books) -> list[str]:
    accepted = Counter(one.number[0] for one in books.verdicts if one.verdict[0] == "accepted" and one.number)
    told = Counter(books.ledgers)
    differ = [device for device in sorted({*accepted, *told}) if accepted[device] != told[device]]
    return [f"{device}: {accepted[device]} accepted, its ledgers say {told[device]}" for device in differ]
