"""How does a batch come to its verdicts? Within its transaction: recall, judge, and once more where a cohort falls."""

from collections.abc import Sequence

from msgspec.structs import replace

from ingest.core.judge import Past, accountable, judge, relapsed, suspects, unasked
from ingest.core.message import Examined
from ingest.core.outcome import Outcome, Span
from ingest.core.policy import Policy
from ingest.ports import Transaction


async def decide(transaction: Transaction, examined: Sequence[Examined], policy: Policy, span: Span) -> Outcome:
    """Recall and judge; and again, when devices would be quarantined, with how many of their cohorts were of late."""
    senders = accountable(examined)
    devices = await transaction.recall(senders)
    priors = await transaction.priors(suspects(examined, devices))
    shares = await transaction.shares({one.sender.tenant_no for one in senders})
    past = Past(devices, priors, await transaction.known(relapsed(examined, devices)), shares=shares)
    outcome = judge(examined, past, policy, span)
    while cohorts := unasked(outcome, past):
        past = replace(past, trips={**past.trips, **await transaction.trips(cohorts)})
        outcome = judge(examined, past, policy, span)
    return outcome
