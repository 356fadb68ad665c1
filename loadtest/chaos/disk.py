"""What if the disk is full? A small file system for the tables, which can be made as small as what lies on it.

It is a tmpfs, because the size of one may be changed while it is in use. To mount it one must be root.
"""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

ROOMY = "8g"  # no memory is taken but by what lies on it
SPARE_BYTES = 65_536
FILL_TRIES_MAX = 20


class Disk:
    """The file system of the tables."""

    def __init__(self, place: Path) -> None:
        self.place = place

    @contextlib.contextmanager
    def full(self) -> Iterator[None]:
        """Leave next to no room on it for the length of the block."""
        try:
            for _ in range(FILL_TRIES_MAX):  # it is refused if more was written meanwhile
                told = os.statvfs(self.place)
                used = (told.f_blocks - told.f_bfree) * told.f_frsize
                if _mount(self.place, f"remount,size={used + SPARE_BYTES}"):
                    break
            yield
        finally:
            _mount(self.place, f"remount,size={ROOMY}")


def mount(place: Path) -> Disk | None:
    """Mount one here, for the owner of the directory that it lies in; None where that is not allowed."""
    owner = place.parent.stat()
    place.mkdir(exist_ok=True)
    done = _mount(place, f"size={ROOMY},mode=0700,uid={owner.st_uid},gid={owner.st_gid}")
    return Disk(place) if done else None


def unmount(place: Path) -> None:
    """Unmount it, if it is there. Never under a server, which could not recover after that."""
    if place.is_mount():
        subprocess.run(["umount", str(place)], check=True, capture_output=True)  # noqa: S603, S607 (ours)


def _mount(place: Path, options: str) -> bool:
    command = ["mount", "-t", "tmpfs", "-o", options, "none", str(place)]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0  # noqa: S603 (ours)
