"""The process that holds many loaded models.

Each has a socket of its own to the gateway, as if it were a process: one worker more or less is one socket more or
less. Threads wait for all of them together, and the kernel wakes the one that has waited for the shortest time: its
stack is still in the caches, whichever model is called.
"""

from __future__ import annotations

import asyncio
import os
import select
import socket
import threading
import traceback

from fourfold.formats.base import AsyncModel, Model
from fourfold.pool.frames import Load, ToWorker
from fourfold.pool.processes import resident_bytes, trim_memory
from fourfold.pool.worker import AsyncWorker, Connection, answer, load_or_tell

THREADS = 2 + 2 * (os.cpu_count() or 1)
"""Models that are loaded or called at once: enough that cores are busy while some wait."""
KEPT_BYTES = 16 * 1024 * 1024
"""Memory that is kept for the next model when one goes: to give it back and take it again takes a millisecond."""

_ONCE = select.EPOLLIN | select.EPOLLONESHOT


class Residents:
    """The models of this process, and the threads that answer for them."""

    def __init__(self) -> None:
        self._poll = select.epoll()
        self._here: dict[int, _Resident] = {}
        self._tidy = resident_bytes("self")
        for _ in range(THREADS):
            threading.Thread(target=self._serve, daemon=True).start()

    def add(self, sock: socket.socket) -> None:
        """Load the model that the socket's first frame names, then answer until the socket ends."""
        self._here[sock.fileno()] = _Resident(sock)
        self._poll.register(sock, _ONCE)

    def _serve(self) -> None:
        while True:
            for descriptor, _ in self._poll.poll(maxevents=1):
                if self._here[descriptor].answer():
                    self._poll.modify(descriptor, _ONCE)
                else:
                    self._poll.unregister(descriptor)
                    self._here.pop(descriptor).end()
                    self._tidy_up()

    def _tidy_up(self) -> None:
        """Give back what models left behind that are gone."""
        if resident_bytes("self") > self._tidy + KEPT_BYTES:
            trim_memory()
            self._tidy = resident_bytes("self")


class _Resident:
    """One model and its socket."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._connection = Connection(sock)
        self._model: Model | None = None

    def answer(self) -> bool:
        """Do what has come. False: it is to end."""
        try:
            messages = self._connection.received()
            return messages is not None and all(map(self._answer, messages))
        except (OSError, SystemExit):  # the gateway is gone, or was told that the model cannot be loaded
            return False
        except BaseException:
            traceback.print_exc()
            return False

    def _answer(self, message: ToWorker) -> bool:
        if self._model is not None:
            return answer(self._connection, self._model, message)
        if not isinstance(message, Load):
            return False
        model = load_or_tell(self._connection, message.spec)
        if isinstance(model, AsyncModel):
            threading.Thread(target=_overlap, args=(self._socket.dup(), model), daemon=True).start()
            return False
        self._model = model
        return True

    def end(self) -> None:
        self._socket.close()
        if self._model is not None:
            self._model.close()


def _overlap(sock: socket.socket, model: AsyncModel) -> None:
    """Answer for a model whose calls overlap: it needs an event loop, and a thread for it."""
    with sock:
        try:
            asyncio.run(AsyncWorker(sock, model, None).serve())
        finally:
            model.close()
