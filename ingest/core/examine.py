"""What can be said of a message on its own? Bytes in, checked value or refusal out: no memory, no clock, no I/O.

Cost order, and so the order of reasons: size, shape, device and key, signature, expiry, payload.
"""

from collections.abc import Sequence

import msgspec

from ingest.core import layout, signature
from ingest.core.alike import Bulk
from ingest.core.device import KeyRing
from ingest.core.freshness import expired
from ingest.core.message import Envelope, Examined, RawRecord, Reading, Refused, Verified
from ingest.core.payload import Catalogue, read_payload
from ingest.core.policy import Policy
from ingest.core.verdict import Refusal


class Examiner(msgspec.Struct, frozen=True):
    """What an examination needs beside the message and the keys: the limits, the schemas and the means to verify."""

    policy: Policy
    catalogue: Catalogue
    engine: signature.Engine
    bulk: Bulk | None = None  # made of the catalogue

    def __post_init__(self) -> None:
        """Remember patterns from one call to the next."""
        if self.bulk is None:
            msgspec.structs.force_setattr(self, "bulk", Bulk(self.catalogue))

    def read(self, records: Sequence[RawRecord]) -> list[Envelope | Refused]:
        """Size and shape: what each record claims to be."""
        return layout.read(records, self.policy.envelope_bytes_max)

    def examine(self, messages: Sequence[Envelope | Refused], ring: KeyRing) -> list[Examined]:
        """Signatures, expiry and payloads, in the order of the messages; a refusal stays what it is."""
        # Asked in this way, for `isinstance` is quick where the answer is yes.
        proven = iter(signature.verify([m for m in messages if isinstance(m, Envelope)], ring, self.engine))
        timely = [_timely(next(proven)) if isinstance(m, Envelope) else m for m in messages]
        read = iter(self._read([m for m in timely if isinstance(m, Verified)]))
        return [next(read) if isinstance(m, Verified) else m for m in timely]

    def _read(self, messages: Sequence[Verified]) -> list[Examined]:
        """Read payloads, those that are alike at once."""
        catalogue, samples_max = self.catalogue, self.policy.samples_max
        assert self.bulk is not None, "it is made with the examiner"
        drawn = self.bulk.read([message.envelope.payload for message in messages])
        return [
            Reading(message, one.lot.schema, one) if one is not None else read_payload(message, catalogue, samples_max)
            for message, one in zip(messages, drawn, strict=True)
        ]


def _timely(message: Verified | Refused) -> Verified | Refused:
    if isinstance(message, Verified) and expired(message.envelope):
        return Refused(message, Refusal.EXPIRED, "received after the exp that the device set")
    return message
