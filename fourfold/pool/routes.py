"""Routes: which endpoints can be called now, and which variant answers a call.

The gateway looks endpoints up in `Routes`; the control loop publishes to it when workers are ready and withdraws from
it before they go, so that what stands here can answer now.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
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
    addresses: frozenset[str]
    """Headers of calls that name which of its models, containers or components is to answer."""

    def submit(self, waiter: Waiter) -> None:
        """Take a call. Raises ThrottlingException or ServiceUnavailable where it cannot be taken."""

    def submit_stream(self, waiter: StreamWaiter) -> None: ...

    def withdraw(self, waiter: Waiter | StreamWaiter) -> None:
        """The client is gone."""

    def holds(self, session: str) -> bool:
        """Is this session open on one of its workers?"""


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
        self.submit = backend.submit  # attributes, so that a shadow or a tap can stand before the backend
        self.submit_stream = backend.submit_stream
        self.withdraw = backend.withdraw
        self.stats = stats or CallStats()
        self.heads: dict[str, bytes] = {}
        self.header = b"x-amzn-invoked-production-variant: " + name.encode() + b"\r\n"


class Shares:
    """Variants that share traffic by weight."""

    __slots__ = ("_steps", "variants")

    def __init__(self, variants: Sequence[Variant], weights: Sequence[float]) -> None:
        self.variants = tuple(variants)
        self._steps = list(accumulate(weights))

    @property
    def total(self) -> float:
        return self._steps[-1] if self._steps else 0.0

    def pick(self) -> Variant:
        """One of them, by weight; the last where all weights are 0."""
        return self.variants[bisect_right(self._steps, random.random() * self._steps[-1], hi=len(self._steps) - 1)]  # noqa: S311 - traffic shares, no secret


class Route:
    """An endpoint that can be called.

    Args:
        name: the endpoint's name.
        variants: what may answer; two of one name while an update moves traffic from one to the other.
        kind: which operations may call it.
        config: AsyncInferenceConfig, where the kind is asynchronous.
        weights: of the variants, where they are not the variants' own.
        shadows: variants that get copies of calls and answer nobody; here for metrics.

    Raises:
        ValueError: no variant has a weight above 0.
    """

    def __init__(
        self,
        name: str,
        variants: Sequence[Variant],
        kind: Kind = "realtime",
        config: Mapping[str, Any] | None = None,
        *,
        weights: Sequence[float] | None = None,
        shadows: Sequence[Variant] = (),
    ) -> None:
        weights = [variant.weight for variant in variants] if weights is None else weights
        self.name = name
        self.kind = kind
        self.config = config or {}
        self.variants = (*variants, *shadows)
        self._shares = Shares(variants, weights)
        if self._shares.total <= 0:
            raise ValueError(f"endpoint {name!r} has no variant that takes traffic")
        self._by_name: dict[str, Shares] = {}
        for one in {variant.name for variant in variants}:
            here = [n for n, variant in enumerate(variants) if variant.name == one]
            self._by_name[one] = Shares([variants[n] for n in here], [weights[n] for n in here])
        self.only = variants[0] if len(variants) == 1 else None

    def choose(self, target: str | None = None, session: str | None = None) -> Variant:
        """The variant for one call: the target if one is named, where its session is if it has one, else by weight.

        Raises:
            ValidationError: the endpoint has no variant of that name.
        """
        if self.only is not None and target is None:
            return self.only
        shares = self._shares if target is None else self._named(target)
        if session is not None:
            for variant in shares.variants:
                if variant.backend.holds(session):
                    return variant
        return shares.pick()

    def _named(self, target: str) -> Shares:
        try:
            return self._by_name[target]
        except KeyError:
            raise ValidationError(
                f"Variant {target} is not found for Endpoint {self.name}. It has {', '.join(sorted(self._by_name))}."
            ) from None


class Routes(dict[bytes, Route]):
    """Endpoints that can be called, by name as it stands in the request's path."""

    def __init__(self) -> None:
        super().__init__()
        self.expected: set[bytes] = set()
        """Endpoints that could be called before the server was restarted, and shall be again."""

    def expect(self, names: Iterable[str]) -> None:
        self.expected.update(name.encode() for name in names)

    def knows(self, name: str) -> bool:
        """Whether the endpoint can be called, or will be again."""
        return name.encode() in self or name.encode() in self.expected

    def publish(self, route: Route) -> None:
        """From now on calls go here; a call that was sent elsewhere before stays there."""
        name = route.name.encode()
        self[name] = route
        self.expected.discard(name)

    def withdraw(self, name: str) -> None:
        self.pop(name.encode(), None)
        self.expected.discard(name.encode())
