"""Routes: which endpoints can be called now, and which variant answers a call.

The gateway looks endpoints up in `Routes`; the control loop publishes to it when workers are ready and withdraws from
it before they go, so that what stands here can answer now.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, Literal, Protocol

from fourfold.errors import ValidationError
from fourfold.pool.frames import Loaded
from fourfold.pool.link import StreamWaiter, Waiter
from fourfold.pool.stats import CallStats

Kind = Literal["realtime", "serverless", "asynchronous"]


class Backend(Protocol):
    """What answers the calls of one variant."""

    signature: Loaded | None
    """What its model takes and gives. None: no worker has loaded it yet."""

    def submit(self, waiter: Waiter) -> None:
        """Take a call. Raises ThrottlingException or ServiceUnavailable where it cannot be taken."""

    def submit_stream(self, waiter: StreamWaiter) -> None: ...

    def withdraw(self, waiter: Waiter | StreamWaiter) -> None:
        """The client is gone."""


class Variant:
    """One production variant, ready to be called.

    Args:
        endpoint: name of the endpoint it belongs to.
        name: the variant's name.
        weight: its share of traffic is weight / sum of weights.
        backend: what answers.
        stats: carried over from the variant of the same name when an endpoint is updated.
        log_group: ARN of the log group with its workers' output, for error messages.
        count: instances that are wanted; 0 where an asynchronous variant is scaled to zero.
    """

    def __init__(
        self,
        endpoint: str,
        name: str,
        weight: float,
        backend: Backend,
        *,
        stats: CallStats | None = None,
        log_group: str = "",
        count: int = 1,
    ) -> None:
        self.endpoint = endpoint
        self.name = name
        self.log_group = log_group
        self.count = count
        self.weight = weight
        self.backend = backend
        self.submit = backend.submit
        self.stats = stats or CallStats()
        self.heads: dict[str, bytes] = {}
        self.header = b"x-amzn-invoked-production-variant: " + name.encode() + b"\r\n"


class Route:
    """An endpoint that can be called.

    Args:
        name: the endpoint's name.
        variants: what answers.
        kind: how it is called.
        config: AsyncInferenceConfig, where the kind is asynchronous.

    Raises:
        ValueError: no variant has a weight above 0.
    """

    def __init__(
        self, name: str, variants: Sequence[Variant], kind: Kind = "realtime", config: Mapping[str, Any] | None = None
    ) -> None:
        self.name = name
        self.kind = kind
        self.config = config or {}
        self.variants = tuple(variants)
        self._by_name = {variant.name: variant for variant in variants}
        self._steps = list(accumulate(variant.weight for variant in variants))
        if not self._steps or self._steps[-1] <= 0:
            raise ValueError(f"endpoint {name!r} has no variant that takes traffic")
        self.only = self.variants[0] if len(self.variants) == 1 else None

    def choose(self, target: str | None = None) -> Variant:
        """The variant for one call: the target if one is named, otherwise by weight.

        Raises:
            ValidationError: the endpoint has no variant of that name.
        """
        if target is not None:
            try:
                return self._by_name[target]
            except KeyError:
                raise ValidationError(
                    f"Variant {target} is not found for Endpoint {self.name}. "
                    f"It has {', '.join(sorted(self._by_name))}."
                ) from None
        if self.only is not None:
            return self.only
        return self.variants[bisect_right(self._steps, random.random() * self._steps[-1], hi=len(self._steps) - 1)]  # noqa: S311 - traffic shares, no secret


class Routes(dict[bytes, Route]):
    """Endpoints that can be called, by name as it stands in the request's path."""

    def publish(self, route: Route) -> None:
        """From now on calls go here; a call that was sent elsewhere before stays there."""
        self[route.name.encode()] = route

    def withdraw(self, name: str) -> None:
        self.pop(name.encode(), None)
