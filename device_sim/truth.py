"""What verdict did each send deserve, and does the store say the same? One send is one Kafka position is one line."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final, TextIO

import msgspec

from device_sim.vehicle import Lived
from ingest.core.verdict import Verdict

EXAMPLES_MAX = 20
_CHUNK_BITS = 12  # positions are kept in chunks of 4,096: two bytes a position, wherever a run's offsets begin
_SEEN = 0x8000


class Deserved(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """One line of the truth file: a position, and the verdict that what stands there deserves."""

    topic: str
    partition: int
    offset: int
    verdict: Verdict
    reason: str  # "" if the verdict has none
    group: int | None  # positions of one group may exchange their verdicts
    fault: str
    device_id: str
    lived: Lived | None = None  # what is still open about it (hindsight.py)
    otherwise: tuple[Verdict, str] | None = None  # deserved as well: a person decided while it was on its way
    tenant: str = ""  # whose it is, if it is stored; "" if that was not said


class Found(msgspec.Struct, frozen=True, gc=False):
    """One row of the store's view of verdicts."""

    topic: str
    partition: int
    offset: int
    verdict: str
    reason: str  # "" if the verdict has none


class Owned(msgspec.Struct, frozen=True, gc=False):
    """One stored message, and whose the store says that it is."""

    topic: str
    partition: int
    offset: int
    tenant: str


class Span(msgspec.Struct, frozen=True, gc=False):
    """The offsets of one partition that a run wrote to, from first to last."""

    topic: str
    partition: int
    first: int
    last: int


class Difference(msgspec.Struct, frozen=True):
    """One position whose verdict is not the deserved one."""

    topic: str
    partition: int
    offset: int
    fault: str
    deserved: str
    found: str


class Differences(msgspec.Struct, frozen=True):
    """What a comparison found. `agrees` is the line that matters."""

    sent: int
    unaccounted: int  # sent, without a verdict
    wrong: int  # verdict or reason differs
    unexpected: int  # a second verdict for one position, or a verdict for a position that was never sent
    deserved: dict[tuple[str, str], int]  # by verdict and reason
    found: dict[tuple[str, str], int]
    examples: list[Difference]
    either: int = 0  # sends that deserve one of two verdicts
    owned: int = 0  # stored messages whose owner was compared
    misowned: int = 0

    @property
    def agrees(self) -> bool:
        """Whether every send has exactly its deserved verdict, and is its owner's."""
        return self.unaccounted == self.wrong == self.unexpected == self.misowned == 0


class Writer:
    """Writes the truth line by line."""

    def __init__(self, file: TextIO) -> None:
        self._file: Final = file
        self._encode: Final = msgspec.json.Encoder().encode

    def write(self, row: Deserved) -> None:
        """Write one line."""
        self._file.write(self._encode(row).decode())
        self._file.write("\n")


def read(path: Path) -> Iterator[Deserved]:
    """Read a truth file line by line; a line that is not truth is named."""
    decode = msgspec.json.Decoder(Deserved).decode
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                yield decode(line)
            except msgspec.DecodeError as error:
                raise ValueError(f"{path}, line {number}: not a line of truth: {error}") from error


class _Kind(msgspec.Struct, frozen=True):
    """What many positions have in common; each position is remembered by the index of its kind."""

    verdict: str
    reason: str
    fault: str
    grouped: bool
    otherwise: tuple[str, str] | None
    tenant: str


