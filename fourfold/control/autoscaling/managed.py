"""ManagedInstanceScaling: variants that have it get a scalable target and a policy without anybody registering one."""

from __future__ import annotations

from functools import partial

from sqlalchemy.engine import Connection

from fourfold.control.autoscaling.capacities import INSTANCES, Document, Place
from fourfold.control.autoscaling.targets import TARGET, Targets, key, place_of
from fourfold.store import Store, resources

MANAGED: Document = {
    "PolicyName": "managed-instance-scaling",
    "PolicyType": "TargetTrackingScaling",
    "TargetTrackingScalingPolicyConfiguration": {
        "TargetValue": 4.0,
        "PredefinedMetricSpecification": {
            "PredefinedMetricType": "SageMakerVariantConcurrentRequestsPerModelHighResolution"
        },
        "ScaleOutCooldown": 60,
        "ScaleInCooldown": 300,
    },
}
"""The policy of variants with ManagedInstanceScaling: four calls at once for each worker. SageMaker does not say what
it goes by; most workers have one call at a time, so with four some wait, and none for long."""


async def keep(store: Store, targets: Targets) -> None:
    """Give each such variant a target that follows its calls, and take it from those that are such no more.

    A target that somebody registered for such a variant is left as it is.
    """
    wanted = await store.run(_wanted)
    known = {place_of(target): target for target in await targets.find(TARGET)}
    for place, target in known.items():
        if target.document.get("managed") and place not in wanted:
            await targets.deregister(_request(place))
    for place in wanted.keys() - known.keys():
        low, high = wanted[place]
        await targets.register(_request(place) | {"MinCapacity": low, "MaxCapacity": high})
        await targets.put_policy(_request(place) | MANAGED)
        await store.run(partial(_mark, place=place))


def _wanted(db: Connection) -> dict[Place, tuple[int, int]]:
    """Variants whose instances are to be managed, with their bounds."""
    found: dict[Place, tuple[int, int]] = {}
    for endpoint in resources.every(db, "endpoint", containing="ManagedInstanceScaling"):
        for variant in endpoint.document["wanted"]["config"]["ProductionVariants"]:
            scaling = variant.get("ManagedInstanceScaling", {})
            if scaling.get("Status") == "ENABLED" and "ModelName" in variant and endpoint.document["deployed"]:
                place = (f"endpoint/{endpoint.name}/variant/{variant['VariantName']}", INSTANCES)
                low = max(1, scaling.get("MinInstanceCount", 1))
                found[place] = (low, max(low, scaling.get("MaxInstanceCount", low)))
    return found


def _mark(db: Connection, place: Place) -> None:
    target = resources.get(db, TARGET, key(place))
    if target is not None:
        target.document = target.document | {"managed": True}
        resources.save(db, target)


def _request(place: Place) -> Document:
    return {"ServiceNamespace": "sagemaker", "ResourceId": place[0], "ScalableDimension": place[1]}
