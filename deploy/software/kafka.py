"""Where are Kafka's jars? Maven fetches them, and their digests are checked against kafka.lock."""

import hashlib
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

from deploy.software import java, store, system
from deploy.software.system import Missing, Say

POM = store.DEPLOY / "pom.xml"
LOCK = store.DEPLOY / "kafka.lock"
PROGRESS_EVERY_S = 2.0


def version() -> str:
    """Read the version of Kafka that the pom asks for."""
    found = re.search(r"<kafka\.version>([^<]+)<", POM.read_text())
    assert found
    return found[1]


def jars(say: Say) -> Path:
    """Provide the folder of jars that is Kafka's class path."""
    return store.fetch(store.shelf(f"kafka-{version()}", POM, LOCK), lambda half: copy(half, say))


def copy(half: Path, say: Say) -> None:
    """Have Maven copy the jars, and check them."""
    runtime = java.provide(say)
    if shutil.which("mvn") is None:
        system.install(["maven"], say)
    say(f"fetching Apache Kafka {version()} with Maven: {len(digests())} jars, about 43 MB")
    command = ["mvn", "--batch-mode", "-Dstyle.color=never", "--file", str(POM)]
    goal = ["dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={half}"]
    follow([*command, *goal], os.environ | {"JAVA_HOME": str(runtime.resolve().parents[1])}, say)
    check(half)


def follow(command: list[str], environment: dict[str, str], say: Say) -> None:
    """Run Maven, saying now and then how far it is, and in full what it said if it fails."""
    lines: list[str] = []
    said_at = time.monotonic()
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as maven:
        assert maven.stdout
        for line in maven.stdout:
            lines.append(line)
            if time.monotonic() - said_at > PROGRESS_EVERY_S:
                said_at = time.monotonic()
                say(progress(lines))
    if maven.returncode:
        errors = "".join(line for line in lines if line.startswith("[ERROR]")) or "".join(lines[-20:])
        raise Missing(f"Maven could not fetch Apache Kafka; it says:\n{errors}then type: make setup")


def progress(lines: list[str]) -> str:
    """Count what Maven has fetched and copied."""
    fetched = sum(line.startswith("[INFO] Downloaded from") for line in lines)
    copied = sum(line.startswith("[INFO] Copying") for line in lines)
    return f"Maven: {fetched} files fetched, {copied} of {len(digests())} jars in place"


def digests() -> dict[str, str]:
    """Read what each jar's SHA-256 must be."""
    pairs = (line.split() for line in LOCK.read_text().splitlines())
    return {name: digest for digest, name in pairs}


def check(folder: Path) -> None:
    """Refuse a set of jars that is not, byte for byte, the one in the lock."""
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.jar")}
    wanted = digests()
    wrong = sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
    if wrong:
        raise Missing(f"not the jars of deploy/kafka.lock: {', '.join(wrong)}; if the pom was changed, type: make lock")
