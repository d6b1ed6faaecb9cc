"""Sticky sessions: calls that belong together go to one worker, which keeps their state.

    SessionId NEW_SESSION   a worker is chosen; the model answers `x-amzn-sagemaker-session-id: <id>; Expires=<time>`
    SessionId <id>          the same worker, until the model closes the session, it expires, or the worker is gone
                            the model closes it: `x-amzn-sagemaker-closed-session-id: <id>`

Calls of sessions wait in a batcher of their worker alone. It and the fleet's tell each other when the worker is free.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from datetime import UTC, datetime

from fourfold.errors import FourfoldError, ServiceUnavailable, ThrottlingException, ValidationError
from fourfold.pool.batcher import Batcher
from fourfold.pool.link import StreamWaiter, Waiter, WorkerLink
from fourfold.records import Call, Reply

SESSION = "x-amzn-sagemaker-session-id"
CLOSED = "x-amzn-sagemaker-closed-session-id"
NEW = "NEW_SESSION"
MOST_SESSIONS = 100_000
"""Open sessions of one fleet before further ones are refused."""
DEFAULT_SECONDS = 3600.0
"""How long a session lives whose model names no time."""


@dataclass(frozen=True)
class Session:
    worker: WorkerLink
    expires: float
    """Seconds since the epoch."""


class Sessions:
    """The sessions of one fleet.

    Args:
        batcher: the fleet's; its workers are those that sessions may be on.
    """

    def __init__(self, batcher: Batcher) -> None:
        self._batcher = batcher
        self._open: dict[str, Session] = {}
        self._pinned: dict[WorkerLink, Batcher] = {}
        self._loop = asyncio.get_running_loop()
        batcher.answered = self._freed

    def __len__(self) -> int:
        """Calls of sessions that wait for their worker."""
        return sum(map(len, self._pinned.values()))

    def __contains__(self, session: str) -> bool:
        """Is it open here? `session` is as a call names it."""
        return _id(session) in self._open

    def submit(self, waiter: Waiter) -> None:
        """Take a call that names a session, or wants a new one.

        Raises:
            ValidationError: there is no such session, or no more.
            ThrottlingException: too many sessions, or too many calls for this worker.
        """
        worker = self._worker(waiter.call)
        self._at(worker).submit(_Watched(self, waiter, worker))

    def submit_stream(self, waiter: StreamWaiter) -> None:
        """The same for an answer in parts; such a call cannot open or close a session."""
        if _named(waiter.call) == NEW:
            raise ValidationError("A session cannot be opened by a call whose answer is streamed: use InvokeEndpoint.")
        self._at(self._worker(waiter.call)).submit_stream(waiter)

    def withdraw(self, waiter: Waiter | StreamWaiter) -> None:
        """Nobody waits for this call any more."""
        for batcher in self._pinned.values():
            batcher.withdraw_if(lambda one: one is waiter or getattr(one, "client", None) is waiter)

    def tick(self) -> None:
        """Called regularly: deadlines, sessions that are over, workers that are gone."""
        now = time.time()
        for worker, batcher in list(self._pinned.items()):
            if worker.gone.is_set():
                self.forget(worker)
            else:
                batcher.expire()
        for name in [name for name, session in self._open.items() if session.expires <= now]:
            del self._open[name]

    def forget(self, worker: WorkerLink) -> None:
        """The worker takes no more calls: its sessions end with it."""
        batcher = self._pinned.pop(worker, None)
        if batcher is not None:
            batcher.fail_all(ServiceUnavailable("The session's worker is gone, and its state with it. Open a new one."))
        self._open = {name: session for name, session in self._open.items() if session.worker is not worker}

    def note(self, worker: WorkerLink, headers: dict[str, str], opening: bool) -> None:
        """What a reply says of its session."""
        text = headers.get(SESSION)
        if opening and text:
            name, expires = _parse(text)
            self._open[name] = Session(worker, expires)
        closed = headers.get(CLOSED)
        if closed:
            self._open.pop(_id(closed), None)

    def _worker(self, call: Call) -> WorkerLink:
        name = _named(call)
        if name == NEW:
            if len(self._open) >= MOST_SESSIONS:
                raise ThrottlingException(f"{MOST_SESSIONS:,} sessions are open already. Close some, or try again.")
            if not self._batcher.workers:
                raise ServiceUnavailable("No worker is ready for a new session. Try again.")
            return min(self._batcher.workers, key=lambda worker: (self._sessions_on(worker), worker.outstanding))
        session = self._open.get(name)
        if session is None or session.expires <= time.time() or session.worker.gone.is_set():
            self._open.pop(name, None)
            raise ValidationError(
                f"Session {name} is not found, or has expired, was closed, or its worker was replaced. Open a new one "
                f"with SessionId {NEW}."
            )
        return session.worker

    def _sessions_on(self, worker: WorkerLink) -> int:
        return sum(session.worker is worker for session in self._open.values())

    def _at(self, worker: WorkerLink) -> Batcher:
        batcher = self._pinned.get(worker)
        if batcher is None:
            batcher = self._pinned[worker] = Batcher(self._batcher.batching)
            batcher.times = self._batcher.times
            batcher.add(worker)
            batcher.answered = lambda _: self._let_others()
        return batcher

    def _freed(self, worker: WorkerLink) -> None:
        """It has answered a call of no session; those of sessions that wait for it can wait for no other worker."""
        batcher = self._pinned.get(worker)
        if batcher is not None:
            batcher.dispatch()

    def _let_others(self) -> None:
        """A worker has answered a session's call: in the next turn, others may have it."""
        self._loop.call_soon(self._batcher.dispatch)


class _Watched:
    """A session's call: passes on the reply, and notes what it says of the session."""

    __slots__ = ("arrived", "call", "client", "opening", "sessions", "worker")

    def __init__(self, sessions: Sessions, client: Waiter, worker: WorkerLink) -> None:
        self.sessions = sessions
        self.client = client
        self.worker = worker
        self.call = client.call
        self.arrived = client.arrived
        self.opening = _named(client.call) == NEW

    def answer(self, reply: Reply) -> None:
        if reply.headers and reply.status == 200:
            self.sessions.note(self.worker, reply.headers, self.opening)
        self.client.answer(reply)

    def fail(self, error: FourfoldError) -> None:
        self.client.fail(error)


def _named(call: Call) -> str:
    return _id((call.headers or {}).get(SESSION, ""))


def _id(text: str) -> str:
    """The id alone of `<id>; Expires=<time>`, which clients may send back as they got it."""
    return text.partition(";")[0].strip()


def _parse(text: str) -> tuple[str, float]:
    """Id and end of `<id>; Expires=2024-10-22T03:35:00Z`; an hour from now where it names none that can be read."""
    name, _, rest = text.partition(";")
    _, _, stamp = rest.partition("=")
    try:
        moment = datetime.fromisoformat(stamp.strip())
    except ValueError:
        return name.strip(), time.time() + DEFAULT_SECONDS
    return name.strip(), (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
