"""The process that forks workers, on its own."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys


def test_a_zygote_whose_gateway_ends_with_a_report_unread_ends_without_a_word() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = [sys.executable, "-m", "fourfold.pool.zygote", str(theirs.fileno()), str(os.getpid())]
    with theirs:
        zygote = subprocess.Popen(command, pass_fds=[theirs.fileno()], stderr=subprocess.PIPE)
    with ours:
        assert select.select([ours], [], [], 60)[0], "it says that it is ready"
    assert zygote.communicate(timeout=60) == (None, b"")
    assert zygote.returncode == 0
