"""Runs a command and sees to it that nothing which it started outlives the worker.

    python -m fourfold.formats.guard PARENT_PID COMMAND [ARGUMENT]...

The kernel tells the guard when the worker dies, `kill -9` included, and makes it the parent of every orphan below it,
so that it can end servers that fork, daemons among them. Ends with the command's exit status.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

STOP_SECONDS = 2.0
"""What is not gone so long after SIGTERM gets SIGKILL."""

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def main(parent: int, command: list[str]) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the worker decides
    signal.signal(signal.SIGTERM, _stop)
    if os.getppid() != parent:
        return 1
    status = 1
    with suppress(SystemExit):
        try:
            status = subprocess.Popen(command, stdin=subprocess.DEVNULL, process_group=0).wait()
        except OSError as error:
            print(f"cannot start {command[0]}: {error.strerror}", file=sys.stderr, flush=True)
            status = 127
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _end_children()
    return status if status >= 0 else 128 - status


def _stop(*_: object) -> None:
    raise SystemExit


def _end_children() -> None:
    deadline = time.monotonic() + STOP_SECONDS
    _signal_all(signal.SIGTERM)
    while _children(os.getpid()):
        if time.monotonic() > deadline:
            _signal_all(signal.SIGKILL)
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.01)


def _signal_all(number: signal.Signals) -> None:
    waiting = _children(os.getpid())
    while waiting:
        pid = waiting.pop()
        waiting += _children(pid)
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:  # it has ended
        return []


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
