"""The dispatcher: claims calls for workers that are free, has them answered, and settles each once.

    Dispatcher   all endpoints: what a former life left, renewals, what expires, what is to be forgotten
    └── Lane     one endpoint: which worker gets which calls, and when one of them takes too long

A lane says to the ledger how many calls it has room for; claims come as soon as there are any. What goes wrong without
an answer of the model (its worker died, storage was away) puts a call back. After a worker's death it is tried again
alone, so that a call that ends workers takes no others with it, and fails when it has ended MOST_FAULTS.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from sqlalchemy.engine import Connection

from fourfold.clock import Clock
from fourfold.errors import ModelError
from fourfold.modes.asynchronous.figures import Backlog, Figures
from fourfold.modes.asynchronous.ledger import LEASE, Ledger
from fourfold.modes.asynchronous.orders import (
    KEPT,
    RUN,
    Done,
    Errand,
    Order,
    Request,
    Verdict,
    decode_report,
    encode,
    request_of,
    to_json,
)
from fourfold.modes.asynchronous.publish import Publisher, kept_name, kept_token
from fourfold.pool.fleet import Fleet
from fourfold.pool.link import WorkerLink
from fourfold.pool.routes import Route, Routes, Variant
from fourfold.storage.objects import Objects, parse_location
from fourfold.store import Store, queue, resources
from fourfold.store.queue import Claim, Publication, Settlement, Token

log = logging.getLogger(__name__)

TICK = 0.05
"""Seconds between looks at workers and deadlines, while there is something to look at."""
SWEEP = 1.0
"""Seconds between looks for what expired, what another server accepted, and leases that are over."""
MOST_FAULTS = 4
"""A call fails when so many workers have ended while they worked on it alone or with others."""
FIRST_PAUSE = 0.1
MOST_PAUSE = 30.0
"""Seconds after which a call is tried again; doubled with each fault in a row."""
STORAGE_PAUSE = 2.0
"""Seconds after which a call is tried again whose input or output could not be reached."""
QUICK = 0.02
"""Seconds of work that one errand should hold: calls that are quicker go several at a time, one after the other."""
MOST_ORDERS = 64
OVERLAPPING = 100
"""Calls at once in a worker whose model overlaps them, where the endpoint's config does not say."""
PATIENCE = 0.1
"""Seconds after which a worker's errand counts as slow: what was to go next is given back."""
IDLE_SECONDS = 60.0
"""A worker that was woken for a backlog goes after so long without any; FOURFOLD_IDLE_SECONDS changes it."""
RETENTION_SWEEP = 60.0


@dataclass(eq=False)
class Running:
    """An errand on its way."""

    claims: list[Claim]
    requests: list[Request]
    variant: Variant
    since: float = 0.0
    """When its worker began, or last reported: event loop's time; 0 while it waits for another errand's end."""
    done: int = 0
    """Claims that have been reported."""
    timed_out: bool = False

    @property
    def left(self) -> list[Claim]:
        return self.claims[self.done :]

    @property
    def alone(self) -> bool:
        return len(self.claims) == 1

    @property
    def timeout(self) -> float:
        """Seconds without a report after which its worker is ended."""
        return max(request.timeout for request in self.requests[self.done :])


@dataclass(eq=False)
class Worker:
    """A worker as the lane sees it: a link and the errands on it, the oldest first."""

    link: WorkerLink
    variant: Variant
    errands: deque[Running] = field(default_factory=deque)
    ending: bool = False

    @property
    def calls(self) -> int:
        return sum(len(errand.left) for errand in self.errands)


