"""What is to be said of a message given its device's past? Cheap, pure, in log order.

Order of reasons: number used before (duplicate, equivocation, counter_rollback), epoch, quarantine, key, schema, time,
jump, rate.
Only accepted messages move a ledger; held ones are remembered by number and content; refused ones leave no trace.
"""

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet

import msgspec

from ingest.core.device import BOOTS_MAX, Device, Key, KeyState, Standing
from ingest.core.freshness import timing
from ingest.core.message import Envelope, Examined, Reading, Refused, Unreadable, Verified
from ingest.core.outcome import Accepted, Duplicate, Held, Judged, Outcome, Span, account
from ingest.core.policy import Policy
from ingest.core.rate import Meter, Purse, Shares, purse
from ingest.core.sequence import Ledger, Use, add, look
from ingest.core.standing import CONTENT, Accusation, Cohort, Trips, accuse, cohort_of, quarantines
from ingest.core.verdict import Evidence, Hold, Limit, Refusal, TimeQuality

_UNUSED = Ledger()
_SILENCED = (Standing.QUARANTINED, Standing.REVOKED)
_ACTIVE, _FINE = KeyState.ACTIVE, TimeQuality.OK  # named here, for an enum takes longer to find its member than we have

Number = tuple[int, int, int]  # device_no, epoch, seq
Content = tuple[int, bytes]  # device_no, digest


class Prior(msgspec.Struct, frozen=True, gc=False):
    """A message that used a number before, stored or held. Of many under one number, the owner and equals matter."""

    digest: bytes
    boot: bytes
    owner: bool  # the number is its own; not so for what is held because the number was another's


Priors = Mapping[Number, Sequence[Prior]]


class KeysMovedError(Exception):
    """A sender's keys or standing changed between the reading of the key ring and the lock: examine the batch again."""


def number(verified: Verified) -> Number:
    """Name the place in a device's history that a message claims."""
    envelope = verified.envelope
    return verified.sender.device_no, envelope.epoch, envelope.seq


class Suspect(msgspec.Struct, frozen=True, gc=False):
    """A message whose number may have been used before this batch, and where the store must look for who used it."""

    verified: Verified
    stored: bool  # among the stored messages: its ledger does not rule it out
    held: bool  # among the held ones: its device has some


class Past(msgspec.Struct, frozen=True):
    """What the store knows that matters for a batch, read under the locks of its devices."""

    devices: Mapping[int, Device]  # the locked rows of all that are accountable, by device_no
    priors: Priors  # of the suspects' numbers
    known: AbstractSet[Content] = frozenset()  # content that has spoken against its device already
    trips: Mapping[Cohort, Trips] = {}  # of the cohorts that were asked about, because a device of them would fall
    shares: Shares | None = None  # what the senders' tenants may still send; None: nothing is charged


def accountable(examined: Iterable[Examined]) -> list[Verified]:
    """Pick the messages that their devices answer for: whose rows must be locked."""
    return [m.verified for m in examined if type(m) is not Refused] + blamed(examined)


def blamed(examined: Iterable[Examined]) -> list[Verified]:
    """Pick the refused messages that speak against their devices, unless the same content did before (`relapsed`)."""
    refused = [m for m in examined if type(m) is Refused]
    return [m.reached for m in refused if type(m.reached) is Verified and m.reason in CONTENT]


def relapsed(examined: Iterable[Examined], devices: Mapping[int, Device]) -> list[Verified]:
    """Pick the blamed messages of devices that were accused before: only of these may the same content have been."""
    return [one for one in blamed(examined) if devices[one.sender.device_no].suspicion_at_ms]


def suspects(examined: Iterable[Examined], devices: Mapping[int, Device]) -> list[Suspect]:
    """Pick the messages that the store must be asked about."""
    found = []
    for message in examined:
        if type(message) is not Refused:
            verified = message.verified
            device, envelope = devices[verified.sender.device_no], verified.envelope
            ledger = device.ledgers.get(envelope.epoch, _UNUSED)
            stored = envelope.seq <= ledger.highest and look(ledger, envelope.seq) is not Use.NEW
            if stored or device.held:
                found.append(Suspect(verified, stored, device.held > 0))
    return found


def judge(examined: Sequence[Examined], past: Past, policy: Policy, span: Span) -> Outcome:
    """Give every message of a batch its verdict, and say what the batch changes.

    Raises KeysMovedError when a row is newer than the keys that a message was verified with.
    """
    bench = _Bench(past, policy)
    judged = [bench.note(m) if type(m) is Refused else bench.weigh(m) for m in examined]
    outcome = account(judged, bench.changed(), bench.accusations, span)
    return outcome if bench.meter is None else msgspec.structs.replace(outcome, shares=bench.meter.changed())


