"""Was the promise kept? The laws, checked on what the store holds after a run, by code that shares nothing with it.

What is asked is naive on purpose: sets of numbers and lists of positions, and what the senders know they deserve.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

import msgspec

from device_sim.vehicle import Send
from loadtest.simulation.corpus import Number, Partitions, Position, Traffic, claimed, signature_of

DEATHS_MAX = 3  # by one pill, for each place where it lies
REFUSED_BYTES_MAX = 200  # of one message; a signed one of one sample has about 300
BURST_BYTES_MAX = 700  # in a partition; the broker's clock stands still, so no more is allowed later
HELD_BYTES_MAX = 700  # of one device
BURST_MAX = 1_000  # messages of a device, a tenant, all: more than there are, so every one that is charged shows

Verdict = tuple[str, str]  # and its reason, "" where there is none
Interval = tuple[int, int]  # half-open
Key = TypeVar("Key")


class Tally(msgspec.Struct, frozen=True):
    """What the store keeps of the numbers of one device and epoch."""

    ranges: tuple[int, ...]
    lowest: int
    highest: int
    accepted: int


class Row(msgspec.Struct, frozen=True):
    """What the store keeps of one device."""

    tallies: Mapping[int, Tally]  # by epoch
    held: int
    held_bytes: int
    spent_milli: int  # what is missing in its bucket
    boots: tuple[bytes, ...]
    rest: object  # what no message changes


class Batch(msgspec.Struct, frozen=True):
    """What the store keeps of one batch."""

    partition: int
    span: Interval
    skipped: tuple[Interval, ...]


class Books(msgspec.Struct, frozen=True):
    """All that the store keeps, as plain data."""

    verdicts: Mapping[Position, Sequence[Verdict]]
    batches: Sequence[Batch]
    next_offsets: Mapping[int, int]
    rows: Mapping[int, Row]
    numbers: Mapping[Number, int]  # how many messages, stored or held, stand under a number
    shown: Mapping[Position, int]  # how many bytes are kept of a refused message or a duplicate
    spent_milli: Mapping[int, Mapping[int, int]]  # by partition and tenant: what is missing in its share
    deaths: Mapping[bytes, int]  # of processes, by the signature of the pill


class Oracle:
    """Knows one scenario: what was sent, what it deserves, and the books of a calm run."""

    def __init__(self, sent: Traffic, calm: Books) -> None:
        self._sent = sent
        self._claimed = claimed(sent)
        self._ends = {partition: records[-1].offset + 1 for partition, records in sent.partitions.items()}
        self._calm = calm
        self._scattered = {
            self._claimed[at][0] for at, send in sent.deserved.items() if send.group is not None and at in self._claimed
        }

    def objections(self, books: Books) -> list[str]:
        """Say all that is wrong with the books; nothing when the promise was kept."""
        return [
            *_conservation(self._sent.deserved.keys(), books.verdicts),
            *_tiling(books.batches, self._ends),
            *_holes(books.batches, self._sent.partitions),
            *_offsets(books.next_offsets, self._ends),
            *self._doubles(books),
            *[f"{at} deserves {send.verdict} {send.reason}, got {got}" for at, send, got in self._wrong(books)],
            *self._state(books),
            *self._evidence(books),
            *self._held_bytes(books),
            *self._rates(books),
            *self._deaths(books),
            *self._against_calm(books),
        ]

    def _wrong(self, books: Books) -> list[tuple[Position, Send, Verdict | None]]:
        return undeserved(self._sent.deserved, {at: given[0] for at, given in books.verdicts.items() if given})

    def _numbers(self, books: Books, *kinds: str) -> list[Number]:
        given = ((at, verdict) for at, verdicts in books.verdicts.items() for verdict, _ in verdicts)
        return [self._claimed[at] for at, verdict in given if verdict in kinds and at in self._claimed]

    def _doubles(self, books: Books) -> list[str]:
        times = Counter(self._numbers(books, "accepted"))
        doubles = [f"{number} was accepted {count} times" for number, count in times.items() if count > 1]
        kept = Counter(self._numbers(books, "accepted", "held"))
        return doubles + _differences("messages kept under", kept, books.numbers)

    def _state(self, books: Books) -> list[str]:
        """Make every device's state anew from the events."""
        seen: dict[int, dict[int, set[int]]] = defaultdict(lambda: defaultdict(set))
        for device, epoch, seq in self._numbers(books, "accepted"):
            seen[device][epoch].add(seq)
        held = Counter(device for device, _, _ in self._numbers(books, "held"))
        objections = []
        for device, row in books.rows.items():
            tallies = {epoch: _tally(numbers) for epoch, numbers in seen[device].items()}
            objections += _differences(f"device {device}: numbers of epoch", tallies, row.tallies)
            if row.held != held[device]:
                objections.append(f"device {device}: {held[device]} messages are held, its row says {row.held}")
        return objections

    def _evidence(self, books: Books) -> list[str]:
        """Keep the bytes anew: of poison all, of what else ended in log order until the burst is spent."""
        left, shown = dict.fromkeys(self._ends, BURST_BYTES_MAX), {}
        for (partition, offset), given in sorted(books.verdicts.items()):
            size = len(self._sent.deserved[partition, offset].value or b"")
            kept = min(size, REFUSED_BYTES_MAX)
            if given[0] == ("refused", "poison"):
                shown[partition, offset] = size
            elif given[0][0] in ("refused", "duplicate") and 0 < kept <= left[partition]:
                shown[partition, offset] = kept
                left[partition] -= kept
        return _differences("bytes kept at", shown, books.shown)

    def _held_bytes(self, books: Books) -> list[str]:
        """Fill each device's share anew. What is held of one device lies in one partition."""
        filled: Counter[int] = Counter()
        held = (at for at, given in sorted(books.verdicts.items()) if given[0][0] == "held" and at in self._claimed)
        for at in held:
            device, size = self._claimed[at][0], len(self._sent.deserved[at].value or b"")
            filled[device] += size if filled[device] + size <= HELD_BYTES_MAX else 0
        found = {device: row.held_bytes for device, row in books.rows.items()}
        return _differences("bytes held of device", {device: filled[device] for device in found}, found)

    def _rates(self, books: Books) -> list[str]:
        """Charge anew what was accepted, and nothing else: all are of one tenant, and 0 stands for all."""
        accepted = [at for at, given in books.verdicts.items() if given[0][0] == "accepted"]
        devices = Counter(self._claimed[at][0] for at in accepted)
        charged = {partition: count * 1000 for partition, count in Counter(at[0] for at in accepted).items()}
        due = {partition: {1: charged[partition], 0: charged[partition]} for partition in charged}
        found = {device: row.spent_milli for device, row in books.rows.items()}
        return [
            *_differences("charged to device", {device: devices[device] * 1000 for device in found}, found),
            *_differences("charged to partition", due, books.spent_milli),
        ]

    def _deaths(self, books: Books) -> list[str]:
        places = Counter(
            signature_of(send.value or b"") for send in self._sent.deserved.values() if send.reason == "poison"
        )
        return [
            f"one pill ended {count} processes; it lies in {places[signature]} places"
            for signature, count in books.deaths.items()
            if count > DEATHS_MAX * places[signature]
        ]

    def _against_calm(self, books: Books) -> list[str]:
        return _differences("row of device", self._comparable(self._calm), self._comparable(books))

    def _comparable(self, books: Books) -> dict[int, Row]:
        """Leave out the boots of a device whose messages lie in several partitions: which came last is open."""
        rows = books.rows.items()
        return {no: msgspec.structs.replace(row, boots=()) if no in self._scattered else row for no, row in rows}


