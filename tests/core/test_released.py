"""What was released is never edited: devices, checkers and databases out there were made by it."""

import hashlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PINS = Path(__file__).with_name("released.sha256")  # as sha256sum writes it

KINDS = ("schemas/telemetry/*.avsc", "schemas/vectors/*.json", "ingest/adapters/postgres/migrations/*.sql")
PIN_ALL_ANEW = f"sha256sum {' '.join(KINDS)} > {PINS.relative_to(ROOT)}"
WHAT_TO_DO = (
    "a released file is never edited: undo the edit and put the change into a new file (a schema of the next version, "
    "another file of vectors, a migration of the next number). Only a file that no release has carried yet may be "
    f"pinned, anew or for the first time: {PIN_ALL_ANEW}"
)


def pinned() -> dict[str, str]:
    lines = (re.fullmatch(r"([0-9a-f]{64})  (\S+)", line) for line in PINS.read_text().splitlines())
    return {line[2]: line[1] for line in lines if line}


def present() -> dict[str, str]:
    files = [path for kind in KINDS for path in ROOT.glob(kind)]
    return {str(path.relative_to(ROOT)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_released_files_are_as_they_were_released() -> None:
    found, expected = present(), pinned()
    edited = sorted(name for name in expected if name in found and found[name] != expected[name])
    gone = sorted(expected.keys() - found.keys())
    new = sorted(found.keys() - expected.keys())
    if edited or gone or new:
        pytest.fail(f"edited: {edited}; gone: {gone}; not pinned: {new}. {WHAT_TO_DO}", pytrace=False)


@pytest.mark.parametrize("kind", KINDS)
def test_there_is_something_of_each_kind_and_nothing_out_of_its_place(kind: str) -> None:
    room, ending = Path(kind).parts[0], Path(kind).suffix
    assert set((ROOT / room).rglob(f"*{ending}")) == set(ROOT.glob(kind)) != set()
