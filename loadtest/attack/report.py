"""What is said at the end of an attack? What was to be shown and what was found, and how fast it went."""

import os
import platform
import time
from collections.abc import Mapping, Sequence

import msgspec
from rich.console import Console
from rich.table import Table


class Claim(msgspec.Struct, frozen=True):
    """Something that was to be shown, and what was found."""

    shown: str
    found: str
    kept: bool


class Report(msgspec.Struct, frozen=True):
    """An attack, summed up."""

    claims: Sequence[Claim]
    facts: Mapping[str, object]
    title: str = "What became of the attack"

    @property
    def good(self) -> bool:
        """Whether all was shown that was to be shown."""
        return all(claim.kept for claim in self.claims)

    def summary(self) -> dict[str, object]:
        """Say it for scripts."""
        claims = [{"shown": claim.shown, "found": claim.found, "kept": claim.kept} for claim in self.claims]
        return {"good": self.good, "claims": claims, **self.facts}


class Stopwatch:
    """How long something took, and how busy the machine was with this and all else meanwhile."""

    def __init__(self) -> None:
        self._began_s = time.monotonic()

    def facts(self, messages: int) -> dict[str, object]:
        """Say how fast so many messages went, and on what."""
        seconds = time.monotonic() - self._began_s
        return {
            "messages": messages,
            "seconds": round(seconds, 1),
            "messages_per_s": round(messages / seconds),
            "machine": f"{os.cpu_count()} x {platform.machine()}, load {os.getloadavg()[0]:.1f} at the end",
        }


def equal(shown: str, found: int, wanted: int) -> Claim:
    """Claim that a count is what it has to be."""
    return Claim(shown, f"{found:,} of {wanted:,}" if wanted else f"{found:,}", found == wanted)


def show(report: Report, console: Console) -> None:
    """Say it for people."""
    table = Table("was to be shown", "found", title=report.title, title_justify="left")
    for claim in report.claims:
        table.add_row(claim.shown, claim.found, style=None if claim.kept else "bold red")
    console.print(table)
    for name, value in report.facts.items():
        said = f"{value:,}" if isinstance(value, int) else value
        console.print(f"  {name.replace('_', ' ')}: {said}", highlight=False, soft_wrap=True)
    missed = sum(not claim.kept for claim in report.claims)
    verdict = f"{missed} of {len(report.claims)} claims do not hold." if missed else "All of it holds."
    console.print(verdict, style="bold red" if missed else "bold green", highlight=False)
