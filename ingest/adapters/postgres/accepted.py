"""How does what is accepted become rows? As columns, for the most part, in the binary form of COPY.

Each message is touched once: what its row has of it is gathered then, its link is made, and what the rows of its
samples need is noted. The values of samples that were read at once come from the columns that they were read into.
"""

import struct
from array import array
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Sequence
from itertools import pairwise
from typing import TypeAlias

import numpy as np

from ingest.adapters.postgres.columns import (
    BYTES_AT_ONCE,
    ROWS_AT_ONCE,
    SIGNATURE,
    TRAILER,
    Behind,
    Column,
    Values,
    lay,
)
from ingest.adapters.postgres.connection import POSTGRES_EPOCH_US, encoding, making
from ingest.adapters.postgres.provenance import Stamp
from ingest.adapters.postgres.rows import CALENDAR_S_MAX, Row, microseconds
from ingest.core.message import Drawn, Lot, Reading
from ingest.core.outcome import Accepted
from ingest.core.seal import Linked, fact_of, link

_NUMBERS = (
    "kafka_offset", "received_at", "device_no", "vehicle_no", "key_no", "cose_alg", "epoch", "seq", "samples",
)  # fmt: skip
_STAMP = ("topic_no", "partition", "judged_by")
_OCTETS = (("boot", "V8"), ("configuration", "V32"), ("digest", "V32"))
_TEXTS = ("time_quality", "software", "traceparent", "expires_at")  # and a time that most do not have
MESSAGE = (*_NUMBERS, *_STAMP, "issued_at", "schema", *[name for name, _ in _OCTETS], "envelope", *_TEXTS)
SAMPLE = ("device_no", "epoch", "seq", "sample_no", "issued_at", "recorded_at")

_HEAD = [_NUMBERS.index(name) for name in ("device_no", "epoch", "seq")]
_SIZE, _TIME = struct.Struct(">i"), struct.Struct(">iq")
_NULL = _SIZE.pack(-1)

_Texts: TypeAlias = tuple[str, str, str | None, float | None]


