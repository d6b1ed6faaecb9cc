"""The ledger: every change of the queue, many to one transaction and one sync of the disk.

While a transaction is being written, what is wanted next gathers; then it is written together. In one transaction:
outcomes, what is given back, ends, acceptances, and last the claims of whoever has room, so that a call that comes when
a worker is free is accepted and claimed by the same sync. Clients that wait for their acceptance and then send the next
call are kept together: otherwise they fall into two groups that have every other sync, each at the full price of one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fourfold.clock import Clock
from fourfold.errors import FourfoldError, InternalFailure, ServiceUnavailable, ThrottlingException
from fourfold.records import Outcome
from fourfold.store import Store, queue
from fourfold.store.queue import Accepted, Claim, NewCall, Return, Room, Settlement, Token

log = logging.getLogger(__name__)

LEASE = 30.0
"""Seconds for which a call is claimed; renewed while its dispatcher lives."""
MOST_AT_ONCE = 512
"""Acceptances that one transaction takes, so that nobody waits long for the others."""
SEVERAL = 4
"""Of so many acceptances in one transaction the next one expects as many: their clients will come again together."""
GATHER = 0.002
"""Seconds for which it waits for them."""
TRIES = 3
"""How often a transaction is tried at once that another server's was in the way of."""
PAUSE = 0.5
"""Seconds after which a transaction that could not be written is tried again."""

Deliver = Callable[[list[Claim]], None]


class Waiter(Protocol):
    """Whoever sent a call. Told on the event loop, exactly one of the two, exactly once."""

    def accepted(self, accepted: Accepted) -> None:
        """It is on disk."""

    def fail(self, error: FourfoldError) -> None:
        """It was not accepted."""


class BacklogFull(ThrottlingException):
    """The endpoint's queue is full."""

    retry_after = 5


class DiskFull(ServiceUnavailable):
    """There is no room for another call."""

    retry_after = 30


@dataclass(slots=True)
class _Acceptance:
    endpoint: str
    call: NewCall
    most: int
    waiter: Waiter


@dataclass
class _Work:
    """What one transaction is to write."""

    settlements: list[tuple[Sequence[Settlement], asyncio.Future[set[Token]]]] = field(default_factory=list)
    returns: list[Return] = field(default_factory=list)
    ends: list[tuple[Sequence[tuple[Token, Outcome]], Callable[[], None]]] = field(default_factory=list)
    acceptances: list[_Acceptance] = field(default_factory=list)
    claims: dict[str, int] = field(default_factory=dict)


@dataclass
class _Written:
    """What came of it."""

    won: set[Token]
    accepted: list[Accepted | None]
    claims: dict[str, list[Claim]]