class Comparison:
    """Takes the truth first, then the store's rows, both in any order; two bytes a position is all that it keeps."""

    def __init__(self) -> None:
        self._kinds: list[_Kind] = []
        self._indices: dict[_Kind, int] = {}
        self._chunks: dict[tuple[str, int, int], memoryview] = {}
        self._spans: dict[tuple[str, int], tuple[int, int]] = {}
        self._groups: dict[tuple[str, int, int], int] = {}
        self._owed: dict[int, Counter[tuple[str, str]]] = {}
        self._deserved: Counter[tuple[str, str]] = Counter()
        self._found: Counter[tuple[str, str]] = Counter()
        self._sent = self._answered = self._wrong = self._unexpected = 0
        self._either = self._owned = self._misowned = 0
        self._examples: list[Difference] = []

    def expect(self, row: Deserved) -> None:
        """Take one line of truth."""
        where, cell = _locate(row.topic, row.partition, row.offset)
        chunk = self._chunks.get(where)
        if chunk is None:
            chunk = self._chunks[where] = memoryview(bytearray(2 << _CHUNK_BITS)).cast("H")
        if chunk[cell]:
            raise ValueError(
                f"the truth names {row.topic}/{row.partition}/{row.offset} twice: was it written by one run?"
            )
        chunk[cell] = self._index(row)
        self._sent += 1
        if row.otherwise is None:
            self._deserved[row.verdict, row.reason] += 1
        else:
            self._either += 1
        first, last = self._spans.get((row.topic, row.partition), (row.offset, row.offset))
        self._spans[row.topic, row.partition] = min(first, row.offset), max(last, row.offset)
        if row.group is not None:
            self._groups[row.topic, row.partition, row.offset] = row.group
            self._owed.setdefault(row.group, Counter())[row.verdict, row.reason] += 1

    def _index(self, row: Deserved) -> int:
        kind = _Kind(row.verdict, row.reason, row.fault, row.group is not None, row.otherwise, row.tenant)
        index = self._indices.get(kind)
        if index is None:
            self._kinds.append(kind)
            index = self._indices[kind] = len(self._kinds)
            assert index < _SEEN, "verdicts, reasons, faults and tenants are few"
        return index

    def spans(self) -> list[Span]:
        """Tell which rows of the store are needed."""
        return [Span(*where, *span) for where, span in sorted(self._spans.items())]

    def find(self, row: Found) -> None:
        """Take one row of the store; rows outside the spans say nothing of this run."""
        first, last = self._spans.get((row.topic, row.partition), (0, -1))
        if not first <= row.offset <= last:
            return
        where, cell = _locate(row.topic, row.partition, row.offset)
        chunk = self._chunks.get(where)
        mark = chunk[cell] if chunk is not None else 0
        if chunk is None or mark == 0 or mark & _SEEN:
            self._unexpected += 1
            self._note(row, "" if mark == 0 else "seen before", "one verdict" if mark else "nothing was sent here")
            return
        chunk[cell] = mark | _SEEN
        self._answered += 1
        self._found[row.verdict, row.reason] += 1
        self._weigh(row, self._kinds[mark - 1])

    def _weigh(self, row: Found, kind: _Kind) -> None:
        verdict = row.verdict, row.reason
        if kind.grouped:
            owed = self._owed[self._groups[row.topic, row.partition, row.offset]]
            fits = owed[verdict] > 0
            owed[verdict] -= fits
        else:
            fits = verdict in ((kind.verdict, kind.reason), kind.otherwise)
        if kind.otherwise is not None:
            self._deserved[verdict if fits else (kind.verdict, kind.reason)] += 1
        if not fits:
            self._wrong += 1
            self._note(row, kind.fault, _phrase(kind.verdict, kind.reason))

    @property
    def names_owners(self) -> bool:
        """Whether the truth says whose messages are."""
        return any(kind.tenant for kind in self._kinds)

    def own(self, row: Owned) -> None:
        """Take the owner of one stored message."""
        where, cell = _locate(row.topic, row.partition, row.offset)
        mark = self._chunks[where][cell] & ~_SEEN if where in self._chunks else 0
        kind = self._kinds[mark - 1] if mark else None
        if kind is None or not kind.tenant:
            return
        self._owned += 1
        if kind.tenant != row.tenant:
            self._misowned += 1
            self._keep(Difference(row.topic, row.partition, row.offset, kind.fault, kind.tenant, row.tenant))

    def _note(self, row: Found, fault: str, deserved: str) -> None:
        found = _phrase(row.verdict, row.reason)
        self._keep(Difference(row.topic, row.partition, row.offset, fault, deserved, found))

    def _keep(self, difference: Difference) -> None:
        if len(self._examples) < EXAMPLES_MAX:
            self._examples.append(difference)

    def _missing(self) -> Iterator[Difference]:
        for (topic, partition, chunk_no), chunk in self._chunks.items():
            for cell, mark in enumerate(chunk):
                if mark and not mark & _SEEN:
                    kind = self._kinds[mark - 1]
                    offset = (chunk_no << _CHUNK_BITS) + cell
                    deserved = _phrase(kind.verdict, kind.reason)
                    yield Difference(topic, partition, offset, kind.fault, deserved, "no verdict")

    def differences(self) -> Differences:
        """Say what differs so far; complete once the store has been read."""
        sent = self._sent
        room = max(0, EXAMPLES_MAX - len(self._examples)) if sent > self._answered else 0
        missing = [difference for _, difference in zip(range(room), self._missing(), strict=False)]
        return Differences(
            sent=sent,
            unaccounted=sent - self._answered,
            wrong=self._wrong,
            unexpected=self._unexpected,
            deserved=dict(self._deserved),
            found=dict(self._found),
            examples=[*self._examples, *missing],
            either=self._either,
            owned=self._owned,
            misowned=self._misowned,
        )


def compare(truth: Iterable[Deserved], read_store: Callable[[Span], Iterable[Found]]) -> Differences:
    """Compare a run's truth with what the store says of the same positions."""
    comparison = Comparison()
    for row in truth:
        comparison.expect(row)
    for span in comparison.spans():
        for found in read_store(span):
            comparison.find(found)
    return comparison.differences()


def _locate(topic: str, partition: int, offset: int) -> tuple[tuple[str, int, int], int]:
    return (topic, partition, offset >> _CHUNK_BITS), offset & ((1 << _CHUNK_BITS) - 1)


def _phrase(verdict: str, reason: str) -> str:
    return f"{verdict} ({reason})" if reason else str(verdict)
