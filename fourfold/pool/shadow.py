"""A shadow variant: gets copies of the production variant's calls; what it answers is counted and dropped.

The production call is handed on first and is not touched by what becomes of its copy: copies wait in the shadow's own
queue, and where too many wait already, one more is not made.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

from fourfold.errors import FourfoldError, ModelError
from fourfold.pool.link import Waiter
from fourfold.pool.routes import Variant
from fourfold.records import Call, Reply

MOST_WAITING = 64
"""Copies that may be on their way; more would only hold memory, because nobody waits for their answers."""


class Shadow:
    """Copies some of a variant's calls to another.

    Args:
        submit: how the production variant takes a call.
        variant: the shadow.
        share: of the calls that are copied, 0 to 1.
    """

    def __init__(self, submit: Callable[[Waiter], None], variant: Variant, share: float) -> None:
        self._submit = submit
        self._variant = variant
        self._share = share
        self._loop = asyncio.get_running_loop()
        self.in_flight = 0
        self.dropped = 0
        """Copies that were not made because too many waited."""

    def submit(self, waiter: Waiter) -> None:
        """Take a production call. Raises what the production variant raises."""
        self._submit(waiter)
        if random.random() < self._share:  # noqa: S311 - a sample, no secret
            self._loop.call_soon(self._copy, waiter.call)

    def _copy(self, call: Call) -> None:
        if self.in_flight >= MOST_WAITING:
            self.dropped += 1
            return
        copy = Call(0, call.body, call.content_type, call.accept, call.headers)
        waiter = _Copy(self, self._variant, copy, self._loop.time())
        self.in_flight += 1
        try:
            self._variant.submit(waiter)
        except FourfoldError as error:
            waiter.fail(error)


class _Copy:
    """Waits for a copy's answer and counts it."""

    __slots__ = ("_shadow", "_variant", "arrived", "call")

    def __init__(self, shadow: Shadow, variant: Variant, call: Call, arrived: float) -> None:
        self._shadow = shadow
        self._variant = variant
        self.call = call
        self.arrived = arrived

    def answer(self, reply: Reply) -> None:
        if reply.status == 200:
            self._shadow.in_flight -= 1
            self._variant.stats.record(self._seconds(), 200)
        else:
            self.fail(ModelError("The shadow's model answered with an error.", original_status=reply.status))

    def fail(self, error: FourfoldError) -> None:
        self._shadow.in_flight -= 1
        self._variant.stats.failed(self._seconds(), error)

    def _seconds(self) -> float:
        return asyncio.get_running_loop().time() - self.arrived