def undeserved(
    deserved: Mapping[Position, Send], given: Mapping[Position, Verdict]
) -> list[tuple[Position, Send, Verdict | None]]:
    """List the positions whose verdict differs from what their send deserves; a group may exchange its verdicts."""
    owed: dict[int, Counter[Verdict]] = defaultdict(Counter)
    for send in deserved.values():
        if send.group is not None:
            owed[send.group][str(send.verdict), send.reason] += 1
    wrong = []
    for position, send in deserved.items():
        found = given.get(position)
        due = owed[send.group] if send.group is not None else Counter([(str(send.verdict), send.reason)])
        if found is None or due.get(found, 0) < 1:
            wrong.append((position, send, found))
        else:
            due[found] -= 1
    return wrong


def _conservation(sent: Iterable[Position], verdicts: Mapping[Position, Sequence[Verdict]]) -> list[str]:
    given = {at: len(found) for at, found in verdicts.items()}
    return _differences("verdicts at", dict.fromkeys(sent, 1), given)


def _tiling(batches: Iterable[Batch], ends: Mapping[int, int]) -> list[str]:
    """Lay the batches of each partition end to end, in the order in which they were written."""
    objections, reached = [], dict.fromkeys(ends, 0)
    for batch in batches:
        (start, end), last = batch.span, reached[batch.partition]
        if start != last:
            objections.append(f"partition {batch.partition}: a batch from {start}, after one up to {last}")
        reached[batch.partition] = end
    return objections + _differences("last batch of partition", ends, reached)


def _holes(batches: Iterable[Batch], partitions: Partitions) -> list[str]:
    there = {(partition, record.offset) for partition, records in partitions.items() for record in records}
    holes = {
        (partition, offset): 1
        for partition, records in partitions.items()
        for offset in range(records[-1].offset)
        if (partition, offset) not in there
    }
    skipped = Counter(
        (batch.partition, at) for batch in batches for start, end in batch.skipped for at in range(start, end)
    )
    return _differences("hole at", holes, skipped)


def _offsets(found: Mapping[int, int], ends: Mapping[int, int]) -> list[str]:
    return _differences("offset of partition", ends, found)


def _tally(numbers: set[int]) -> Tally:
    edges = sorted([n for n in numbers if n - 1 not in numbers] + [n + 1 for n in numbers if n + 1 not in numbers])
    return Tally(tuple(edges), min(numbers), max(numbers), len(numbers))


def _differences(what: str, due: Mapping[Key, object], found: Mapping[Key, object]) -> list[str]:
    return [
        f"{what} {key}: {due.get(key)} due, {found.get(key)} found"
        for key in [*due, *(key for key in found if key not in due)]
        if due.get(key) != found.get(key)
    ]
