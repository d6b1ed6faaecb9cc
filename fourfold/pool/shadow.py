"""A shadow variant: gets copies of the production variant's calls; what it answers is counted and dropped.

The production call is handed on first and is not touched by what becomes of its copy: copies wait in the shadow's own
queue, and where too many wait already, one more is not made.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import msgspec

from fourfold.errors import FourfoldError, ModelError
from fourfold.pool.link import StreamWaiter, Waiter
from fourfold.pool.routes import Variant
from fourfold.records import Call, Reply

MOST_WAITING = 64
"""Copies that may be on their way; more would only hold memory, because nobody waits for their answers."""


class Shadow:
    """Copies some of a variant's calls to another.

    Args:
        production: the variant that answers.
        shadow: the variant that gets copies.
        share: of the calls that are copied, 0 to 1.
    """

    def __init__(self, production: Variant, shadow: Variant, share: float) -> None:
        self._submit = production.submit
        self._submit_stream = production.submit_stream
        self._shadow = shadow
        self._share = share
        self._loop = asyncio.get_running_loop()
        self.in_flight = 0
        self.dropped = 0
        """Copies that were not made because too many waited."""

    def submit(self, waiter: Waiter) -> None:
        """Take a production call. Raises what the production variant raises."""
        self._submit(waiter)
        self._copy_some(waiter.call, self._shadow.submit)

    def submit_stream(self, waiter: StreamWaiter) -> None:
        """Take a production call that is answered in parts. Raises as `submit`."""
        self._submit_stream(waiter)
        self._copy_some(waiter.call, self._shadow.submit_stream)

    def _copy_some(self, call: Call, submit: Callable[[_Copy], None]) -> None:
        if random.random() < self._share:  # noqa: S311 - a sample, no secret
            self._loop.call_soon(self._copy, call, submit)

    def _copy(self, call: Call, submit: Callable[[_Copy], None]) -> None:
        if self.in_flight >= MOST_WAITING:
            self.dropped += 1
            return
        copy = _Copy(self, self._shadow, msgspec.structs.replace(call, id=0), self._loop.time())
        self.in_flight += 1
        try:
            submit(copy)
        except FourfoldError as error:
            copy.fail(error)


class _Copy:
    """Waits for a copy's answer, whole or in parts, and counts it.

    Nothing cancels a copy: where a client leaves its stream, the shadow's goes on to its end or its deadline.
    """

    __slots__ = ("_copies", "_variant", "arrived", "call", "cancel")

    def __init__(self, copies: Shadow, variant: Variant, call: Call, arrived: float) -> None:
        self._copies = copies
        self._variant = variant
        self.call = call
        self.arrived = arrived
        self.cancel: Callable[[], None] = lambda: None

    def answer(self, reply: Reply) -> None:
        self.end(None if reply.status == 200 else reply)

    def part(self, body: bytes) -> None:
        """Of a stream only its end counts."""

    def end(self, failure: Reply | None) -> None:
        if failure is None:
            self._copies.in_flight -= 1
            self._variant.stats.record(self._seconds(), 200)
        else:
            self.fail(ModelError("The shadow's model answered with an error.", original_status=failure.status))

    def fail(self, error: FourfoldError) -> None:
        self._copies.in_flight -= 1
        self._variant.stats.failed(self._seconds(), error)

    def _seconds(self) -> float:
        return asyncio.get_running_loop().time() - self.arrived
