"""Where are signed messages kept, so that they are signed once? In a folder of the user's cache, each corpus whole.

A corpus gets its name when it is complete, so one whose making was killed is never taken for a corpus. Nothing here is
worth keeping: whoever needs the room may throw the folder away.
"""

import mmap
import multiprocessing
import os
import shutil
import threading
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Final

import msgspec

from device_sim.identity import Identity
from loadtest.corpus.content import write
from loadtest.corpus.order import FORMAT, Order

AGE_S_MAX = 7 * 86_400  # older ones would be `stale` one day (age_s_max), and are late already
STRETCH = 2_000  # messages written in one go: a tenth of a second or so
OFFSET_BYTES = 8

Progress = Callable[[int, int], None]  # how many of how many messages are signed


class About(msgspec.Struct, frozen=True):
    """What is known of a corpus without looking into it."""

    format: int
    order: Order
    made_at_s: float


class UnfitError(Exception):
    """A cached corpus that cannot be used; its text says why."""


class Corpus:
    """A corpus in the cache. Envelopes are read from a mapped file, behind which lie the offsets of where each ends."""

    def __init__(self, place: Path) -> None:
        self._place: Final = place
        self.about: Final = _read_about(place)
        self.order: Final = self.about.order
        self._map: Final = _map(place / "envelopes")
        end = len(self._map) - OFFSET_BYTES * self.order.messages
        if end < 0:
            raise UnfitError("the file is shorter than its offsets")
        self._ends: Final = memoryview(self._map)[end:].cast("Q")
        if self._ends[-1] != end:
            raise UnfitError("the file is not as long as it says")

    def __len__(self) -> int:
        return self.order.messages

    def __getitem__(self, index: int) -> bytes:
        start = self._ends[index - 1] if index else 0
        return self._map[start : self._ends[index]]

    def __iter__(self) -> Iterator[bytes]:
        return self.values(0, len(self))

    def values(self, start: int, stop: int) -> Iterator[bytes]:
        """Give the envelopes from number `start` to before `stop`."""
        at = self._ends[start - 1] if start else 0
        for end in self._ends[start:stop]:
            yield self._map[at:end]
            at = end

    def number(self, index: int) -> int:
        """Tell which device sends this message."""
        return index % self.order.devices

    def device_ids(self) -> Sequence[str]:
        """List the names of the devices, by number."""
        identity = Identity(self.order.fleet)
        return [identity.device_id(number) for number in range(self.order.devices)]

    @property
    def registrations(self) -> Path:
        """The file for `weighbridge devices import`."""
        return self._place / "registrations.jsonl"

    @property
    def value_bytes(self) -> float:
        """How large an envelope is on average."""
        return self._ends[-1] / len(self)


def cache_of(chosen: Path | None) -> Path:
    """Say where corpora are kept: where one says, or where caches are (XDG Base Directory Specification)."""
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return chosen or Path(home).expanduser() / "weighbridge" / "corpora"


def provide(order: Order, folder: Path, progress: Progress) -> Corpus:
    """Give the corpus from the cache; make it first if it is not there, or is unfit."""
    place = folder / order.digest()
    try:
        return _fit(place, order)
    except UnfitError:
        _sweep(folder)
        _make(order, place, progress)
        return _fit(place, order)


def _fit(place: Path, order: Order) -> Corpus:
    corpus = Corpus(place)
    age_s = time.time() - corpus.about.made_at_s
    if corpus.order != order or corpus.about.format != FORMAT:
        raise UnfitError("it is another one")
    if not 0 <= age_s <= AGE_S_MAX:
        raise UnfitError(f"it was made {age_s:.0f} s ago")
    return corpus


def _read_about(place: Path) -> About:
    try:
        return msgspec.json.decode((place / "about.json").read_bytes(), type=About)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UnfitError(f"there is none: {type(error).__name__}") from error


def _map(path: Path) -> mmap.mmap:
    try:
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:  # ValueError: it is empty
        raise UnfitError(f"its envelopes cannot be read: {error}") from error


def _make(order: Order, place: Path, progress: Progress) -> None:
    """Make a corpus aside, and give it its name when it is whole."""
    half = place.with_name(f".{place.name}.{os.getpid()}")
    shutil.rmtree(half, ignore_errors=True)
    half.mkdir(parents=True)
    try:
        _fill(order, half, progress)
        shutil.rmtree(place, ignore_errors=True)
        half.rename(place)
    finally:
        shutil.rmtree(half, ignore_errors=True)


def _fill(order: Order, half: Path, progress: Progress) -> None:
    made_at_s = time.time()
    ends = array("Q")
    starts = range(0, order.messages, STRETCH)
    with _pool() as pool, (half / "envelopes").open("wb") as file:
        registering = pool.submit(_registrations, order)
        count = len(starts)
        stretches = pool.map(_stretch, [order] * count, [made_at_s] * count, starts)
        at = 0
        for body, lengths in stretches:
            file.write(body)
            for length in lengths:
                at += length
                ends.append(at)
            progress(len(ends), order.messages)
        ends.tofile(file)
        (half / "registrations.jsonl").write_bytes(registering.result())
    about = About(FORMAT, order, made_at_s)
    (half / "about.json").write_bytes(msgspec.json.encode(about))


def _stretch(order: Order, made_at_s: float, start: int) -> tuple[bytes, list[int]]:
    values = list(write(order, made_at_s, start, min(start + STRETCH, order.messages)))
    return b"".join(values), [len(value) for value in values]


def _registrations(order: Order) -> bytes:
    lines = (msgspec.json.encode(one) + b"\n" for one in Identity(order.fleet).registrations())
    return b"".join(lines)


def _pool() -> ProcessPoolExecutor:
    """Sign in as many processes as there are cores; begun anew, because a loop and its threads cannot be forked."""
    spawn = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(len(os.sched_getaffinity(0)), mp_context=spawn, initializer=_end_with_parent)


def _end_with_parent() -> None:
    """End when whoever wants the corpus is gone, however: the pool's own processes would wait for work for ever."""

    def watch() -> None:
        parent = multiprocessing.parent_process()
        assert parent is not None, "a process of the pool has one"
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _sweep(folder: Path) -> None:
    """Throw away what those left behind who were killed."""
    for half in folder.glob(".*.*"):
        if not Path("/proc", half.suffix[1:]).exists():
            shutil.rmtree(half, ignore_errors=True)
