"""A real HTTP server that takes what topics send."""

from __future__ import annotations

import json
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Received:
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def type(self) -> str:
        return self.headers["x-amz-sns-message-type"]

    def json(self) -> dict[str, Any]:
        return json.loads(self.body)


class Receiver:
    """Keeps what it is sent, confirms subscriptions, and answers as it is told.

    Args:
        confirm: visit the SubscribeURL of confirmations.
        statuses: answers to the first notifications; 200 to all others.
    """

    def __init__(self, *statuses: int, confirm: bool = True) -> None:
        self.received: list[Received] = []
        self.statuses = list(statuses)
        self._lock = threading.Lock()
        self._open = threading.Event()
        self._open.set()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                got = Received(self.path, {name.lower(): value for name, value in self.headers.items()}, body)
                self.send_response(receiver.take(got))
                self.send_header("content-length", "0")
                with suppress(BrokenPipeError, ConnectionResetError):  # the server that sent it was killed
                    self.end_headers()
                if confirm and got.type == "SubscriptionConfirmation":
                    with urllib.request.urlopen(got.json()["SubscribeURL"], timeout=10) as answer:
                        answer.read()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    @contextmanager
    def closed(self) -> Iterator[None]:
        """Let whoever sends wait for an answer."""
        self._open.clear()
        try:
            yield
        finally:
            self._open.set()

    def take(self, got: Received) -> int:
        with self._lock:
            self.received.append(got)
            if got.type == "Notification" and self.statuses:
                return self.statuses.pop(0)
        self._open.wait(20)
        return 200

    @property
    def notifications(self) -> list[Received]:
        with self._lock:
            return [got for got in self.received if got.type == "Notification"]

    @property
    def messages(self) -> list[str]:
        return [got.json()["Message"] for got in self.notifications]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
