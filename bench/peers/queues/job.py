"""The no-op job of every queue: says that it ran, by a datagram to the driver."""

import os
import socket

_socket = None


def done() -> None:
    global _socket
    if _socket is None:
        _socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    _socket.sendto(b"1", os.environ["BENCH_SOCKET"])
