"""What people want of endpoints: create, update, reweight, delete, describe.

Each operation checks the request and writes the desired state; nothing is started here. `reconcile` compares it with
what runs, acts, and alone writes a status. An endpoint's document holds

    wanted      {"config": …, "models": {…}, "weights": {…}, "counts": {…}}   what it should become
    deployed    the same for what answers now; None before the first deployment
    revision    goes up with each wish, so that the control loop sees a newer one while it works on an older
    failure     FailureReason
    stage       what an update does now: {"status", "since", "begun"}
    deployment  the request's DeploymentConfig

`config` and `models` are copies: deleting a model or a config that an endpoint uses does not touch the endpoint.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from sqlalchemy.engine import Connection

from fourfold.clock import Clock
from fourfold.config import Limits
from fourfold.control import deployments
from fourfold.control.autoscaling.targets import check_update
from fourfold.errors import ResourceLimitExceeded, ValidationException
from fourfold.records import Partition
from fourfold.store import Store, resources, tags
from fourfold.store.resources import Resource

Document = dict[str, Any]

BUSY = ("Creating", "Updating", "SystemUpdating", "RollingBack", "Deleting")

Capturing = Callable[[str, str], bool]
"""Would data that an endpoint captures be written to an address? Blocking."""
Announce = Callable[[str], Awaitable[None]]
"""Told the name of an endpoint that was created or is to be updated."""


class Endpoints:
    """The desired state of endpoints.

    Args:
        store: where it is kept.
        partition: for ARNs.
        limits: how many instances a variant may have.
        clock: for stamps.
        wake: tells the control loop that there is something to do.
        announce: tells the topics of asynchronous endpoints that these may be notified.
        capturing: tells whether data capture works.
    """

    def __init__(
        self,
        store: Store,
        partition: Partition,
        limits: Limits,
        clock: Clock,
        wake: Callable[[], None],
        announce: Announce,
        capturing: Capturing,
    ) -> None:
        self._store = store
        self._partition = partition
        self._clock = clock
        self._wake = wake
        self._announce = announce
        self._capturing = capturing
        self._limits = limits

    async def create(self, request: Document, pairs: Mapping[str, str]) -> Document:
        """CreateEndpoint, with its tags.

        Raises:
            ValidationException: name taken, config or model missing.
            ResourceLimitExceeded: more instances than a variant may have; the other two below raise it, too.
        """
        name = request["EndpointName"]
        now = self._clock.now()
        arn = self._partition.arn(f"endpoint/{name}")

        def write(db: Connection) -> None:
            if resources.get(db, "endpoint", name) is not None:
                raise ValidationException(f'Cannot create already existing endpoint "{arn}".')
            wanted = self._wish(db, request["EndpointConfigName"])
            self._check_counts(wanted)
            deployments.check(db, request.get("DeploymentConfig"), sum(wanted["counts"].values()))
            document = {"wanted": wanted, "deployed": None, "revision": 1, "failure": None}
            document["deployment"] = request.get("DeploymentConfig")
            resources.insert(db, Resource("endpoint", name, arn, now, now, "Creating", document))
            tags.put(db, arn, pairs)

        await self._store.run(write)
        self._wake()
        await self._announce(name)
        return {"EndpointArn": arn}

    async def update(self, request: Document) -> Document:
        """UpdateEndpoint. Raises ValidationException: unknown endpoint or config, or an update is under way."""

        def write(db: Connection) -> str:
            endpoint = self._settled(db, request["EndpointName"])
            wanted = self._wish(db, request["EndpointConfigName"])
            _refuse_change_of_kind(endpoint.document["wanted"]["config"], wanted["config"])
            check_update(db, endpoint.name, endpoint.document["wanted"]["config"], wanted["config"])
            if request.get("RetainAllVariantProperties"):
                excluded = request.get("ExcludeRetainedVariantProperties", [])
                _retain(endpoint.document["wanted"], wanted, {entry["VariantPropertyType"] for entry in excluded})
                _check_weights(wanted)
            deployment = request.get("DeploymentConfig")
            if deployment is None and request.get("RetainDeploymentConfig"):
                deployment = endpoint.document["deployment"]
            deployments.check(db, deployment, sum(wanted["counts"].values()))
            endpoint.document = endpoint.document | {"deployment": deployment}
            self._want(db, endpoint, wanted)
            return endpoint.arn

        arn = await self._store.run(write)
        self._wake()
        await self._announce(request["EndpointName"])
        return {"EndpointArn": arn}

    async def update_weights_and_capacities(self, request: Document) -> Document:
        """UpdateEndpointWeightsAndCapacities. Raises ValidationException: unknown endpoint or variant."""

        def write(db: Connection) -> str:
            endpoint = self._settled(db, request["EndpointName"])
            wanted = {**endpoint.document["wanted"]}
            weights, counts = dict(wanted["weights"]), dict(wanted["counts"])
            for change in request["DesiredWeightsAndCapacities"]:
                variant = change["VariantName"]
                if variant not in weights:
                    raise ValidationException(
                        f'Could not find variant "{variant}" in endpoint "{endpoint.arn}". '
                        f"It has {', '.join(sorted(weights))}."
                    )
                weights[variant] = change.get("DesiredWeight", weights[variant])
                wanted["config"] = _resized(wanted["config"], variant, change)
                counts[variant] = change.get("DesiredInstanceCount", counts[variant])
            wanted |= {"weights": weights, "counts": counts}
            _check_weights(wanted)
            _check_answered(wanted)
            self._want(db, endpoint, wanted)
            return endpoint.arn

        arn = await self._store.run(write)
        self._wake()
        await self._announce(request["EndpointName"])
        return {"EndpointArn": arn}

    async def delete(self, request: Document) -> Document:
        """DeleteEndpoint. Raises ValidationException: unknown endpoint."""

        def write(db: Connection) -> None:
            endpoint = self._find(db, request["EndpointName"])
            self._check_unused(db, endpoint)
            endpoint.status = "Deleting"
            endpoint.modified_at = self._clock.now()
            resources.save(db, endpoint)

        await self._store.run(write)
        self._wake()
        return {}

    def _check_unused(self, db: Connection, endpoint: Resource) -> None:
        """Raises ValidationException where inference components are on it."""
        hosted = resources.with_member(db, "inference-component", "EndpointName", endpoint.name)
        if hosted:
            names = ", ".join(one.name for one in hosted)
            raise ValidationException(
                f'Cannot delete endpoint "{endpoint.arn}" while it hosts inference components. Delete first: {names}.'
            )

    async def describe(self, request: Document) -> Document:
        """DescribeEndpoint. Raises ValidationException: unknown endpoint."""
        endpoint = await self._store.run(lambda db: self._find(db, request["EndpointName"]))
        described = description(endpoint)
        capture = described.get("DataCaptureConfig")
        if capture and capture["CaptureStatus"] == "Started":
            works = await asyncio.to_thread(self._capturing, endpoint.name, capture["DestinationS3Uri"])
            capture["CaptureStatus"] = "Started" if works else "Stopped"
        return described

    def _find(self, db: Connection, name: str) -> Resource:
        endpoint = resources.get(db, "endpoint", name)
        if endpoint is None:
            raise ValidationException(f'Could not find endpoint "{self._partition.arn(f"endpoint/{name}")}".')
        return endpoint

    def _settled(self, db: Connection, name: str) -> Resource:
        """The endpoint, where it may be changed now."""
        endpoint = self._find(db, name)
        if endpoint.status in BUSY:
            raise ValidationException(f'Cannot update in-progress endpoint "{endpoint.arn}": it is {endpoint.status}.')
        if endpoint.status == "Failed":
            raise ValidationException(
                f'Cannot update endpoint "{endpoint.arn}" because it failed. Delete it and create it again.'
            )
        return endpoint

    def _wish(self, db: Connection, config_name: str) -> Document:
        config = resources.get(db, "endpoint-config", config_name)
        if config is None:
            arn = self._partition.arn(f"endpoint-config/{config_name}")
            raise ValidationException(f'Could not find endpoint configuration "{arn}".')
        variants = all_variants(config.document)
        models = {}
        for variant in variants:
            model_name = variant.get("ModelName")
            if model_name is None:
                continue  # inference components bring their models later
            model = resources.get(db, "model", model_name)
            if model is None:
                raise ValidationException(f'Could not find model "{self._partition.arn(f"model/{model_name}")}".')
            models[model_name] = model.document
        return {
            "config_name": config_name,
            "config": config.document,
            "models": models,
            "weights": {variant["VariantName"]: variant.get("InitialVariantWeight", 1.0) for variant in variants},
            "counts": {variant["VariantName"]: variant.get("InitialInstanceCount", 1) for variant in variants},
        }

    def _check_counts(self, wanted: Document) -> None:
        for variant, count in wanted["counts"].items():
            check_count(count, self._limits, f'Variant "{variant}"', "instances")

    def _want(self, db: Connection, endpoint: Resource, wanted: Document) -> None:
        self._check_counts(wanted)
        endpoint.document = endpoint.document | {
            "wanted": wanted, "revision": endpoint.document["revision"] + 1, "failure": None,
        }  # fmt: skip
        endpoint.status = "Updating"
        endpoint.modified_at = self._clock.now()
        resources.save(db, endpoint)


def all_variants(config: Document) -> list[Document]:
    """Production and shadow variants of an endpoint config."""
    return [*config.get("ProductionVariants", []), *config.get("ShadowProductionVariants", [])]


def check_count(count: int, limits: Limits, whose: str, what: str) -> None:
    """Raises ResourceLimitExceeded where so many workers are more than one owner may have."""
    if count > limits.instances:
        raise ResourceLimitExceeded(
            f"{whose} can have {limits.instances} {what} at most, not {count}: each is a process of this machine."
        )


def _check_weights(wanted: Document) -> None:
    """Raises ValidationException where no variant would get a call."""
    if sum(wanted["weights"][variant["VariantName"]] for variant in wanted["config"]["ProductionVariants"]) <= 0:
        raise ValidationException("The weights of an endpoint's variants cannot all be 0.")


def _check_answered(wanted: Document) -> None:
    """Raises ValidationException where a variant whose calls cannot wait would have no instance."""
    if "AsyncInferenceConfig" in wanted["config"]:
        return
    for variant in all_variants(wanted["config"]):
        name = variant["VariantName"]
        if "ModelName" in variant and not wanted["counts"][name]:
            raise ValidationException(
                f'Variant "{name}" must have 1 instance at least: only asynchronous endpoints, and variants for '
                "inference components, can do without any."
            )


def artifact_folders(db: Connection) -> list[Path]:
    """Where the artifacts of endpoints that answer, or did before the server ended, are unpacked."""
    deployed = (endpoint.document["deployed"] for endpoint in resources.every(db, "endpoint"))
    return [Path(folder) for one in deployed if one for folder in one["folders"].values()]


def description(endpoint: Resource) -> Document:
    """An endpoint as DescribeEndpoint answers; absent members are left out."""
    document = endpoint.document
    now, wanted = document["deployed"] or document["wanted"], document["wanted"]
    stage = document.get("stage")
    answer = {
        "EndpointName": endpoint.name,
        "EndpointArn": endpoint.arn,
        "EndpointConfigName": now["config_name"],
        "EndpointStatus": endpoint.status,
        "FailureReason": document["failure"],
        "CreationTime": endpoint.created_at,
        "LastModifiedTime": endpoint.modified_at,
        "DataCaptureConfig": _capture_summary(now["config"]),
        "AsyncInferenceConfig": now["config"].get("AsyncInferenceConfig"),
        "ExplainerConfig": now["config"].get("ExplainerConfig"),
        "LastDeploymentConfig": document.get("deployment"),
        "PendingDeploymentSummary": _pending(document, stage) if stage and endpoint.status == "Updating" else None,
    }
    if document["deployed"]:
        for member in ("ProductionVariants", "ShadowProductionVariants"):
            variants = now["config"].get(member)
            if variants:
                answer[member] = [_variant_summary(v, now, wanted) | _variant_status(endpoint, v) for v in variants]
    return {member: value for member, value in answer.items() if value is not None}


def _variant_status(endpoint: Resource, variant: Document) -> Document:
    """What happens to a variant that answers, while something does."""
    wanted = {one["VariantName"] for one in all_variants(endpoint.document["wanted"]["config"])}
    if endpoint.status == "Deleting":
        status = "Deleting"
    elif endpoint.status in ("Updating", "SystemUpdating", "RollingBack"):
        status = "Updating" if variant["VariantName"] in wanted else "Deleting"
    else:
        return {}
    return {"VariantStatus": [{"Status": status, "StartTime": endpoint.modified_at}]}


def _pending(document: Document, stage: Document) -> Document:
    """What an update is about to bring, and how far it is."""
    wanted = document["wanted"]
    status = [{"Status": stage["status"], "StartTime": stage["since"]}]

    def summaries(member: str) -> list[Document] | None:
        variants = wanted["config"].get(member, [])
        return [
            _variant_summary(variant, wanted, wanted)
            | {"VariantStatus": status}
            | {member: variant[member] for member in ("InstanceType",) if member in variant}
            for variant in variants
        ] or None

    members = {
        "EndpointConfigName": wanted["config_name"],
        "ProductionVariants": summaries("ProductionVariants"),
        "ShadowProductionVariants": summaries("ShadowProductionVariants"),
        "StartTime": stage["begun"],
    }
    return {member: value for member, value in members.items() if value is not None}


def _variant_summary(variant: Document, now: Document, wanted: Document) -> Document:
    name = variant["VariantName"]
    summary: Document = {
        "VariantName": name,
        "CurrentWeight": now["weights"][name],
        "DesiredWeight": wanted["weights"].get(name, now["weights"][name]),
    }
    images = now.get("images", {}).get(name)
    if images:
        summary["DeployedImages"] = images
    summary |= {member: variant[member] for member in ("ManagedInstanceScaling", "RoutingConfig") if member in variant}
    serverless = variant.get("ServerlessConfig")
    if serverless:
        desired = next((one for one in all_variants(wanted["config"]) if one["VariantName"] == name), variant)
        summary["CurrentServerlessConfig"] = serverless
        summary["DesiredServerlessConfig"] = desired.get("ServerlessConfig", serverless)
    else:
        summary["CurrentInstanceCount"] = now["counts"][name]
        summary["DesiredInstanceCount"] = wanted["counts"].get(name, now["counts"][name])
    return summary


def captures(config: Document) -> bool:
    """Are the calls of its endpoints to be captured? Those of asynchronous ones are not."""
    capture = config.get("DataCaptureConfig")
    return capture is not None and capture.get("EnableCapture", True) and "AsyncInferenceConfig" not in config


def _capture_summary(config: Document) -> Document | None:
    capture = config.get("DataCaptureConfig")
    if capture is None:
        return None
    return {
        "EnableCapture": capture.get("EnableCapture", True),
        "CaptureStatus": "Started" if captures(config) else "Stopped",
        "CurrentSamplingPercentage": capture["InitialSamplingPercentage"],
        "DestinationS3Uri": capture["DestinationS3Uri"],
        "KmsKeyId": capture.get("KmsKeyId", ""),
    }


def _is_serverless(config: Document) -> bool:
    return any("ServerlessConfig" in variant for variant in all_variants(config))


def _refuse_change_of_kind(old: Document, new: Document) -> None:
    if _is_serverless(new) and not _is_serverless(old):
        raise ValidationException(
            "Cannot update an endpoint with instances to a serverless endpoint. Create a new endpoint instead."
        )
    if ("AsyncInferenceConfig" in old) != ("AsyncInferenceConfig" in new):
        raise ValidationException(
            "Cannot change an endpoint between synchronous and asynchronous. Create a new endpoint instead."
        )


def _retain(old: Document, new: Document, excluded: set[str]) -> None:
    """RetainAllVariantProperties: weights and counts of variants that stay are kept, and data capture."""
    for name in new["weights"]:
        if name in old["weights"]:
            if "DesiredWeight" not in excluded:
                new["weights"][name] = old["weights"][name]
            if "DesiredInstanceCount" not in excluded:
                new["counts"][name] = old["counts"][name]
    if "DataCaptureConfig" not in excluded and "DataCaptureConfig" in old["config"]:
        new["config"] = new["config"] | {"DataCaptureConfig": old["config"]["DataCaptureConfig"]}


def _resized(config: Document, name: str, change: Document) -> Document:
    """The config with a variant's ServerlessUpdateConfig applied, where the change has one.

    Raises:
        ValidationException: a count of instances for a serverless variant or the reverse, or bounds that do not fit.
    """
    variant = next(one for one in all_variants(config) if one["VariantName"] == name)
    serverless, update = variant.get("ServerlessConfig"), change.get("ServerlessUpdateConfig")
    if serverless is None:
        if update is not None:
            raise ValidationException(
                f'Variant "{name}" has instances: ServerlessUpdateConfig is for serverless variants. Use '
                "DesiredInstanceCount."
            )
        return config
    if "DesiredInstanceCount" in change:
        raise ValidationException(
            f'Variant "{name}" is serverless: it has no instances to count. Use ServerlessUpdateConfig.'
        )
    serverless = serverless | (update or {})
    if serverless.get("ProvisionedConcurrency", 0) > serverless["MaxConcurrency"]:
        raise ValidationException(
            f"ProvisionedConcurrency {serverless['ProvisionedConcurrency']} cannot be greater than MaxConcurrency "
            f"{serverless['MaxConcurrency']}."
        )
    variants = [
        one | {"ServerlessConfig": serverless} if one["VariantName"] == name else one
        for one in config["ProductionVariants"]
    ]
    return config | {"ProductionVariants": variants}
