"""How does a server outlive the command that starts it? This program leaves, and what it leaves behind is the server.

It reads an Order, records which process the server will be, becomes the right user and turns into the server. Whoever
runs it is answered when that is done: status 0, or an error on stderr.
"""

import os
import sys
import traceback

from deploy.embedded.process import Order, birth, read, written


def main() -> int:
    """Fork, and answer for the child: an empty answer means that it has become the server."""
    order = read(sys.stdin.buffer.read(), Order)
    reader, writer = os.pipe()  # closed by exec, hence the end of file that means success
    if os.fork() == 0:
        try:
            become(order)
        except BaseException:  # noqa: BLE001 - the child must answer, whatever happened, and never return
            os.write(writer, traceback.format_exc(limit=1).encode())
        os._exit(1)
    os.close(writer)
    with os.fdopen(reader, "rb") as answers:
        answer = answers.read()
    sys.stderr.buffer.write(answer)
    return 1 if answer else 0


def become(order: Order) -> None:
    """Turn this process into the server."""
    os.setsid()
    os.chdir(order.daemon.home)
    us = birth(os.getpid())
    assert us  # we are
    half = order.daemon.record.with_suffix(".half")
    half.write_bytes(written(us))
    half.replace(order.daemon.record)
    log = os.open(order.daemon.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for number, source in enumerate((nothing, log, log)):
        os.dup2(source, number)
    if order.account:
        os.setgroups([])
        os.setgid(order.account.gid)
        os.setuid(order.account.uid)
    os.execve(order.command[0], order.command, order.environment)  # noqa: S606 - no shell is what is wanted


if __name__ == "__main__":
    sys.exit(main())