class Lane:
    """The calls of one endpoint."""

    def __init__(self, name: str, tools: Tools) -> None:
        self.name = name
        self._tools = tools
        self._workers: dict[WorkerLink, Worker] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._seconds: float | None = None
        self._idle_since = 0.0
        self._closed = False

    @property
    def active(self) -> bool:
        return bool(self._tasks)

    def pump(self) -> None:
        """Say how many calls there is room for now."""
        if not self._closed:
            self._tools.ledger.want(self.name, sum(map(self._room, self._ready())), self._deliver)

    def tick(self) -> None:
        """Deadlines, workers that came or went, waking and sleeping."""
        now = asyncio.get_running_loop().time()
        for worker in self._workers.values():
            self._end_if_late(worker, now)
            self._hold_nobody_back(worker, now)
        self._wake_or_rest(now)
        self.pump()

    def stop(self, token: Token) -> None:
        """A running call was cancelled: its worker need not go on, where it works on nothing else."""
        for worker in self._workers.values():
            for errand in worker.errands:
                if errand.alone and (errand.claims[0].token.endpoint, errand.claims[0].token.number) == (
                    token.endpoint,
                    token.number,
                ):
                    worker.link.kill(ModelError("The call was cancelled."))

    async def close(self, grace: float) -> None:
        """Take no more; let what runs end within `grace` seconds. What does not is run again by the next server."""
        self._closed = True
        self._tools.ledger.want(self.name, 0, self._deliver)
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=grace)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # Which worker gets what

    def _route(self) -> Route | None:
        route = self._tools.routes.get(self.name.encode())
        return route if route is not None and route.kind == "asynchronous" else None

    def _ready(self) -> list[Worker]:
        """Workers that take calls now; those that still have errands are kept in mind until these have ended."""
        route = self._route()
        found = []
        for variant in route.variants if route is not None else ():
            if not isinstance(variant.backend, Fleet) or not variant.weight:
                continue
            for link in variant.backend.ready:
                worker = self._workers.get(link)
                if worker is None:
                    worker = self._workers[link] = Worker(link, variant)
                if not worker.ending and not link.gone.is_set():
                    found.append(worker)
        known = {worker.link for worker in found}
        for link in [link for link, worker in self._workers.items() if link not in known and not worker.errands]:
            del self._workers[link]
        return found

    def _concurrency(self) -> int | None:
        route = self._route()
        config = route.config.get("ClientConfig", {}) if route is not None else {}
        most: int | None = config.get("MaxConcurrentInvocationsPerInstance")
        return most

    def _batch(self, link: WorkerLink) -> int:
        """Calls that go to the model at once."""
        return max(1, min(link.max_batch, self._concurrency() or link.max_batch))

    def _width(self, link: WorkerLink) -> int:
        """Calls that go to a worker in one errand."""
        if link.capacity > 1:
            return 1
        quick = int(QUICK / self._seconds) if self._seconds else 1
        return max(self._batch(link), min(quick, MOST_ORDERS))

    def _errands(self, link: WorkerLink) -> int:
        """Errands that a worker has: those it works on, and one that is ready to go next where they are over soon."""
        if link.capacity > 1:
            return min(link.capacity, self._concurrency() or OVERLAPPING)
        return 2 if self._seconds is not None and self._seconds * self._width(link) < 4 * QUICK else 1

    def _room(self, worker: Worker) -> int:
        if worker.errands and worker.link.capacity == 1:
            first = worker.errands[0]
            if (
                any(claim.faults for claim in first.claims)
                or asyncio.get_running_loop().time() - first.since > PATIENCE
            ):
                return 0  # a call that may end its worker has it for itself; behind a slow one nobody should wait
        return max(0, self._errands(worker.link) - len(worker.errands)) * self._width(worker.link)

    def _deliver(self, claims: list[Claim]) -> None:
        """Claims have come: give them to workers, evenly."""
        doubtful = [claim for claim in claims if claim.faults]
        others = deque(claim for claim in claims if not claim.faults)
        for claim in doubtful:
            workers = [worker for worker in self._ready() if not worker.errands]
            if workers:
                self._send(workers[0], [claim])
            else:
                self._return([claim])
        while others:
            workers = sorted((w for w in self._ready() if self._room(w)), key=lambda w: (len(w.errands), w.calls))
            if not workers:
                self._return(others)
                break
            share = max(1, math.ceil(len(others) / len(workers)))
            count = min(share, self._width(workers[0].link), len(others))
            self._send(workers[0], [others.popleft() for _ in range(count)])
        self.pump()

    def _return(self, claims: Iterable[Claim]) -> None:
        """There is no worker for these after all."""
        for claim in claims:
            self._tools.ledger.give_back(claim.token, self._tools.clock.now() + TICK, fault=False)

    def _send(self, worker: Worker, claims: list[Claim]) -> None:
        errand = Running(claims, [request_of(claim.request) for claim in claims], worker.variant)
        worker.errands.append(errand)
        if len(worker.errands) == 1 or worker.link.capacity > 1:
            self._begin(worker, errand)

    def _begin(self, worker: Worker, errand: Running) -> None:
        errand.since = asyncio.get_running_loop().time()
        task = asyncio.create_task(self._run(worker, errand))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # One errand

    async def _run(self, worker: Worker, errand: Running) -> None:
        def reported(payload: bytes) -> None:
            errand.since = asyncio.get_running_loop().time()
            self._reported(errand, decode_report(payload).done)

        try:
            orders = [
                self._order(claim, request) for claim, request in zip(errand.claims, errand.requests, strict=True)
            ]
            payload = encode(Errand(self._tools.root, self._batch(worker.link), orders))
            answer = await worker.link.run_task(RUN, payload, reported)
        except ModelError as error:
            self._next(worker, errand)
            self._broken(worker, errand, error)
        except asyncio.CancelledError:
            self._next(worker, errand)
            raise
        else:
            self._next(worker, errand)
            self._reported(errand, decode_report(answer).done)
        self.pump()

    def _order(self, claim: Claim, request: Request) -> Order:
        headers = {"x-amzn-sagemaker-inference-id": claim.inference_id}
        if request.custom_attributes:
            headers["x-amzn-sagemaker-custom-attributes"] = request.custom_attributes
        bucket = parse_location(claim.output).bucket
        kept = f"{self._tools.root}/{bucket}/{KEPT}/{kept_name(claim.token)}"
        return Order(kept, claim.body, request.input, request.content_type, request.accept, headers)

    def _next(self, worker: Worker, errand: Running) -> None:
        """An errand is off its worker, which begins the next."""
        worker.errands.remove(errand)
        self._idle_since = asyncio.get_running_loop().time()
        if not worker.errands or worker.errands[0].since:
            return
        if worker.link.gone.is_set():
            self._return(worker.errands.popleft().claims)
        else:
            self._begin(worker, worker.errands[0])

    def _reported(self, errand: Running, done: list[Done]) -> None:
        """Settle what a worker has done."""
        claims = errand.left[: len(done)]
        errand.done += len(done)
        settled = []
        for claim, each in zip(claims, done, strict=True):
            if each.again:
                pause = self._pause(STORAGE_PAUSE, claim.token.attempt)
                self._tools.ledger.give_back(claim.token, self._tools.clock.now() + pause, fault=False)
                continue
            self._learn(each.model_seconds)
            self._tools.figures.answered(errand.variant, claim, each)
            settled.append((claim, _verdict(claim, each), each.body if not each.code else None))
        self._tools.settle(settled)

    def _learn(self, seconds: float) -> None:
        """How long a call takes the model, as a mean that forgets."""
        self._seconds = seconds if self._seconds is None else 0.8 * self._seconds + 0.2 * max(seconds, 1e-5)

    def _broken(self, worker: Worker, errand: Running, error: ModelError) -> None:
        """An errand ended without its answer: its worker is gone, or could not run it at all."""
        if not worker.link.gone.is_set():
            self._fail(errand.left, errand, "InternalFailure", error.message, error.original_message)
        elif errand.timed_out and len(errand.left) == 1:
            self._fail(errand.left, errand, "ModelInvocationTimeExceeded", error.message)
        else:
            for claim in errand.left:
                self._try_again(errand, claim)

    def _try_again(self, errand: Running, claim: Claim) -> None:
        if claim.faults + 1 >= MOST_FAULTS:
            self._fail(
                [claim],
                errand,
                "WorkerDied",
                f"{MOST_FAULTS} worker processes ended while they worked on this call. "
                f"`fourfold logs {self.name}` shows their output.",
            )
            return
        pause = self._pause(FIRST_PAUSE, claim.faults + 1)
        self._tools.ledger.give_back(claim.token, self._tools.clock.now() + pause, fault=True)

    def _fail(self, claims: list[Claim], errand: Running, code: str, message: str, traceback: str = "") -> None:
        done = Done(code, message, traceback)
        for claim in claims:
            self._tools.figures.answered(errand.variant, claim, done)
        self._tools.settle([(claim, _verdict(claim, done), None) for claim in claims])

    @staticmethod
    def _pause(first: float, tries: int) -> float:
        return min(MOST_PAUSE, first * 2.0 ** min(tries - 1, 10))

    # Deadlines; from zero and back

    def _end_if_late(self, worker: Worker, now: float) -> None:
        for errand in worker.errands if worker.link.capacity > 1 else list(worker.errands)[:1]:
            if errand.since and now - errand.since > errand.timeout and not worker.ending:
                worker.ending = errand.timed_out = True
                worker.link.kill(
                    ModelError(
                        f"The model did not answer within {errand.timeout:g} s (InvocationTimeoutSeconds of the call "
                        "changes the limit, up to 3600). Its worker was replaced."
                    )
                )

    def _hold_nobody_back(self, worker: Worker, now: float) -> None:
        """What was to go next waits behind a slow errand: another worker may take it."""
        if len(worker.errands) > 1 and worker.link.capacity == 1 and now - worker.errands[0].since > PATIENCE:
            self._return(worker.errands.pop().claims)

    def _wake_or_rest(self, now: float) -> None:
        """An endpoint scaled to zero gets one worker while there is work, and for a while after."""
        route = self._route()
        for variant in route.variants if route is not None else ():
            fleet = variant.backend
            if not isinstance(fleet, Fleet) or variant.count:
                continue
            if self._tools.ledger.may_wait(self.name) or self._tasks:
                self._idle_since = now
                if not fleet.wanted:
                    log.info("woken by a call", extra={"endpoint": self.name})
                    fleet.scale(1)
            elif fleet.wanted and now - self._idle_since > _idle_seconds(fleet):
                fleet.scale(0)


