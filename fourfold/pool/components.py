"""Inference components on one variant: models that come, go and scale by themselves; each call names one."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from typing import TypeVar

from fourfold.errors import FourfoldError, ValidationError
from fourfold.pool.fleet import Fleet
from fourfold.pool.link import StreamWaiter, Waiter, WorkerLink
from fourfold.pool.retired import Retired
from fourfold.pool.sessions import SESSION
from fourfold.pool.several import Several
from fourfold.records import Call

T = TypeVar("T")

COMPONENT = "x-amzn-sagemaker-inference-component"


class Components(Several):
    """The components of one variant. Without any it is well all the same.

    Attributes:
        refused: calls for a component that has no copies, by its name; what scaling from zero looks at.
    """

    addresses = frozenset((COMPONENT,))

    def __init__(self) -> None:
        super().__init__()
        self.refused: dict[str, int] = {}
        self._by_name: dict[str, Fleet] = {}
        self._arriving: dict[str, tuple[Fleet, float]] = {}
        self._retired = Retired()

    def get(self, name: str) -> Fleet | None:
        """The copies of a component, or None."""
        return self._by_name.get(name)

    def put(self, name: str, fleet: Fleet) -> None:
        """From now on these copies answer; what the ones before had, they may finish."""
        self._set(self._by_name | {name: fleet}, _without(self._arriving, name))

    def share(self, name: str, fleet: Fleet, share: float) -> None:
        """A share of a component's calls goes to other copies from now on; with 0, none does."""
        arriving = _without(self._arriving, name)
        self._set(self._by_name, arriving | {name: (fleet, share)} if share else arriving)

    def remove(self, name: str) -> Fleet | None:
        """No further call reaches it; it is to be stopped by whoever removes it."""
        removed = self._by_name.get(name)
        self._set(_without(self._by_name, name), _without(self._arriving, name))
        self.refused.pop(name, None)
        return removed

    def retire(self, fleet: Fleet) -> None:
        """End copies that get no call any more when they have answered those that they have."""
        self._retired.add(fleet)

    def items(self) -> Mapping[str, Fleet]:
        """Copies by the component's name."""
        return self._by_name

    def copies_of(self, name: str) -> tuple[Fleet, ...]:
        """Every fleet that answers calls for a component: two while an update moves them."""
        fleets = (self._by_name.get(name), self._arriving.get(name, (None,))[0])
        return tuple(fleet for fleet in fleets if fleet is not None)

    def _set(self, by_name: dict[str, Fleet], arriving: dict[str, tuple[Fleet, float]]) -> None:
        before = list(self.fleets())
        self._by_name, self._arriving = by_name, arriving
        self.parts = (*by_name.values(), *(fleet for fleet, _ in arriving.values()))
        for fleet in self.parts:
            fleet.changed = self.changed
        for fleet in before:
            if fleet not in self.parts:
                self.batcher.forget(fleet.batcher)

    @property
    def ready(self) -> list[WorkerLink]:
        return [worker for fleet in self.parts for worker in fleet.ready]

    @property
    def wanted(self) -> int:
        """A component that is not well is its own affair, not the endpoint's."""
        return 0

    @property
    def failure(self) -> FourfoldError | None:
        return None

    async def start(self, count: int) -> None:
        """Components start by themselves."""

    async def reach(self, count: int) -> None:
        """The count of instances is not that of copies."""

    async def stop(self, grace: float = 30.0) -> None:
        """As `Several`; copies that others have replaced end, too."""
        await asyncio.gather(super().stop(grace), self._retired.end(grace))

    def tick(self) -> None:
        """As `Several`."""
        super().tick()
        self._retired.tick()

    def submit(self, waiter: Waiter) -> None:
        """Take a call. Raises ValidationError where it names no component that there is, or one without copies."""
        self._named(waiter.call).submit(waiter)

    def submit_stream(self, waiter: StreamWaiter) -> None:
        """Take a call that is answered in parts. Raises as `submit`."""
        self._named(waiter.call).submit_stream(waiter)

    def withdraw(self, waiter: Waiter | StreamWaiter) -> None:
        """Nobody waits for this call any more."""
        for fleet in self.copies_of((waiter.call.headers or {}).get(COMPONENT, "")):
            fleet.withdraw(waiter)

    def _named(self, call: Call) -> Fleet:
        headers = call.headers or {}
        name = headers.get(COMPONENT, "")
        fleet = self._by_name.get(name)
        if fleet is None:
            what = f"Inference component {name} is not found" if name else "Inference Component Name header is required"
            raise ValidationError(f"{what}: this endpoint has {', '.join(self._by_name) or 'no components yet'}.")
        if not fleet.wanted:
            self.refused[name] = self.refused.get(name, 0) + 1
            raise ValidationError(
                "Inference Component has no capacity to process this request. ApplicationAutoScaling may be "
                "in-progress (if configured) or try to increase the capacity by invoking "
                "UpdateInferenceComponentRuntimeConfig API."
            )
        if name in self._arriving:
            return self._shared(fleet, *self._arriving[name], headers.get(SESSION))
        return fleet

    def _shared(self, fleet: Fleet, other: Fleet, share: float, session: str | None) -> Fleet:
        """One of two: where its session is if a call has one, else by their shares."""
        if session is not None and (fleet.holds(session) or other.holds(session)):
            return fleet if fleet.holds(session) else other
        return other if random.random() < share else fleet  # noqa: S311 - traffic shares, no secret


def _without(mapping: dict[str, T], name: str) -> dict[str, T]:
    return {other: value for other, value in mapping.items() if other != name}
