"""Kinds of capacity that can be scaled: instances and provisioned concurrency of variants, copies of components."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from fourfold.errors import ValidationException
from fourfold.store import Store, resources
from fourfold.store.resources import Resource

Document = dict[str, Any]
Place = tuple[str, str]
"""ResourceId and ScalableDimension: what a scalable target, its policies, actions and activities belong to."""

INSTANCES = "sagemaker:variant:DesiredInstanceCount"
PROVISIONED = "sagemaker:variant:DesiredProvisionedConcurrency"
COPIES = "sagemaker:inference-component:DesiredCopyCount"


class Scalable(Protocol):
    """A kind of capacity: how much there is, and how to ask for another."""

    words: str
    """What is counted, e.g. `desired instance count`."""

    async def capacity(self, resource: str) -> tuple[int, bool] | None:
        """What is wanted now, and whether it has been reached. None: the resource does not exist."""

    async def change(self, resource: str, capacity: int) -> None:
        """Ask for another capacity. Raises FourfoldError where that cannot be."""

    async def least(self, resource: str) -> int:
        """The smallest capacity that it may have."""


class Variants:
    """Capacity of production variants: instances, or provisioned concurrency.

    Args:
        store: where endpoints are.
        update: UpdateEndpointWeightsAndCapacities.
        dimension: INSTANCES or PROVISIONED.
    """

    def __init__(
        self, store: Store, update: Callable[[Document], Awaitable[Document]], dimension: str = INSTANCES
    ) -> None:
        self._store = store
        self._update = update
        self._provisioned = dimension == PROVISIONED
        self.words = "provisioned concurrency" if self._provisioned else "desired instance count"

    async def capacity(self, resource: str) -> tuple[int, bool] | None:
        """As in `Scalable`."""
        found = await self._find(resource)
        if found is None:
            return None
        endpoint, variant = found
        wanted = endpoint.document["wanted"]
        settled = endpoint.status in ("InService", "OutOfService", "UpdateRollbackFailed")
        for entry in wanted["config"]["ProductionVariants"]:
            if entry["VariantName"] == variant and ("ServerlessConfig" in entry) == self._provisioned:
                provisioned = entry.get("ServerlessConfig", {}).get("ProvisionedConcurrency", 0)
                return int(provisioned if self._provisioned else wanted["counts"][variant]), settled
        return None

    async def change(self, resource: str, capacity: int) -> None:
        """As in `Scalable`."""
        endpoint, variant = endpoint_and_variant(resource)
        change: Document = {"VariantName": variant}
        if self._provisioned:
            change["ServerlessUpdateConfig"] = {"ProvisionedConcurrency": capacity}
        else:
            change["DesiredInstanceCount"] = capacity
        await self._update({"EndpointName": endpoint, "DesiredWeightsAndCapacities": [change]})

    async def least(self, resource: str) -> int:
        """As in `Scalable`. Only asynchronous endpoints can do without any: their calls wait in a queue."""
        found = await self._find(resource)
        waits = found is not None and "AsyncInferenceConfig" in found[0].document["wanted"]["config"]
        return 0 if waits and not self._provisioned else 1

    async def _find(self, resource: str) -> tuple[Resource, str] | None:
        endpoint_name, variant = endpoint_and_variant(resource)
        endpoint = await self._store.run(lambda db: resources.get(db, "endpoint", endpoint_name))
        if endpoint is None or variant not in endpoint.document["wanted"]["counts"]:
            return None
        return endpoint, variant


class Copies:
    """Copies of inference components.

    Args:
        store: where they are.
        update: UpdateInferenceComponentRuntimeConfig.
    """

    words = "desired copy count"

    def __init__(self, store: Store, update: Callable[[str, int], Awaitable[str]]) -> None:
        self._store = store
        self._update = update

    async def capacity(self, resource: str) -> tuple[int, bool] | None:
        """As in `Scalable`."""
        name = resource.partition("/")[2]
        found = await self._store.run(lambda db: resources.get(db, "inference-component", name))
        return None if found is None else (int(found.document["copies"]), found.status == "InService")

    async def change(self, resource: str, capacity: int) -> None:
        """As in `Scalable`."""
        await self._update(resource.partition("/")[2], capacity)

    async def least(self, resource: str) -> int:
        """A component may have no copies."""
        return 0


def endpoint_and_variant(resource: str) -> tuple[str, str]:
    match resource.split("/"):
        case ["endpoint", endpoint, "variant", variant]:
            return endpoint, variant
    raise ValidationException(f"The resource ID {resource} must be endpoint/<name>/variant/<name>.")
