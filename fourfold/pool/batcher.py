"""The batcher: turns waiting calls into model calls.

While every worker is busy, calls gather; as soon as one is free, they go to it as one batch, up to the model's
maximum. Nothing waits on a timer unless `max_delay` asks for it: a lone call goes at once, and under load batches grow
by themselves.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fourfold.errors import FourfoldError, ModelError, ServiceUnavailable, ThrottlingException
from fourfold.pool.link import StreamWaiter, Waiter, WorkerLink
from fourfold.pool.stats import ModelTimes

BATCH_BYTES = 8 * 1024 * 1024
"""A batch is closed when its bodies reach this size, so that one frame stays small beside the machine's memory."""
GATHER = 32
"""Calls that go at once, even while more are coming in."""


@dataclass(frozen=True)
class Batching:
    """How calls are gathered.

    Attributes:
        max_batch: most calls per model call. None: the model's own maximum.
        max_delay: seconds that the first call of a batch may wait for others while a worker is free. Default 0.
        queue_length: calls that may wait before the next is refused.
        timeout: seconds that a call may wait, and that a model call may take.
        stream_timeout: seconds that an answer in parts may take.
    """

    max_batch: int | None = None
    max_delay: float = 0.0
    queue_length: int = 1024
    timeout: float = 60.0
    stream_timeout: float = 480.0


