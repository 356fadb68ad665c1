"""How much is kept of what was refused? A bounded stream of bytes for each partition; that it was refused, always.

Judged record by record, in log order and by the broker's clock, so it is the same however the log is cut into batches.
"""

import msgspec

from ingest.core.message import RawRecord
from ingest.core.outcome import Allowance, Outcome
from ingest.core.policy import Policy
from ingest.core.verdict import Refusal


def allot(outcome: Outcome, allowance: Allowance, policy: Policy) -> Outcome:
    """Decide of which refused messages and duplicates the first bytes are kept; those of poison always are, whole."""
    shown = {one.record.offset: len(one.record.value) for one in outcome.refused if one.reason is Refusal.POISON}
    ended = [one.record for one in outcome.refused if one.reason is not Refusal.POISON]
    ended += [one.verified.record for one in outcome.duplicates]
    for record in sorted(ended, key=_offset):
        allowance = _refill(allowance, record.received_at_ms, policy)
        wanted = min(len(record.value), policy.refused_bytes_max)
        if wanted <= allowance.bytes_left:
            shown[record.offset] = wanted
            allowance = Allowance(allowance.bytes_left - wanted, allowance.at_ms)
    return msgspec.structs.replace(outcome, allowance=allowance, shown=shown)


def _refill(allowance: Allowance, now_ms: int, policy: Policy) -> Allowance:
    more = (now_ms - allowance.at_ms) * policy.refused_bytes_per_s_max // 1000
    if more <= 0:
        return allowance
    return Allowance(min(policy.refused_burst_bytes_max, allowance.bytes_left + more), now_ms)


def _offset(record: RawRecord) -> int:
    return record.offset