def unasked(outcome: Outcome, past: Past) -> frozenset[Cohort]:
    """Pick the cohorts of which a device would fall, and nobody has asked yet how many did: judge again with that."""
    return frozenset(fallen.cohort for fallen in quarantines(outcome.accusations)) - past.trips.keys()


class _Draft(msgspec.Struct, gc=False):
    """A device's row while its batch is judged: what every message changes is changed here, and written back once."""

    device: Device  # up to date but for its ledgers and its bucket
    ledgers: dict[int, Ledger]
    rate: Purse
    moved: bool = False  # something was accepted
    accepted: list[Verified] = []  # of that, what the bench has not entered yet

    def row(self) -> Device:
        """Give it as it is to be written."""
        device = self.device
        return msgspec.structs.replace(device, ledgers=self.ledgers, rate=self.rate.bucket()) if self.moved else device


class _Case(msgspec.Struct, gc=False):
    """A message before the bench, with what every rule asks for, looked up once."""

    message: Reading | Unreadable
    verified: Verified
    envelope: Envelope
    draft: _Draft
    ledger: Ledger  # of its epoch, before it
    time: TimeQuality | Hold  # what is to be said of its time
    owner: Prior | None  # whose number it claims


class _Bench:
    """The devices of one batch while it is judged: what was accepted and held earlier in the batch counts already."""

    def __init__(self, past: Past, policy: Policy) -> None:
        self.accusations: list[Accusation] = []
        self.meter = None if past.shares is None else Meter(past.shares, policy)
        self._devices = past.devices
        self._drafts: dict[int, _Draft] = {}
        # Not lists by number: a device may send a whole batch under one.
        self._contents = {(number, prior.digest) for number, known in past.priors.items() for prior in known}
        self._owners = {number: prior for number, known in past.priors.items() for prior in known if prior.owner}
        self._known = set(past.known)
        self._trips = dict(past.trips)
        self._policy = policy

    def note(self, refused: Refused) -> Refused:
        """Remember a refused message if it speaks against its device. It stays refused."""
        verified = refused.reached
        if type(verified) is Verified and refused.reason in CONTENT:
            self._accuse(self._draft(verified), verified, CONTENT[refused.reason])
        return refused

    def weigh(self, message: Reading | Unreadable) -> Judged:
        """Judge one message and remember it."""
        verified = message.verified
        draft, envelope = self._draft(verified), verified.envelope
        ledger, time = draft.ledgers.get(envelope.epoch, _UNUSED), timing(envelope, self._policy)
        if (accepted := self._accept_usual(message, draft, ledger, time)) is not None:
            return accepted
        owner = None
        suspect = draft.device.held > 0 or envelope.seq <= ledger.highest  # else nobody has used its number
        if suspect:
            self._enter(draft)
            claimed = number(verified)
            if (claimed, verified.digest) in self._contents:
                return Duplicate(verified)
            owner = self._owners.get(claimed)
        case = _Case(message, verified, envelope, draft, ledger, time, owner)
        conflict = self._conflict(case) if suspect else None
        evidence = self._evidence(case, conflict)
        if evidence is not None:
            self._accuse(draft, verified, evidence)
        reason = conflict or self._trouble(case)
        if reason is None:
            return self._admit(case)
        if isinstance(reason, Hold):
            return self._hold(case, reason)
        return Refused(verified, reason, f"epoch {envelope.epoch} is closed; the device is at {draft.device.epoch}")

    def _accept_usual(
        self, message: Reading | Unreadable, draft: _Draft, ledger: Ledger, time: TimeQuality | Hold
    ) -> Accepted | None:
        """Accept what goes on where its device stood, as most does: nothing that is asked below applies to it."""
        verified, device = message.verified, draft.device
        envelope = verified.envelope
        if (
            isinstance(message, Reading)
            and isinstance(time, TimeQuality)
            and (time is _FINE) is (device.clock_off_since_ms is None)
            and ledger.highest < envelope.seq <= ledger.highest + self._policy.seq_jump_max
            and envelope.epoch == device.epoch
            and (device.boots and device.boots[-1]) == envelope.boot
            and envelope.software == device.software
            and verified.key.state is _ACTIVE
            and device.standing not in _SILENCED
            and device.held == 0
            and device.rolled == b""
            and self._charge(draft, verified) is None
        ):
            return self._accept(message, draft, ledger, time)
        return None

    def changed(self) -> list[Device]:
        """List the devices whose rows this batch changes, in lock order."""
        rows = [self._drafts[no].row() for no in sorted(self._drafts)]
        return [row for row in rows if row is not self._devices[row.device_no]]

    def _draft(self, verified: Verified) -> _Draft:
        sender = verified.sender
        draft = self._drafts.get(sender.device_no)
        if draft is None:
            device = self._devices[sender.device_no]
            draft = self._drafts[sender.device_no] = _Draft(device, device.ledgers.copy(), purse(device.rate))
        if draft.device.key_version != sender.key_version:
            raise KeysMovedError
        return draft

    def _accuse(self, draft: _Draft, verified: Verified, evidence: Evidence) -> None:
        """Weigh what speaks against a device, unless the same content did before.

        What an earlier unit says in a closed epoch speaks against nobody who is there now. As it may be refused, and is
        not remembered then, it would count again whenever it is sent again, too.
        """
        content = verified.sender.device_no, verified.digest
        if content in self._known or verified.envelope.epoch != draft.device.epoch:
            return
        self._known.add(content)
        cohort = cohort_of(verified)
        trips = self._trips.get(cohort)
        draft.device, accusation = accuse(draft.device, verified, evidence, self._policy, trips)
        if trips is not None and quarantines([accusation]):
            self._trips[cohort] = Trips((*trips.at_ms, verified.record.received_at_ms), trips.devices)
        self.accusations.append(accusation)

    def _evidence(self, case: _Case, conflict: Hold | None) -> Evidence | None:
        """Find what a message that is not a duplicate says against its device, by its number, its boot and its key."""
        envelope, key = case.envelope, case.verified.key
        if conflict is not None:  # what is too old to compare proves nothing
            both = conflict is Hold.EQUIVOCATION and case.owner is not None
            return Evidence.EQUIVOCATION if both else None
        if envelope.seq > case.ledger.highest and self._goes_on(case):
            return Evidence.CLONE
        if key.state is not _ACTIVE and _is_spent(key, envelope):
            return Evidence.RETIRED_KEY
        return None

    def _goes_on(self, case: _Case) -> bool:
        """Say whether a boot speaks that another has followed: one that was accepted, or one with a lost counter."""
        boot, device = case.envelope.boot, case.draft.device
        if not device.boots or boot != device.boots[-1]:
            return boot in device.boots
        return device.rolled != b"" and self._now(case)

    def _now(self, case: _Case) -> bool:
        """Say whether a message tells what its device does now: not late data, a closed epoch, or what has waited.

        Of a device whose clock is off nobody knows what is late, unless it is out of all bounds.
        """
        device = case.draft.device
        if self.meter is None or case.envelope.epoch != device.epoch:
            return False
        if device.clock_off_since_ms is not None:
            return isinstance(case.time, TimeQuality)
        return case.time is _FINE

    def _conflict(self, case: _Case) -> Hold | None:
        """Tell a clone from a counter that was lost with its memory, when the number is another message's."""
        owner, envelope = case.owner, case.envelope
        if owner is None:
            used = look(case.ledger, envelope.seq) is Use.USED
            # used, yet the store no longer keeps the message: too old to compare, so a person decides
            return (case.time if isinstance(case.time, Hold) else Hold.EQUIVOCATION) if used else None
        if envelope.boot == owner.boot or envelope.boot in case.draft.device.boots[:-1]:
            return Hold.EQUIVOCATION
        return Hold.COUNTER_ROLLBACK

    def _trouble(self, case: _Case) -> Hold | Refusal | None:
        envelope, device, key = case.envelope, case.draft.device, case.verified.key
        if envelope.epoch != device.epoch:
            epoch_trouble = _epoch_trouble(case)
            if epoch_trouble is not None:
                return epoch_trouble
        if device.standing in _SILENCED:
            return Hold.QUARANTINED
        if key.state is not _ACTIVE and _is_spent(key, envelope):
            return Hold.KEY_RETIRED
        if not isinstance(case.message, Reading):
            return Hold.SCHEMA_UNKNOWN
        if isinstance(case.time, Hold):
            return case.time
        return Hold.SEQ_JUMP if envelope.seq > case.ledger.highest + self._policy.seq_jump_max else None

    def _admit(self, case: _Case) -> Accepted | Held:
        """Accept a message, unless that is more than its device, its tenant or the fleet may send.

        What is above all others tells how its device's clock and software are now.
        """
        draft, verified, envelope = case.draft, case.verified, case.envelope
        limit = self._charge(draft, verified)
        if limit is Limit.DEVICE and case.time is _FINE:
            self._accuse(draft, verified, Evidence.RATE)
        if limit is not None:
            return self._hold(case, Hold.RATE_LIMITED, limit)
        assert isinstance(case.message, Reading)
        assert isinstance(case.time, TimeQuality)
        if envelope.seq > case.ledger.highest:
            draft.device = _moved_on(draft.device, envelope, case.time)
        return self._accept(case.message, draft, case.ledger, case.time)

    def _charge(self, draft: _Draft, verified: Verified) -> Limit | None:
        """Charge a message to all who pay for it; says whose bucket is empty, if one is."""
        meter, now_ms = self.meter, verified.envelope.record.received_at_ms
        return None if meter is None else meter.charge(draft.rate, verified.sender.tenant_no, now_ms)

    def _accept(self, message: Reading, draft: _Draft, ledger: Ledger, time_quality: TimeQuality) -> Accepted:
        """Enter the number of a message."""
        envelope, off_since_ms = message.verified.envelope, draft.device.clock_off_since_ms
        draft.ledgers[envelope.epoch] = add(ledger, envelope.seq, self._policy.ledger_ranges_max)
        draft.moved = True
        draft.accepted.append(message.verified)
        off_s = 0.0 if off_since_ms is None else max(0.0, (envelope.record.received_at_ms - off_since_ms) / 1000)
        return Accepted(message, time_quality, off_s)

    def _hold(self, case: _Case, reason: Hold, limit: Limit | None = None) -> Held:
        """Remember it; its bytes are kept as long as its device has not filled its share of the lane."""
        size, device = len(case.envelope.record.value), case.draft.device
        whole = device.held_bytes + size <= self._policy.held_bytes_max
        held_bytes = device.held_bytes + size if whole else device.held_bytes
        rolled = case.envelope.boot if reason is Hold.COUNTER_ROLLBACK and self._now(case) else device.rolled
        waiting = msgspec.structs.replace(device, held=device.held + 1, held_bytes=held_bytes, rolled=rolled)
        case.draft.device = waiting
        self._remember(case.verified, owner=owns_its_number(reason))
        return Held(case.message, reason, whole, limit)

    def _enter(self, draft: _Draft) -> None:
        """Enter what was accepted of a device, before it is asked who used a number of it: of few devices it is."""
        for verified in draft.accepted:
            self._remember(verified, owner=True)
        draft.accepted.clear()

    def _remember(self, verified: Verified, *, owner: bool) -> None:
        used = number(verified)
        self._contents.add((used, verified.digest))
        if owner:
            self._owners[used] = Prior(verified.digest, verified.envelope.boot, owner)