class Writing:
    """The rows of what a batch has accepted: first those of the messages, then of each kind those of its samples."""

    def __init__(self, stamp: Stamp) -> None:
        self.links: list[Linked] = []  # of the messages
        self.rows: dict[str, list[Row]] = defaultdict(list)  # of samples that were read one by one, by kind
        self._stamp = stamp
        self._heads: list[Values] = []  # device_no, epoch, seq and issued_at of the messages
        self._count = 0  # of these
        self._drawn: dict[Lot, list[int]] = defaultdict(list)  # in pairs: a place in the lot, its message's number
        self._texts: dict[_Texts, bytes] = {}

    def kinds(self) -> list[str]:
        """Name the kinds of samples that were read at once."""
        return sorted({lot.kind for lot in self._drawn})

    async def messages(self, accepted: Sequence[Accepted], types: Sequence[str]) -> AsyncIterator[bytes]:
        """Give what COPY is to read for `store.message`, whose columns MESSAGE are of these types.

        Raises UnkeepableError for a value that its column cannot have.
        """
        yield SIGNATURE
        with making():
            for at in range(0, len(accepted), ROWS_AT_ONCE):
                for part in self._messages(accepted[at : at + ROWS_AT_ONCE], types):
                    yield part
        yield TRAILER

    async def samples(self, kind: str, types: Sequence[str]) -> AsyncIterator[bytes]:
        """Give what COPY is to read for samples of a kind that were read at once: SAMPLE and the kind's own columns.

        Raises UnkeepableError for a value that its column cannot have.
        """
        yield SIGNATURE
        heads = np.concatenate(self._heads, axis=1)
        alike: dict[tuple[tuple[()] | bool | None, ...], list[Lot]] = defaultdict(list)
        for lot in self._drawn:
            if lot.kind == kind:
                alike[tuple([isinstance(column, np.ndarray) or column for column in lot.columns])].append(lot)
        for lots in alike.values():
            numbers, values = self._merged(lots)
            device_no, epoch, seq, issued_at = heads[:, numbers]
            columns = [device_no, epoch, seq, np.zeros_like(seq), issued_at, *values]
            for at in range(0, len(numbers), ROWS_AT_ONCE):
                part = [c[at : at + ROWS_AT_ONCE] if isinstance(c, np.ndarray) else c for c in columns]
                yield lay(part, types).tobytes()
        yield TRAILER

    def _messages(self, accepted: Sequence[Accepted], types: Sequence[str]) -> Iterator[bytes]:
        """Touch each message once. Lists of plain values are what can be turned into columns quickest."""
        numbers: list[int] = []
        schemas: list[int] = []
        seconds: list[float] = []
        octets: list[bytes] = []
        behind: list[bytes] = []
        links, drawn, known = self.links, self._drawn, self._texts
        for number, one in enumerate(accepted, self._count):
            reading = one.reading
            verified, samples = reading.verified, reading.samples
            envelope, sender = verified.envelope, verified.sender
            record = envelope.record
            if isinstance(samples, Drawn):
                count = 1
                drawn[samples.lot] += (samples.place, number)
            else:
                count = len(samples)
                self._note(reading)
            numbers += (
                record.offset, record.received_at_ms * 1000, sender.device_no, sender.vehicle_no, verified.key.key_no,
                envelope.alg, envelope.epoch, envelope.seq, count,
            )  # fmt: skip
            schemas.append(reading.schema)
            seconds.append(envelope.issued_at_s)
            octets += (envelope.boot, envelope.configuration, verified.digest)
            texts = one.quality, envelope.software, record.traceparent, envelope.expires_at_s
            behind += (record.value, known.get(texts) or known.setdefault(texts, _encode(*texts)))
            links.append((record.offset, link(fact_of(one))))
        self._count += len(accepted)
        with encoding():
            columns = list[Values](np.frombuffer(array("q", numbers), np.int64).reshape(len(accepted), -1).T)
        # As `rows.microseconds` and `rows.signed` would have it.
        issued_at = np.rint(np.array(seconds).clip(0.0, CALENDAR_S_MAX) * 1_000_000).astype(np.int64)
        self._heads.append(np.stack((*[columns[at] for at in _HEAD], issued_at)))
        return self._laid([*columns, issued_at, np.array(schemas, np.uint64).view(np.int64)], octets, behind, types)

    def _laid(
        self, columns: Sequence[Values], octets: Sequence[bytes], behind: Sequence[bytes], types: Sequence[str]
    ) -> Iterator[bytes]:
        """Give rows of messages, in parts that are not too large."""
        *numbers, issued_at, schemas = columns
        count, stamp = len(schemas), self._stamp
        fixed = np.frombuffer(b"".join(octets), list(_OCTETS))
        assert len(fixed) == count, "an envelope's boot and configuration, and a digest, have their sizes"
        sizes = np.fromiter(map(len, behind[::2]), np.int64, count)
        laid = lay(
            [
                *numbers, *[np.full(count, no) for no in (stamp.topic_no, stamp.partition, stamp.judged_by)],
                issued_at, schemas, *[fixed[name] for name, _ in _OCTETS], Behind(sizes),
            ],
            types[: -len(_TEXTS)],
            len(_TEXTS),
        )  # fmt: skip
        rows, size = laid.tobytes(), laid.itemsize
        pieces = [b""] * (3 * count)
        pieces[::3] = [rows[at : at + size] for at in range(0, len(rows), size)]
        pieces[1::3], pieces[2::3] = behind[::2], behind[1::2]
        parts = np.cumsum(sizes + size) // BYTES_AT_ONCE
        ends = [*(np.flatnonzero(np.diff(parts)) + 1).tolist(), count]
        return (b"".join(pieces[3 * start : 3 * end]) for start, end in pairwise([0, *ends]))

    def _note(self, reading: Reading) -> None:
        """Note the samples of a message that were read one by one."""
        envelope = reading.verified.envelope
        head = reading.verified.sender.device_no, envelope.epoch, envelope.seq
        issued_at = microseconds(envelope.issued_at_s)
        for sample_no, sample in enumerate(reading.samples):
            self.rows[sample.kind].append((*head, sample_no, issued_at, *sample.values))

    def _merged(self, lots: Sequence[Lot]) -> tuple[Values, list[Column]]:
        """Bring lots together that have values in the same columns; gives the numbers of the messages, and the columns.

        The order is that of the messages, and so by device: in the index these are neighbours.
        """
        drawn = [np.array(self._drawn[lot], np.intp).reshape(-1, 2).T for lot in lots]
        numbers = np.concatenate([number for _, number in drawn])
        order = np.argsort(numbers)
        return numbers[order], [
            np.concatenate([column[places] for column, (places, _) in zip(parts, drawn, strict=True)])[order]
            if isinstance(parts[0], np.ndarray)
            else parts[0]
            for parts in zip(*[lot.columns for lot in lots], strict=True)
        ]


def _encode(quality: str, software: str, traceparent: str | None, expires_at_s: float | None) -> bytes:
    """Give the columns TEXTS as they stand in a row."""
    texts = [_NULL if text is None else _text(text) for text in (quality, software, traceparent)]
    ends = _NULL if expires_at_s is None else _TIME.pack(8, microseconds(expires_at_s) - POSTGRES_EPOCH_US)
    return b"".join((*texts, ends))


def _text(text: str) -> bytes:
    with encoding():
        octets = text.encode()
    return _SIZE.pack(len(octets)) + octets