class Tools:
    """What every lane works with."""

    def __init__(
        self, ledger: Ledger, publisher: Publisher, routes: Routes, clock: Clock, figures: Figures, root: str
    ) -> None:
        self.ledger = ledger
        self.routes = routes
        self.clock = clock
        self.figures = figures
        self.root = root
        self._publisher = publisher
        self._settling: set[asyncio.Task[None]] = set()

    def settle(self, decided: list[tuple[Claim, Verdict, bytes | None]]) -> None:
        """Write outcomes and publish them."""
        if decided:
            task = asyncio.create_task(self._settle(decided))
            self._settling.add(task)
            task.add_done_callback(self._settling.discard)

    async def _settle(self, decided: list[tuple[Claim, Verdict, bytes | None]]) -> None:
        calls = [
            Publication(
                claim.token, claim.inference_id, claim.accepted_at, claim.output, claim.failure, claim.request,
                _text(verdict), body,
            )
            for claim, verdict, body in decided
        ]  # fmt: skip
        won = await self.ledger.settle([Settlement(call.token, call.verdict, call.body) for call in calls])
        self._publisher.add(call for call in calls if call.token in won)

    async def close(self) -> None:
        """Wait for what is being settled."""
        await asyncio.gather(*self._settling, return_exceptions=True)