def _moved_on(device: Device, envelope: Envelope, time_quality: TimeQuality) -> Device:
    """Give the row of a device after its newest message; most say what the one before said."""
    boots, off_since_ms = device.boots, device.clock_off_since_ms
    goes_on = boots and boots[-1] == envelope.boot
    if goes_on and device.software == envelope.software and (time_quality is _FINE) is (off_since_ms is None):
        return device
    if time_quality is _FINE:
        off_since_ms = None
    elif off_since_ms is None:
        off_since_ms = envelope.record.received_at_ms
    if not goes_on:
        boots = (*[boot for boot in boots if boot != envelope.boot], envelope.boot)[-BOOTS_MAX:]
    return msgspec.structs.replace(
        device, boots=boots, rolled=device.rolled if goes_on else b"", software=envelope.software,
        clock_off_since_ms=off_since_ms,
    )  # fmt: skip


def _epoch_trouble(case: _Case) -> Hold | Refusal | None:
    epoch, given_out = case.envelope.epoch, case.draft.device.epoch
    if epoch > given_out:
        return Hold.EPOCH_UNKNOWN
    if epoch < given_out and case.envelope.seq > case.ledger.highest:
        return Refusal.EPOCH_CLOSED
    return None


def _is_spent(key: Key, envelope: Envelope) -> bool:
    """Say whether a retired key may not sign this any more; of the epochs before its last, all that is not closed."""
    if key.state is not KeyState.RETIRED:
        return False
    return key.cutoff is None or (envelope.epoch, envelope.seq) > key.cutoff


def owns_its_number(reason: Hold) -> bool:
    """Say whether a held message has a claim to its number.

    One held because the number was taken has none; nor has one under a retired key: who has stolen it could use up the
    numbers that its owner comes to.
    """
    return reason not in (Hold.EQUIVOCATION, Hold.COUNTER_ROLLBACK, Hold.KEY_RETIRED)