class Batcher:
    """The waiting calls of one model and the workers that take them. Lives on the event loop; nothing here blocks."""

    def __init__(self, batching: Batching) -> None:
        self.batching = batching
        self.workers: list[WorkerLink] = []
        self.answered: Callable[[WorkerLink], None] | None = None
        """Called when a worker has answered a batch or ended a stream, before it gets the next."""
        self.rejected = 0
        self.batches = 0
        self.batched_calls = 0
        self.times = ModelTimes()
        self._waiting: deque[Waiter] = deque()
        self._streams: deque[StreamWaiter] = deque()
        self._loop = asyncio.get_running_loop()
        self._scheduled = False
        self._gathered = 0
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        """Calls that wait for a worker."""
        return len(self._waiting) + len(self._streams)

    def in_flight(self) -> int:
        """Calls that wait or are being worked on."""
        return len(self) + sum(worker.calls() for worker in self.workers)

    def oldest(self) -> float | None:
        """`loop.time()` when the call came that waits for the longest time. None: none waits."""
        return self._waiting[0].arrived if self._waiting else None

    def submit(self, waiter: Waiter) -> None:
        """Queue a call. Raises ThrottlingException where too many wait already."""
        self._admit()
        self._waiting.append(waiter)
        if not self._scheduled:
            self._scheduled = True
            self._gathered = 0
            self._loop.call_soon(self._gather)

    def submit_stream(self, waiter: StreamWaiter) -> None:
        """Queue a call whose answer comes in parts; it goes alone."""
        self._admit()
        self._streams.append(waiter)
        self._dispatch()

    def add(self, worker: WorkerLink) -> None:
        """A worker is ready to take calls."""
        worker.times = self.times
        self.workers.append(worker)
        self._dispatch()

    def remove(self, worker: WorkerLink) -> None:
        """Send this worker no more calls; what it has, it may finish."""
        if worker in self.workers:
            self.workers.remove(worker)

    def withdraw(self, waiter: Waiter | StreamWaiter) -> None:
        """Nobody waits for this call any more: if it has not been sent, it never will be."""
        queues: tuple[deque[Any], ...] = (self._waiting, self._streams)
        for queue in queues:
            if waiter in queue:
                queue.remove(waiter)

    def withdraw_if(self, unwanted: Callable[[Waiter | StreamWaiter], bool]) -> None:
        """Withdraw the waiting calls of which this is true."""
        waiting: list[Waiter | StreamWaiter] = [*self._waiting, *self._streams]
        for waiter in waiting:
            if unwanted(waiter):
                self.withdraw(waiter)

    def dispatch(self) -> None:
        """A worker may be free that was not: send what waits for it."""
        self._dispatch()

    def expire(self) -> None:
        """End what is past its deadline: waiting calls fail, and a worker that hangs is killed. Called regularly."""
        timeout = self.batching.timeout
        limit = self._loop.time() - timeout
        for queue in (self._waiting, self._streams):
            while queue and queue[0].arrived < limit:
                queue.popleft().fail(
                    ServiceUnavailable(
                        f"No worker was free within {timeout:g} s. Add instances, or send fewer calls at once."
                    )
                )
        for worker in self.workers:
            since = worker.busy_since()
            if since is not None and since < limit:
                worker.kill(
                    _too_late(
                        f"The model did not answer within {timeout:g} s (SAGEMAKER_MODEL_SERVER_TIMEOUT in the model's "
                        "Environment changes the limit). Its worker was replaced.",
                        worker,
                    )
                )
            worker.expire_streams(
                self._loop.time() - self.batching.stream_timeout,
                _too_late(
                    f"The model's stream took over {self.batching.stream_timeout:g} s (FOURFOLD_STREAM_SECONDS in the "
                    "model's Environment changes the limit).",
                    worker,
                ),
            )

    def fail_all(self, error: FourfoldError) -> None:
        """No worker will come: everything that waits is told so."""
        while self._waiting:
            self._waiting.popleft().fail(error)
        while self._streams:
            self._streams.popleft().fail(error)

    def _admit(self) -> None:
        if len(self._waiting) + len(self._streams) >= self.batching.queue_length:
            self.rejected += 1
            raise ThrottlingException(
                f"{self.batching.queue_length:,} calls wait for this variant already. Try again, or add instances."
            )

    def _gather(self) -> None:
        """Send when a turn of the event loop brought no further call.

        While calls keep coming in, turn after turn, one larger batch costs every process less than many small ones; a
        turn is tens of microseconds, and a lone call waits for one.
        """
        waiting = len(self._waiting)
        if self._gathered < waiting < GATHER:
            self._gathered = waiting
            self._loop.call_soon(self._gather)
        else:
            self._scheduled = False
            self._dispatch()

    def _dispatch(self) -> None:
        while self._waiting or self._streams:
            worker = self._free_worker()
            if worker is None:
                return
            if self._streams:
                worker.stream(self._streams.popleft(), self._freed)
                continue
            if self._hold_back(worker):
                return
            batch = self._take(self._max_batch(worker))
            self.batches += 1
            self.batched_calls += len(batch)
            worker.invoke(batch, self._freed)

    def _freed(self, worker: WorkerLink) -> None:
        if self.answered is not None:
            self.answered(worker)
        if (self._waiting and not self._scheduled) or self._streams:
            self._dispatch()

    def _free_worker(self) -> WorkerLink | None:
        best = None
        for worker in self.workers:
            if worker.outstanding < worker.capacity and (best is None or worker.outstanding < best.outstanding):
                best = worker
        return best

    def _max_batch(self, worker: WorkerLink) -> int:
        wanted = self.batching.max_batch
        return worker.max_batch if wanted is None or worker.max_batch == 1 else wanted

    def _hold_back(self, worker: WorkerLink) -> bool:
        """With `max_delay`: keep an unfilled batch until its first call has waited so long."""
        if not self.batching.max_delay or len(self._waiting) >= self._max_batch(worker):
            return False
        left = self._waiting[0].arrived + self.batching.max_delay - self._loop.time()
        if left <= 0:
            return False
        if self._timer is None:
            self._timer = self._loop.call_later(left, self._delay_is_over)
        return True

    def _delay_is_over(self) -> None:
        self._timer = None
        self._dispatch()

    def _take(self, most: int) -> list[Waiter]:
        waiting = self._waiting
        if most == 1:
            return [waiting.popleft()]
        batch: list[Waiter] = []
        size = 0
        while waiting and len(batch) < most and size < BATCH_BYTES:
            waiter = waiting.popleft()
            size += len(waiter.call.body)
            batch.append(waiter)
        return batch


def _too_late(message: str, worker: WorkerLink) -> ModelError:
    return ModelError(message, original_message="ModelInvocationTimeExceeded", log_stream=worker.spec.log_path)
