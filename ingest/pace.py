"""How much does one partition's loop take at once? Half as much after each trouble, twice as much after a commit.

So a batch that is too large for a bad time becomes one that is not; and of a batch whose rows the store refuses, only
the message that they come from is left in the end.
"""

from collections.abc import Sequence

from ingest.core.message import Envelope, Refused
from ingest.core.verdict import Refusal
from ingest.ports import Lease, TroubleError, UnkeepableError

BACKOFF_S_MIN, BACKOFF_S_MAX = 0.05, 5.0
ATTEMPTS_MAX = 1  # of owners, to commit one batch of the usual size
OFFSETS_PER_RECORD_MAX = 2  # the end of a transaction, which may be of one record, takes an offset as well


class Pace:
    """What one partition's loop dares."""

    def __init__(self, partition: int, records_max: int) -> None:
        self.partition = partition
        self._records_max = self._records = records_max
        self._taken: Sequence[Envelope | Refused] = ()  # in flight
        self._unkeepable: int | None = None  # the offset of a message that the store refuses
        self._careful_left = 0  # messages that are yet to be tried in a child process first
        self._backoff_s = BACKOFF_S_MIN

    def begin(self, lease: Lease) -> None:
        """Be careful as far as others can have read who died, and take less the more of them died just here.

        A commit on the way there ends the latter and not the former, whoever's it was.
        """
        self._careful_left = _in_reach(lease, self._records_max)
        if lease.attempts > ATTEMPTS_MAX:
            self._records = max(1, min(self._records, self._records_max >> lease.attempts))

    @property
    def careful(self) -> bool:
        """Whether what comes next is to be tried in a child process first."""
        return self._careful_left > 0

    def take(self, messages: Sequence[Envelope | Refused]) -> Sequence[Envelope | Refused]:
        """Take as many as are dared, and none whose rows the store refuses as they are."""
        first = messages[0].record
        if first.offset == self._unkeepable:
            return [Refused(first, Refusal.POISON, "the store refuses the rows that it makes")]
        self._taken = messages[: self._records]
        return self._taken

    def committed(self, consumed: int) -> None:
        """Dare more."""
        self._taken, self._unkeepable = (), None
        self._careful_left = max(0, self._careful_left - consumed)
        self._records = min(self._records_max, self._records * 2)
        self._backoff_s = BACKOFF_S_MIN  # not before: what always fails is tried less and less often

    def idle(self) -> None:
        """Note that the log answers, and has nothing."""
        self._backoff_s = BACKOFF_S_MIN

    def failed(self, error: TroubleError) -> float:
        """Dare less; returns how long to wait until the next attempt, on average."""
        if self._taken:
            if isinstance(error, UnkeepableError) and len(self._taken) == 1:
                self._unkeepable = self._taken[0].record.offset
            self._records = max(1, min(self._records, len(self._taken)) // 2)
            self._taken = ()
        backoff_s, self._backoff_s = self._backoff_s, min(self._backoff_s * 2, BACKOFF_S_MAX)
        return backoff_s


def _in_reach(lease: Lease, records_max: int) -> int:
    """Say how many messages from here on can have been read where an owner died."""
    if lease.died_offset is None:
        return 0
    judged_since = (lease.next_offset - lease.died_offset) // OFFSETS_PER_RECORD_MAX  # at least
    return max(0, records_max - judged_since)
