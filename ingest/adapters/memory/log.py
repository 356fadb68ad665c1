"""What would the real log do? A twin whose partitions are lists."""

import asyncio
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Mapping, Sequence

from ingest.adapters.memory.wire import QUIET, Call, Wire
from ingest.core.message import RawRecord
from ingest.core.outcome import hash_of
from ingest.ports import BrokenLogError, Mark

WAIT_S = 0.005  # how long a read waits at the end of the log


class MemoryLog:
    """A topic whose partitions are lists of records, read by a consumer that has a position in each."""

    def __init__(
        self,
        partitions: Mapping[int, Sequence[RawRecord]],
        batch_records_max: int,
        wire: Wire = QUIET,
        wait_s: float = WAIT_S,
    ) -> None:
        self._partitions = partitions
        self._batch_records_max = batch_records_max
        self._wire = wire
        self._wait_s = wait_s
        self._positions: dict[int, int] = defaultdict(int)
        self._doubts: dict[int, tuple[int, int]] = {}  # a hole at the start, seen once: from, to

    async def confirm(self, partition: int, mark: Mark) -> str:
        """See ingest.ports.Log. A list is known by its records alone."""
        call = Call("confirm", partition)
        await self._wire.request(call)
        records, at = self._partitions[partition], self._find(partition, mark.next_offset - 1)
        known = at < len(records) and records[at].offset == mark.next_offset - 1
        if mark.next_offset > (records[-1].offset + 1 if records else 0):
            raise BrokenLogError(f"partition {partition} ends before {mark.next_offset}, where the next batch begins")
        if known and hash_of(records[at]) != mark.record_hash:
            raise BrokenLogError(f"partition {partition}: the record before {mark.next_offset} is not the one judged")
        await self._wire.reply(call)
        return "list"

    def seek(self, partition: int, offset: int) -> None:
        """See ingest.ports.Log. The simulation leads a consumer astray with it."""
        self._positions[partition] = offset

    async def read(self, partition: int, offset: int) -> Sequence[RawRecord]:
        """See ingest.ports.Log. Like the adapter for Kafka: believes a hole at the start when two readings agree."""
        records = await self._gather(partition, offset)
        first = records[0].offset if records else self._positions[partition]
        if first > offset and self._doubts.get(partition) != (offset, first):
            self._doubts[partition] = offset, first
            self.seek(partition, offset)
            return []
        if records:
            self._doubts.pop(partition, None)
        return records

    def done(self, partition: int, next_offset: int) -> None:
        """See ingest.ports.Log. Nobody watches the group."""

    def waiting(self, partition: int, next_offset: int) -> int:
        """See ingest.ports.Log."""
        return len(self._partitions[partition]) - self._find(partition, next_offset)

    async def _gather(self, partition: int, offset: int) -> list[RawRecord]:
        call = Call("fetch", partition)
        await self._wire.request(call)
        at = self._find(partition, self._positions[partition])
        records = self._partitions[partition][at : at + self._batch_records_max]
        if records:
            self._positions[partition] = records[-1].offset + 1
        else:
            await asyncio.sleep(self._wait_s)
        await self._wire.reply(call)
        return [record for record in records if record.offset >= offset]

    def _find(self, partition: int, offset: int) -> int:
        return bisect_left(self._partitions[partition], offset, key=lambda record: record.offset)
