"""What has a verification found, and what could it not look at? The first findings are told; all are counted."""

from collections import Counter
from collections.abc import Callable

FINDINGS_TOLD_MAX = 100


class Findings:
    """What is not as it was committed, and what nobody can tell any more."""

    def __init__(self, tell: Callable[[str], None], progress: Callable[[str], None]) -> None:
        self._tell = tell
        self.progress = progress
        self.count = 0
        self.checked: Counter[str] = Counter()
        self.unchecked: Counter[str] = Counter()

    def add(self, what: str) -> None:
        """Take note of something that is not as it was."""
        self.count += 1
        if self.count <= FINDINGS_TOLD_MAX:
            self._tell(what)
