"""What the examples share: a server of their own, as a user would start it, with nothing left behind."""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

FOURFOLD = [sys.executable, "-m", "fourfold"]


@contextmanager
def server() -> Iterator[str]:
    """Run `fourfold serve` on a free port and a temporary data folder, and point boto3 at it; gives the address."""
    with tempfile.TemporaryDirectory(prefix="fourfold-") as data_dir:
        port = str(_free_port())
        command = [*FOURFOLD, "serve", "--port", port, "--data-dir", data_dir, "--log-level", "warning"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        ready = process.stdout.readline().split()
        if ready[:1] != ["ready"]:
            sys.exit("the server did not start")
        command = [*FOURFOLD, "env", "--port", port, "--data-dir", data_dir]
        exports = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        os.environ |= dict(word.split("=", 1) for word in shlex.split(exports) if "=" in word)
        try:
            yield ready[1]
        finally:
            process.terminate()
            process.wait(timeout=40)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
