"""What did each message deserve? Said once it is known when people's decisions took effect.

A message that stands in the log before the position up to which all was judged when a deed began was judged before it.
One that its vehicle sent after the deed was done is judged after it, and knows. What lies between may have met either
registry, and deserves one of two verdicts. An owner is never in doubt: it follows from instants, not from the order.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec
from msgspec.structs import replace

from device_sim.identity import Identity
from device_sim.lifecycle import Ask, Deed
from device_sim.truth import Deserved
from device_sim.vehicle import Lived


class Done(msgspec.Struct, frozen=True):
    """A deed that was done."""

    ask: Ask
    judged: Mapping[int, int]  # by partition: when it began, all before this offset was judged
    at_ms: int = 0  # since 1970 UTC: as from when a vehicle is another tenant's
    last_seq: int | None = None  # that the keys before may sign
    took_ms: float = 0.0

    def preceded(self, row: Deserved) -> bool:
        """Say whether a message was judged before this was done."""
        return row.offset < self.judged.get(row.partition, 0)


def look_back(rows: Iterable[Deserved], done: Sequence[Done], identity: Identity) -> Iterator[Deserved]:
    """Settle what was open about each message: its verdict and its owner."""
    deeds = {(one.ask.number, one.ask.ordinal): one for one in done}
    owners = {identity.device_id(number): identity.tenant(number) for number in range(identity.fleet.vehicles)}
    transfers = _transfers(done)
    for row in rows:
        if row.lived is None:
            yield replace(row, tenant=owners.get(row.device_id, ""))
            continue
        deed = deeds.get((row.lived.number, row.lived.deed))
        certain = deed is None or deed.preceded(row)
        tenant = _owner_at(row.lived, transfers, identity.tenant(row.lived.number))
        yield replace(row, lived=None, otherwise=None if certain else row.lived.otherwise, tenant=tenant)


def _transfers(done: Sequence[Done]) -> dict[int, list[Done]]:
    """Give the transfers of each vehicle, the last one first."""
    transfers: dict[int, list[Done]] = {}
    for one in sorted(done, key=lambda one: -one.ask.ordinal):
        if one.ask.deed is Deed.TRANSFER:
            transfers.setdefault(one.ask.number, []).append(one)
    return transfers


def _owner_at(lived: Lived, transfers: Mapping[int, Sequence[Done]], first: str) -> str:
    """Say whose a vehicle was when a message was issued, or received if that was earlier."""
    at_ms = min(lived.issued_at_s * 1000, lived.received_at_ms)
    since = (one.ask.tenant for one in transfers.get(lived.number, ()) if at_ms >= one.at_ms)
    return next(since, first)