class Dispatcher:
    """Every asynchronous endpoint's calls, from claim to outcome.

    Args:
        store: the queue.
        ledger: writes to it.
        publisher: makes outcomes visible.
        routes: endpoints and their workers.
        objects: buckets.
        clock: stamps and leases.
        figures: counts what happens.
        owner: whose claims these are; the same after a restart.
        root: the folder of buckets.
        retention: seconds for which the records of ended calls are kept.
    """

    def __init__(
        self,
        store: Store,
        ledger: Ledger,
        publisher: Publisher,
        routes: Routes,
        objects: Objects,
        clock: Clock,
        figures: Figures,
        *,
        owner: str,
        root: Path,
        retention: float,
    ) -> None:
        self._store = store
        self._ledger = ledger
        self._publisher = publisher
        self._objects = objects
        self._clock = clock
        self._owner = owner
        self._root = root
        self._retention = retention
        self._tools = Tools(ledger, publisher, routes, clock, figures, str(root.resolve()))
        self._figures = figures
        self._lanes: dict[str, Lane] = {}

    def lane(self, endpoint: str) -> Lane:
        """The lane of an endpoint, made when first asked for."""
        lane = self._lanes.get(endpoint)
        if lane is None:
            lane = self._lanes[endpoint] = Lane(endpoint, self._tools)
            lane.pump()
        return lane

    def look(self, endpoint: str) -> None:
        """Calls of this endpoint may be waiting."""
        self._ledger.look(endpoint)
        self.lane(endpoint)

    def cancelled(self, token: Token) -> None:
        """Nobody wants this call's answer any more."""
        self.lane(token.endpoint).stop(token)

    async def run(self) -> None:
        """Take up what a former life left, then work for ever."""
        now = self._clock.now()
        await self._store.run(lambda db: queue.release(db, self._owner, now))
        await self.sweep()
        await self._sweep_kept()
        loops = (self._tick(), self._sweeps(), self._renew(), self._forget())
        async with asyncio.TaskGroup() as tasks:
            for loop in loops:
                tasks.create_task(loop)

    async def close(self, grace: float) -> None:
        """Take no more calls; let those that run end within `grace` seconds."""
        await asyncio.gather(*(lane.close(grace) for lane in self._lanes.values()))
        settling = asyncio.create_task(self._tools.close())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2):
                await settling

    async def _tick(self) -> None:
        while True:
            for lane in list(self._lanes.values()):
                lane.tick()
            await asyncio.sleep(TICK)

    async def _sweeps(self) -> None:
        while True:
            await self._clock.sleep(SWEEP)
            await self.sweep()

    async def sweep(self) -> None:
        """What expired, what was decided and is not published, leases that are over, calls of other servers."""
        try:
            publications, backlogs, waiting = await self._store.run(self._look)
        except Exception:
            log.exception("the queue could not be read")  # the next sweep may go better
            return
        self._publisher.add(publications)
        self._figures.backlogs = backlogs
        for endpoint in waiting:
            self.look(endpoint)

    def _look(self, db: Connection) -> tuple[list[Publication], dict[str, Backlog], list[str]]:
        """What is to be published, what waits of each endpoint, and endpoints that have something to run."""
        now = self._clock.now()
        until = now + LEASE
        queue.reclaim(db, now)
        late = queue.settle_queued(db, queue.expired(now), _text(_EXPIRED), self._owner, until, 1000)
        if late:
            log.info("calls expired", extra={"calls": late})
        counts = queue.every_count(db)
        for endpoint, count in counts.items():
            if count.queued and resources.get(db, "endpoint", endpoint) is None:
                queue.settle_queued(db, queue.of_endpoint(endpoint), _text(_DELETED), self._owner, until, 1000)
        backlogs = {
            endpoint: Backlog(count.queued + count.running, queue.oldest(db, endpoint) if count.queued else None)
            for endpoint, count in counts.items()
        }
        waiting = [endpoint for endpoint, count in counts.items() if count.queued]
        return queue.to_publish(db, self._owner, now, LEASE, 1000), backlogs, waiting

    async def _renew(self) -> None:
        while True:
            await self._clock.sleep(LEASE / 3)
            until = self._clock.now() + LEASE
            try:
                await self._store.run(partial(queue.renew, owner=self._owner, until=until))
            except Exception:
                log.exception("leases could not be renewed")

    async def _forget(self) -> None:
        """Drop records that are older than the retention, and outputs that nobody will publish."""
        while True:
            await self._clock.sleep(RETENTION_SWEEP)
            before = self._clock.now() - self._retention
            try:
                dropped = 1
                while dropped:
                    dropped = await self._store.run(partial(queue.forget, before=before, most=1000))
                await self._sweep_kept()
            except Exception:
                log.exception("old records could not be dropped")

    async def _sweep_kept(self) -> None:
        """Remove kept outputs whose attempt is neither running nor about to be published."""
        found = await asyncio.to_thread(lambda: list(self._root.glob(f"*/{KEPT}/*")))
        tokens = {path: token for path in found if (token := kept_token(path.name)) is not None}
        live = await self._store.run(lambda db: queue.live(db, tokens.values()))
        for path, token in tokens.items():
            if token not in live:
                await asyncio.to_thread(path.unlink, missing_ok=True)


def _verdict(claim: Claim, done: Done) -> Verdict:
    if done.code:
        return Verdict("failed", done.code, done.message, done.traceback, attempts=claim.token.attempt)
    kept = kept_name(claim.token) if done.body is None else ""
    return Verdict(
        "completed", content_type=done.content_type, size=done.size, kept=kept, attempts=claim.token.attempt
    )  # fmt: skip


def _text(verdict: Verdict) -> str:
    return to_json(verdict).decode()


_EXPIRED = Verdict("expired", "RequestExpired", "The call waited longer than its RequestTTLSeconds.")
_DELETED = Verdict("failed", "EndpointDeleted", "The endpoint was deleted while the call waited.")


def _idle_seconds(fleet: Fleet) -> float:
    try:
        return float(fleet.spec.environment["FOURFOLD_IDLE_SECONDS"])
    except (KeyError, ValueError):
        return IDLE_SECONDS
