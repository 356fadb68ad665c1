"""What does the judge say of these messages? A device's words in short, and a store that is a dict."""

from collections import defaultdict
from collections.abc import Iterable, Mapping

import msgspec

from ingest.core.device import Algorithm, Device, Key, KeyState, Sender, Standing
from ingest.core.judge import Content, Number, Past, Prior, judge, number, owns_its_number, suspects
from ingest.core.message import Envelope, Examined, RawRecord, Reading, Refused, Sample, Unreadable, Verified
from ingest.core.outcome import Accepted, Duplicate, Held, Outcome, Span, span_of, verdict_of
from ingest.core.policy import Policy
from ingest.core.rate import Bucket
from ingest.core.sequence import Ledger
from ingest.core.standing import Cohort, Trips
from ingest.core.verdict import Refusal

NOW_MS = 1_790_000_000_000
DAY_S = 86_400.0
EPOCH = 7

PATIENT = Policy(quarantined_from=10**9)  # where standing is not what a test is about


class Say(msgspec.Struct, frozen=True):
    """What a device says under a number. Two of the same content are the same message."""

    seq: int
    content: str = "a"
    epoch: int = EPOCH
    boot: str = "boot-001"
    late_s: float = 0.0  # by how much the device's clock is behind the broker's; negative when ahead
    key: KeyState = KeyState.ACTIVE
    cutoff: int | None = None  # of its key, in EPOCH
    readable: bool = True
    authentic: bool = True
    device_no: int = 1
    tenant_no: int = 1
    key_version: int = 1
    value: bytes = b""  # the envelope's bytes
    refused: Refusal | None = None  # what it is verified, and refused for
    at_ms: int = NOW_MS  # the broker's clock
    software: str = "1.0"


def examined(say: Say, offset: int) -> Examined:
    """Give what an examination would."""
    record = RawRecord("t", 0, offset, say.at_ms, say.value)
    claims = (say.epoch, say.seq, say.boot.encode(), say.software, bytes(32))
    envelope = Envelope(
        record, -8, b"k", f"d-{say.device_no}", say.at_ms / 1000 - say.late_s, None, *claims, b"", b"", b""
    )
    if not say.authentic:
        return Refused(envelope, Refusal.BAD_SIGNATURE, "it does not hold")
    cutoff = None if say.cutoff is None else (EPOCH, say.cutoff)
    key = Key(say.device_no, b"k", Algorithm.ED25519, bytes(32), say.key, 0, None, cutoff)
    sender = Sender(say.device_no, say.device_no, say.tenant_no, say.key_version, {b"k": key})
    verified = Verified(envelope, sender, key, say.content.encode().ljust(32))
    if say.refused is not None:
        return Refused(verified, say.refused, "it makes no sense")
    return Reading(verified, 1, (Sample("State", ()),)) if say.readable else Unreadable(verified, 2)


class Court:
    """A judge, the rows of its devices, and the messages stored and held."""

    def __init__(self, *devices: Device, policy: Policy | None = None) -> None:
        self.devices = {device.device_no: device for device in devices or (trusted(),)}
        self.known: dict[Number, list[Prior]] = defaultdict(list)
        self.accused: set[Content] = set()
        self.trips = dict[Cohort, Trips]()  # what happened of late
        self.shares = dict[int, Bucket]()
        self.charging = True
        self.policy = policy or Policy()
        self.next_offset = 0

    @property
    def device(self) -> Device:
        """The row of device 1."""
        return self.devices[1]

    @property
    def ledger(self) -> Ledger:
        """Of device 1 in its current epoch."""
        return self.device.ledgers.get(EPOCH, Ledger())

    def weigh(self, *says: Say) -> list[str]:
        """Judge one batch, remember what it changed, and give each verdict as one word: its reason, if it has one."""
        outcome = self.judge(*says)
        self._commit(outcome)
        found = sorted(_words(outcome))
        assert [offset for offset, _ in found] == list(range(outcome.span.from_offset, outcome.span.to_offset))
        return [word for _, word in found]

    def judge(self, *says: Say) -> Outcome:
        """Judge one batch and forget it."""
        messages = [examined(say, self.next_offset + at) for at, say in enumerate(says)]
        asked = [number(suspect.verified) for suspect in suspects(messages, self.devices)]
        priors: Mapping[Number, list[Prior]] = {one: self.known[one] for one in asked if one in self.known}
        past = Past(self.devices, priors, self.accused, self.trips, self.shares if self.charging else None)
        return judge(messages, past, self.policy, span(messages, self.next_offset))

    def _commit(self, outcome: Outcome) -> None:
        self.next_offset = outcome.span.to_offset
        self.accused.update((a.verified.sender.device_no, a.verified.digest) for a in outcome.accusations)
        self.devices.update({device.device_no: device for device in outcome.devices})
        self.shares.update(outcome.shares)
        for one in outcome.accepted:
            self._remember(one.verified, owner=True)
        for waiting in outcome.held:
            self._remember(waiting.verified, owner=owns_its_number(waiting.reason))

    def _remember(self, verified: Verified, *, owner: bool) -> None:
        self.known[number(verified)].append(Prior(verified.digest, verified.envelope.boot, owner))


def span(messages: Iterable[Examined], next_offset: int) -> Span:
    """Measure these messages as a batch."""
    return span_of([m.record if isinstance(m, Refused) else m.verified.record for m in messages], next_offset)


def _words(outcome: Outcome) -> Iterable[tuple[int, str]]:
    judged: list[Accepted | Duplicate | Held] = [*outcome.accepted, *outcome.duplicates, *outcome.held]
    for one in judged:
        verdict, reason = verdict_of(one)
        yield one.verified.record.offset, reason or verdict
    for refused in outcome.refused:
        yield refused.record.offset, refused.reason


def trusted(device_no: int = 1, ledgers: dict[int, Ledger] | None = None) -> Device:
    """Give the row of a device in good standing."""
    return Device(device_no, Standing.TRUSTED, 1, EPOCH, 0, (), ledgers or {})
