"""How much is kept of what was refused? A bounded stream of bytes for each partition; that it was refused, always.

Judged record by record, in log order and by the broker's clock, so it is the same however the log is cut into batches.
"""

from operator import attrgetter

import msgspec

from ingest.core.outcome import Outcome
from ingest.core.policy import Policy
from ingest.core.rate import Bucket, Rate, take
from ingest.core.verdict import Refusal

_POISON = Refusal.POISON  # an enum takes longer to find it than the comparison


def allot(outcome: Outcome, allowance: Bucket, policy: Policy) -> Outcome:
    """Decide of which refused messages and duplicates the first bytes are kept; those of poison always are, whole."""
    rate = Rate(policy.refused_bytes_per_s_max, policy.refused_burst_bytes_max)
    shown = {one.record.offset: len(one.record.value) for one in outcome.refused if one.reason is _POISON}
    ended = [one.record for one in outcome.refused if one.reason is not _POISON]
    ended += [one.verified.record for one in outcome.duplicates]
    for record in sorted(ended, key=attrgetter("offset")):
        wanted = min(len(record.value), policy.refused_bytes_max)
        left = take(allowance, wanted, record.received_at_ms, rate)
        if left is not None:
            shown[record.offset] = wanted
            allowance = left
    return msgspec.structs.replace(outcome, allowance=allowance, shown=shown)
