"""Inference components on one variant: models that come, go and scale by themselves; each call names one."""

from __future__ import annotations

from collections.abc import Mapping

from fourfold.errors import FourfoldError, ValidationError
from fourfold.pool.fleet import Fleet
from fourfold.pool.link import StreamWaiter, Waiter, WorkerLink
from fourfold.pool.several import Several
from fourfold.records import Call

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

    def get(self, name: str) -> Fleet | None:
        """The copies of a component, or None."""
        return self._by_name.get(name)

    def put(self, name: str, fleet: Fleet) -> None:
        """From now on these copies answer; what the ones before had, they may finish."""
        fleet.changed = self.changed
        self._set(self._by_name | {name: fleet})

    def remove(self, name: str) -> Fleet | None:
        """No further call reaches it; it is to be stopped by whoever removes it."""
        removed = self._by_name.get(name)
        self._set({other: fleet for other, fleet in self._by_name.items() if other != name})
        self.refused.pop(name, None)
        return removed

    def items(self) -> Mapping[str, Fleet]:
        """Copies by the component's name."""
        return self._by_name

    def _set(self, by_name: dict[str, Fleet]) -> None:
        self._by_name = by_name
        self.parts = tuple(by_name.values())

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

    def submit(self, waiter: Waiter) -> None:
        """Take a call. Raises ValidationError where it names no component that there is, or one without copies."""
        self._named(waiter.call).submit(waiter)

    def submit_stream(self, waiter: StreamWaiter) -> None:
        """Take a call that is answered in parts. Raises as `submit`."""
        self._named(waiter.call).submit_stream(waiter)

    def withdraw(self, waiter: Waiter | StreamWaiter) -> None:
        """Nobody waits for this call any more."""
        fleet = self._by_name.get((waiter.call.headers or {}).get(COMPONENT, ""))
        if fleet is not None:
            fleet.withdraw(waiter)

    def _named(self, call: Call) -> Fleet:
        name = (call.headers or {}).get(COMPONENT, "")
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
        return fleet
