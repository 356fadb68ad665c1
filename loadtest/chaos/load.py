"""Who sends while it storms, and what is known of each send? Waves of fleets, each with devices of its own.

Where an acknowledgement fails, the rest of a wave is given up: no device's story goes on after what may not have
landed. What was sent without an acknowledgement is remembered by its bytes, and looked up in the log at the end.
"""

import asyncio
import hashlib
import time
from collections import deque
from collections.abc import Iterable, Iterator

from aiokafka.errors import KafkaError

from device_sim.fault import Fault as Misbehaviour
from device_sim.fleet import MIXES, Mix, Plan, sends
from device_sim.identity import Fleet
from device_sim.sender import Pace, Target, drive
from device_sim.truth import Deserved
from device_sim.vehicle import Send
from loadtest.chaos.oracle import Due, Position, Sent

WAVE_S = 15.0  # a new one finds partitions that were added
VEHICLES = 150
PAUSE_S = 0.5
DIGEST_BYTES = 16
MIX = Mix({**MIXES["everything"].shares, Misbehaviour.CROSS_PARTITION_REPLAY: 0.1})  # where row locks are all there is


def digest(value: bytes | None) -> bytes:
    """Remember a record by a few bytes."""
    return hashlib.sha256(value or b"").digest()[:DIGEST_BYTES]


class Load:
    """What has been sent so far."""

    def __init__(self, fleets: list[Fleet], rate: float) -> None:
        self.fleets = fleets
        self._waves = enumerate(fleets)
        self.incarnations: dict[int, int] = {}  # of the log, by partition, where it is not the first
        self.over = asyncio.Event()  # set it, and no more is sent
        self._rate = rate
        self._wave = 0
        self._pending: deque[Send] = deque()
        self._landed: dict[Position, Due] = {}
        self._open: list[tuple[bytes, Due]] = []
        self.broken = 0  # waves that ended early

    @property
    def sent(self) -> int:
        """How many sends there were."""
        return len(self._landed) + len(self._open) + len(self._pending)

    def known(self) -> Sent:
        """Say what is known of the sends, once all waves are over."""
        return Sent(self._landed, self._open)

    async def send(self, target: Target) -> None:
        """Send wave after wave until it is over; once more, and it goes on with fleets that have sent nothing."""
        for wave, fleet in self._waves:
            before = self.sent
            while self.sent == before:  # else the broker was away
                if self.over.is_set():
                    return
                await self._send_wave(wave, fleet, target)

    async def _send_wave(self, wave: int, fleet: Fleet, target: Target) -> None:
        self._wave = wave
        plan = Plan(fleet, MIX, time.time(), self._rate)
        try:
            await drive(self._noted(sends(plan)), Pace(self._rate, seconds=WAVE_S), target, self._take)
        except (KafkaError, ValueError):  # the broker is away, or was for too long
            self.broken += 1
            await asyncio.sleep(PAUSE_S)
        self._open += [(digest(send.value), self._due(send.verdict, send.reason, send.group)) for send in self._pending]
        self._pending.clear()

    def _noted(self, sends: Iterable[Send]) -> Iterator[Send]:
        """Note each send before it is sent: the truth comes in the same order."""
        for send in sends:
            if self.over.is_set():
                return
            self._pending.append(send)
            yield send

    def _take(self, row: Deserved) -> None:
        self._pending.popleft()
        incarnation = self.incarnations.get(row.partition, 1)
        self._landed[incarnation, row.partition, row.offset] = self._due(row.verdict, row.reason, row.group)

    def _due(self, verdict: str, reason: str, group: int | None) -> Due:
        return Due(str(verdict), reason, None if group is None else (self._wave, group))
