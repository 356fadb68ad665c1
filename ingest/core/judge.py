"""What is to be said of a message given its device's past? Cheap, pure, in log order.

Order of reasons: number used before (duplicate, equivocation, counter_rollback), epoch, quarantine, key, schema, time,
jump.
Only accepted messages move a ledger; held ones are remembered by number and content; refused ones leave no trace.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import assert_never

import msgspec

from ingest.core.device import BOOTS_MAX, Device, KeyState, Standing
from ingest.core.freshness import doubt, quality
from ingest.core.message import Examined, Reading, Refused, Unreadable, Verified
from ingest.core.outcome import Accepted, Duplicate, Held, Judged, Outcome, Span, account
from ingest.core.policy import Policy
from ingest.core.sequence import Ledger, Use, add, look
from ingest.core.verdict import Hold, Refusal

Number = tuple[int, int, int]  # device_no, epoch, seq


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
    return verified.sender.device_no, verified.envelope.epoch, verified.envelope.seq


class Suspect(msgspec.Struct, frozen=True, gc=False):
    """A message whose number may have been used before this batch, and where the store must look for who used it."""

    verified: Verified
    stored: bool  # among the stored messages: its ledger does not rule it out
    held: bool  # among the held ones: its device has some


def suspects(examined: Iterable[Examined], devices: Mapping[int, Device]) -> list[Suspect]:
    """Pick the messages that the store must be asked about."""
    known = [_suspect(m.verified, devices) for m in examined if not isinstance(m, Refused)]
    return [suspect for suspect in known if suspect.stored or suspect.held]


def _suspect(verified: Verified, devices: Mapping[int, Device]) -> Suspect:
    device_no, epoch, seq = number(verified)
    device = devices[device_no]
    stored = look(device.ledgers.get(epoch, Ledger()), seq) is not Use.NEW
    return Suspect(verified, stored, device.held > 0)


def judge(
    examined: Sequence[Examined], devices: Mapping[int, Device], priors: Priors, policy: Policy, span: Span
) -> Outcome:
    """Give every message of a batch its verdict, and say what the batch changes.

    `devices` are the locked rows of all senders; `priors` what the store knows of the `suspects`' numbers.
    Raises KeysMovedError when a row is newer than the keys that a message was verified with.
    """
    bench = _Bench(devices, priors, policy)
    judged = [m if isinstance(m, Refused) else bench.weigh(m) for m in examined]
    return account(judged, bench.changed(), span)


class _Bench:
    """The devices of one batch while it is judged: what was accepted and held earlier in the batch counts already."""

    def __init__(self, devices: Mapping[int, Device], priors: Priors, policy: Policy) -> None:
        self._devices = dict(devices)
        self._before = devices
        self._contents = {(number, prior.digest) for number, known in priors.items() for prior in known}
        self._owners = {number: prior for number, known in priors.items() for prior in known if prior.owner}
        self._policy = policy

    def weigh(self, message: Reading | Unreadable) -> Judged:
        """Judge one message and remember it."""
        device = self._devices[message.verified.sender.device_no]
        if device.key_version != message.verified.sender.key_version:
            raise KeysMovedError
        judged = self._verdict(message, device)
        match judged:
            case Accepted(reading=reading):
                self._accept(reading.verified, device)
            case Held():
                return self._hold(judged, device)
            case Duplicate() | Refused():
                pass
            case _:
                assert_never(judged)
        return judged

    def changed(self) -> list[Device]:
        """List the devices whose rows this batch changes, in lock order."""
        return [self._devices[no] for no in sorted(self._devices) if self._devices[no] is not self._before[no]]

    def _verdict(self, message: Reading | Unreadable, device: Device) -> Judged:
        verified = message.verified
        if (number(verified), verified.digest) in self._contents:
            return Duplicate(verified)
        reason = (
            self._conflict(verified, device) or self._epoch_trouble(verified, device) or self._trouble(message, device)
        )
        if isinstance(reason, Hold):
            return Held(message, reason)
        if isinstance(reason, Refusal):
            return Refused(
                verified, reason, f"epoch {verified.envelope.epoch} is closed; the device is at {device.epoch}"
            )
        assert isinstance(message, Reading)
        return Accepted(message, quality(verified.envelope, self._policy))

    def _conflict(self, verified: Verified, device: Device) -> Hold | None:
        """Tell a clone from a counter that was lost with its memory, when the number is another message's."""
        owner = self._owners.get(number(verified))
        envelope = verified.envelope
        if owner is None:
            used = look(device.ledgers.get(envelope.epoch, Ledger()), envelope.seq) is Use.USED
            # used, yet the store no longer keeps the message: too old to compare, so a person decides
            return (doubt(envelope, self._policy) or Hold.EQUIVOCATION) if used else None
        if envelope.boot == owner.boot or envelope.boot in device.boots[:-1]:
            return Hold.EQUIVOCATION
        return Hold.COUNTER_ROLLBACK

    @staticmethod
    def _epoch_trouble(verified: Verified, device: Device) -> Hold | Refusal | None:
        epoch = verified.envelope.epoch
        if epoch > device.epoch:
            return Hold.EPOCH_UNKNOWN
        if epoch < device.epoch and verified.envelope.seq > device.ledgers.get(epoch, Ledger()).highest:
            return Refusal.EPOCH_CLOSED
        return None

    def _trouble(self, message: Reading | Unreadable, device: Device) -> Hold | None:
        envelope, key = message.verified.envelope, message.verified.key
        if device.standing is not Standing.TRUSTED:
            return Hold.QUARANTINED
        if key.state is KeyState.RETIRED and (key.seq_cutoff is None or envelope.seq > key.seq_cutoff):
            return Hold.KEY_RETIRED
        if isinstance(message, Unreadable):
            return Hold.SCHEMA_UNKNOWN
        time_trouble = doubt(envelope, self._policy)
        if time_trouble is not None:
            return time_trouble
        highest = device.ledgers.get(envelope.epoch, Ledger()).highest
        return Hold.SEQ_JUMP if envelope.seq > highest + self._policy.seq_jump_max else None

    def _accept(self, verified: Verified, device: Device) -> None:
        envelope = verified.envelope
        before = device.ledgers.get(envelope.epoch, Ledger())
        after = add(before, envelope.seq, self._policy.ledger_ranges_max)
        boots = device.boots
        if after.highest > before.highest and boots[-1:] != (envelope.boot,):
            boots = (*(boot for boot in boots if boot != envelope.boot), envelope.boot)[-BOOTS_MAX:]
        ledgers = {**device.ledgers, envelope.epoch: after}
        self._devices[device.device_no] = msgspec.structs.replace(device, ledgers=ledgers, boots=boots)
        self._remember(verified, owner=True)

    def _hold(self, held: Held, device: Device) -> Held:
        """Remember it; its bytes are kept as long as its device has not filled its share of the lane."""
        size = len(held.verified.record.value)
        whole = device.held_bytes + size <= self._policy.held_bytes_max
        held_bytes = device.held_bytes + size if whole else device.held_bytes
        row = msgspec.structs.replace(device, held=device.held + 1, held_bytes=held_bytes)
        self._devices[device.device_no] = row
        self._remember(held.verified, owner=owns_its_number(held.reason))
        return msgspec.structs.replace(held, whole=whole)

    def _remember(self, verified: Verified, *, owner: bool) -> None:
        self._contents.add((number(verified), verified.digest))
        if owner:
            self._owners[number(verified)] = Prior(verified.digest, verified.envelope.boot, owner)


def owns_its_number(reason: Hold) -> bool:
    """Say whether a held message has a claim to its number; one held because the number was taken has none."""
    return reason not in (Hold.EQUIVOCATION, Hold.COUNTER_ROLLBACK)
