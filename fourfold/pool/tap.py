"""A tap: shows some of a variant's calls, each with its answer, to somebody beside the client.

It stands where the variant takes calls, so that one without a tap does nothing for it. The client has its answer before
the tap shows it.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from fourfold.errors import FourfoldError
from fourfold.pool.link import StreamWaiter, Waiter
from fourfold.pool.routes import Variant
from fourfold.records import Call, Reply

Show = Callable[[Call, Reply], None]


class Tap:
    """Put on a variant when it is made.

    Args:
        variant: whose calls are shown; streams are not.
        share: of the calls that are shown, above 0 and up to 1.
        show: gets a call and the model's answer to it; calls that failed are not shown.
    """

    def __init__(self, variant: Variant, share: float, show: Show) -> None:
        self.show = show
        self.shown: dict[Waiter | StreamWaiter, Waiter] = {}
        """Who waits for an answer that is to be shown, and who waits in its stead."""
        self._share = share
        self._submit, self._withdraw = variant.submit, variant.withdraw
        variant.submit, variant.withdraw = self.submit, self.withdraw

    def submit(self, waiter: Waiter) -> None:
        """Take a call. Raises what the variant raises."""
        if random.random() >= self._share:  # noqa: S311 - a sample, no secret
            self._submit(waiter)
            return
        shown = self.shown[waiter] = _Shown(self, waiter)
        try:
            self._submit(shown)
        except FourfoldError:
            del self.shown[waiter]
            raise

    def withdraw(self, waiter: Waiter | StreamWaiter) -> None:
        """The client is gone."""
        self._withdraw(self.shown.pop(waiter, waiter))


class _Shown:
    """Waits in a client's stead."""

    __slots__ = ("_client", "_tap", "arrived", "call")

    def __init__(self, tap: Tap, client: Waiter) -> None:
        self._tap = tap
        self._client = client
        self.call = client.call
        self.arrived = client.arrived

    def answer(self, reply: Reply) -> None:
        self._tap.shown.pop(self._client, None)
        self._client.answer(reply)
        if reply.status == 200:
            self._tap.show(self.call, reply)

    def fail(self, error: FourfoldError) -> None:
        self._tap.shown.pop(self._client, None)
        self._client.fail(error)