class Ledger:
    """Writes changes of the queue together.

    Args:
        store: where the queue is.
        clock: stamps and leases.
        owner: whose claims these are.
        room: is there disk space for so many more bytes?
    """

    def __init__(self, store: Store, clock: Clock, owner: str, room: Callable[[int], bool] = lambda _: True) -> None:
        self._store = store
        self._clock = clock
        self._owner = owner
        self._room = room
        self._work = _Work()
        self._wants: dict[str, tuple[int, Deliver]] = {}
        self._waiting: set[str] = set()
        self._news = asyncio.Event()
        self._expected = 0
        self._gathered = asyncio.Event()

    def accept(self, endpoint: str, call: NewCall, most: int, waiter: Waiter) -> None:
        """Queue a call.

        Args:
            most: calls that may be queued.
            waiter: is told when the call is on disk; or BacklogFull, or DiskFull.
        """
        self._work.acceptances.append(_Acceptance(endpoint, call, most, waiter))
        self._news.set()
        if len(self._work.acceptances) >= self._expected:
            self._gathered.set()

    def want(self, endpoint: str, most: int, deliver: Deliver) -> None:
        """There is room for `most` calls of an endpoint; what comes is handed to `deliver`. Replaces the last want."""
        self._wants[endpoint] = (most, deliver)
        if most and endpoint in self._waiting:
            self._news.set()

    def look(self, endpoint: str) -> None:
        """Calls of this endpoint may be waiting."""
        self._waiting.add(endpoint)
        if self._wants.get(endpoint, (0, None))[0]:
            self._news.set()

    def may_wait(self, endpoint: str) -> bool:
        """May calls of this endpoint be waiting? False is certain, for those that came here."""
        return endpoint in self._waiting

    async def settle(self, settlements: Sequence[Settlement]) -> set[Token]:
        """Decide what becomes of claimed calls; returns those whose claim still held."""
        done: asyncio.Future[set[Token]] = asyncio.get_running_loop().create_future()
        self._work.settlements.append((settlements, done))
        self._news.set()
        return await done

    def give_back(self, token: Token, not_before: float, *, fault: bool) -> None:
        """Queue a claimed call again."""
        self._work.returns.append(Return(token, not_before, fault))
        self._news.set()

    def finish(self, ends: Sequence[tuple[Token, Outcome]], written: Callable[[], None]) -> None:
        """The outcomes of these can be seen. `written` is called when that is on disk, too."""
        self._work.ends.append((ends, written))
        self._news.set()

    async def run(self) -> None:
        """Write, for ever."""
        while True:
            await self._news.wait()
            if len(self._work.acceptances) < self._expected:
                await self._gathered.wait()
            self._news.clear()
            await self._write(self._take())

    async def close(self) -> None:
        """Write what is left, without claims. Call it when `run` has been cancelled."""
        self._wants.clear()
        await self._write(self._take())

    def _take(self) -> _Work:
        work, self._work = self._work, _Work()
        if len(work.acceptances) > MOST_AT_ONCE:
            self._work.acceptances = work.acceptances[MOST_AT_ONCE:]
            work.acceptances = work.acceptances[:MOST_AT_ONCE]
            self._news.set()
        size = sum(len(each.call.body or b"") + 1024 for each in work.acceptances)
        if size and not self._room(size):
            self._refuse(work, DiskFull("The disk is full: nothing more is accepted until there is room. Try again."))
        self._waiting.update(each.endpoint for each in work.acceptances)
        work.claims = {
            endpoint: most for endpoint, (most, _) in self._wants.items() if most and endpoint in self._waiting
        }
        self._waiting.difference_update(work.claims)  # until it is known that there are more, or `look` says so
        return work

    async def _write(self, work: _Work) -> None:
        for left in reversed(range(TRIES)):
            try:
                written = await self._store.run(lambda db: self._apply(db, work))
            except Exception as error:
                if left and _is_race(error):
                    continue
                await self._failed(work, error)
                return
            self._hand_out(work, written)
            asyncio.get_running_loop().call_soon(self._tell, work, written)  # while the next transaction is written
            self._expect(len(work.acceptances))
            return

    def _expect(self, clients: int) -> None:
        """These are told now, and most send their next call at once: one transaction is to serve them all again."""
        self._expected = clients if clients >= SEVERAL else 0
        self._gathered.clear()
        asyncio.get_running_loop().call_later(GATHER, self._gathered.set)

    def _apply(self, db: Connection, work: _Work) -> _Written:
        now = self._clock.now()
        changes = queue.Changes()
        won = queue.settle(db, [each for settlements, _ in work.settlements for each in settlements])
        queue.give_back(db, work.returns, changes)
        queue.finish(db, [end for ends, _ in work.ends for end in ends], now, changes)
        accepted, claims = self._accept(db, work, now, changes)
        for endpoint, most in sorted(work.claims.items()):
            if not claims.get(endpoint):
                claims[endpoint] = queue.claim(db, endpoint, self._owner, now, LEASE, most, changes)
        changes.write(db)
        return _Written(won, accepted, claims)

    def _accept(
        self, db: Connection, work: _Work, now: float, changes: queue.Changes
    ) -> tuple[list[Accepted | None], dict[str, list[Claim]]]:
        """Queue the calls of all endpoints; what was claimed with that."""
        by_endpoint: dict[str, list[int]] = {}
        for i, each in enumerate(work.acceptances):
            by_endpoint.setdefault(each.endpoint, []).append(i)
        answers: list[Accepted | None] = [None] * len(work.acceptances)
        claims: dict[str, list[Claim]] = {}
        for endpoint in sorted(by_endpoint):
            places = by_endpoint[endpoint]
            new = [work.acceptances[i].call for i in places]
            room = Room(self._owner, LEASE, work.claims.get(endpoint, 0))
            most = work.acceptances[places[0]].most
            some, claims[endpoint] = queue.accept(db, endpoint, new, now, most, changes, room)
            for i, answer in zip(places, some, strict=True):
                answers[i] = answer
        return answers, claims

    def _hand_out(self, work: _Work, written: _Written) -> None:
        """Give claims to those who wanted them."""
        for endpoint, claims in written.claims.items():
            if len(claims) == work.claims.get(endpoint):
                self.look(endpoint)
            most, deliver = self._wants.get(endpoint, (0, None))
            if claims and deliver is not None:
                self._wants[endpoint] = (max(0, most - len(claims)), deliver)
                deliver(claims)

    def _tell(self, work: _Work, written: _Written) -> None:
        """Tell everybody else what came of it."""
        for given in work.returns:
            self._later(given.token.endpoint, given.not_before)
        for each, answer in zip(work.acceptances, written.accepted, strict=True):
            if answer is not None:
                each.waiter.accepted(answer)
            else:
                each.waiter.fail(
                    BacklogFull(
                        f"{each.most:,} calls wait for endpoint {each.endpoint} already (--max-backlog). Try again "
                        "later, or add instances."
                    )
                )
        for _, tell in work.ends:
            tell()
        for settlements, settled in work.settlements:
            if not settled.done():
                settled.set_result({each.token for each in settlements} & written.won)

    def _later(self, endpoint: str, not_before: float) -> None:
        """Look for a call that was given back when it may be tried again."""
        delay = not_before - self._clock.now()
        if delay <= 0:
            self.look(endpoint)
        else:
            asyncio.get_running_loop().call_later(delay + 0.001, self.look, endpoint)

    async def _failed(self, work: _Work, error: Exception) -> None:
        """Acceptances are refused; all else is true already and is written when that is possible again."""
        log.error("the queue could not be written", extra={"reason": f"{type(error).__name__}: {error}"})
        full = isinstance(error, sa.exc.OperationalError) and "full" in str(error.orig).lower()
        self._refuse(
            work,
            DiskFull("The disk is full: the call was not accepted. Try again when there is room.")
            if full
            else InternalFailure(f"The call could not be written ({type(error).__name__}) and was not accepted."),
        )
        self._work.settlements = work.settlements + self._work.settlements
        self._work.returns = work.returns + self._work.returns
        self._work.ends = work.ends + self._work.ends
        self._waiting.update(work.claims)
        await asyncio.sleep(PAUSE)
        self._news.set()

    def _refuse(self, work: _Work, error: FourfoldError) -> None:
        for each in work.acceptances:
            each.waiter.fail(error)
        work.acceptances = []


def _is_race(error: Exception) -> bool:
    """Did another server write at the same moment: a call with the same key, or rows in another order?"""
    return isinstance(error, sa.exc.IntegrityError) or "deadlock" in str(error).lower()
