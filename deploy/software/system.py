"""What may this user install? Where they may not, the answer is the line to type."""

import os
import shutil
import subprocess
from collections.abc import Callable, Sequence

Say = Callable[[str], None]


class Missing(Exception):  # noqa: N818 - it is read as "Missing: ...", and its text is the whole answer
    """Something is needed that is not here and may not be installed. Its text says what, and the line to type."""


def may_install() -> bool:
    """Whether this user may install packages of the system."""
    return os.geteuid() == 0 and shutil.which("apt-get") is not None


def install(packages: Sequence[str], say: Say) -> None:
    """Install packages of the system, or say what to type."""
    line = f"apt-get install -y {' '.join(packages)}"
    if not may_install():
        raise Missing(f"{' and '.join(packages)} missing and not ours to install; type: sudo {line}")
    say(f"installing {' '.join(packages)} with apt-get")
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    quiet = ["apt-get", "-qq", "-o", "Dpkg::Use-Pty=0"]
    for command in (
        [*quiet, "update"],
        [*quiet, "install", "-y", "--no-install-recommends", *packages],
    ):
        done = subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=False)
        if done.returncode:
            raise Missing(f"{' '.join(command)} failed with status {done.returncode}; type: {line}")
