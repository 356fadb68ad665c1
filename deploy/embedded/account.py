"""As whom may PostgreSQL run, and where may its files be? It refuses to run as root."""

import os
import pwd
import subprocess
import tempfile
from pathlib import Path

import msgspec

from deploy.software import Missing

PREFERRED = ("postgres", "nobody")
LASTING = Path("/var/lib")


class Account(msgspec.Struct, frozen=True):
    """A user of this machine without privileges."""

    name: str
    uid: int
    gid: int


def unprivileged() -> Account | None:
    """Choose whom to run as: ourselves (None), or, where we are root, somebody who may do less."""
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name: entry for entry in pwd.getpwall()}
    for name in PREFERRED:
        if entry := known.get(name):
            return Account(name, entry.pw_uid, entry.pw_gid)
    raise Missing(f"PostgreSQL may not run as root, and there is no user {' or '.join(PREFERRED)}; run as another user")


def reaches(account: Account | None, path: Path) -> bool:
    """Whether this user gets as far as this path: each directory above it has its say."""
    if account is None:
        return True
    try:
        answer = subprocess.run(
            ["/usr/bin/test", "-x", path], user=account.uid, group=account.gid, extra_groups=[], cwd="/", check=False
        )
    except PermissionError:
        raise Missing(f"root is not allowed to become {account.name} here; run as a user other than root") from None
    return answer.returncode == 0


def room(state: Path, account: Account | None) -> Path:
    """Make a directory for this user: in the state directory, or, where that is out of reach, in one of its own.

    Permissions of directories that are not ours stay as they are.
    """
    home = state / "postgres"
    if reaches(account, state):
        home.mkdir(mode=0o700, exist_ok=True)
    else:
        base = LASTING if os.access(LASTING, os.W_OK) else Path(tempfile.gettempdir())
        home = Path(tempfile.mkdtemp(prefix="weighbridge-", dir=base))
    if account:
        os.chown(home, account.uid, account.gid)
    return home
