"""The `sagemaker` service: models, endpoint configs, endpoints, tags.

Requests arrive validated against AWS's service model; here are the rules of meaning. Documents keep the request's
members as they were given, so that Describe returns also what has no effect here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from sqlalchemy.engine import Connection

from fourfold.api.protocol import ApiCall, operation
from fourfold.clock import Clock
from fourfold.control.composites import is_composite
from fourfold.control.endpoints import Endpoints, all_variants
from fourfold.control.packages import with_packages
from fourfold.errors import ResourceLimitExceeded, ValidationException
from fourfold.records import Partition
from fourfold.storage.objects import parse_location
from fourfold.store import Store, listing, resources, tags
from fourfold.store.resources import Resource

Document = dict[str, Any]

MOST_TAGS = 50
MOST_CONTAINERS = 15


class SageMaker:
    """Operations on models, endpoint configs, endpoints and tags."""

    service: ClassVar = "sagemaker"

    def __init__(self, store: Store, endpoints: Endpoints, partition: Partition, clock: Clock) -> None:
        self._store = store
        self._endpoints = endpoints
        self._partition = partition
        self._clock = clock

    # Models

    @operation(
        "CreateModel",
        kept=("*.S3DataType", "*.CompressionType", "*.S3DataSource.ETag", "VpcConfig", "EnableNetworkIsolation"),
    )
    async def create_model(self, call: ApiCall) -> Document:
        _check_containers(call.params)
        params = await self._store.run(lambda db: with_packages(db, call.params, self._partition))
        return {"ModelArn": await self._create("model", params, "ModelName", "model")}

    @operation("DescribeModel")
    async def describe_model(self, call: ApiCall) -> Document:
        model = await self._find("model", call.params["ModelName"], "model")
        answer = {"EnableNetworkIsolation": False} | model.document
        if "asked" in answer:  # what its model packages stand for is not told
            answer = answer | {"PrimaryContainer": None, "Containers": None} | answer["asked"]
        return answer | {"ModelArn": model.arn, "CreationTime": model.created_at}

    @operation("ListModels")
    async def list_models(self, call: ApiCall) -> Document:
        page = await self._page("model", call.params)
        summaries = [
            {"ModelName": model.name, "ModelArn": model.arn, "CreationTime": model.created_at} for model in page.entries
        ]
        return {"Models": summaries, "NextToken": page.next_token}

    @operation("DeleteModel")
    async def delete_model(self, call: ApiCall) -> Document:
        return await self._delete("model", call.params["ModelName"], "model")

    # Endpoint configs

    @operation(
        "CreateEndpointConfig",
        kept=(
            "EnableNetworkIsolation", "ExplainerConfig", "KmsKeyId", "VpcConfig",
            "*.InstancePools", "*.KmsKeyId", "*.RoutingConfig",
        ),
    )  # fmt: skip
    async def create_endpoint_config(self, call: ApiCall) -> Document:
        params = call.params
        _check_variants(params)
        if "DataCaptureConfig" in params:
            parse_location(params["DataCaptureConfig"]["DestinationS3Uri"])
        for variant in all_variants(params):
            variant.setdefault("InitialVariantWeight", 1.0)
            if "ModelName" in variant:
                model = await self._find("model", variant["ModelName"], "model")
                if "ServerlessConfig" in variant:
                    _check_serverless_model(model)
                if "AsyncInferenceConfig" in params:
                    _check_asynchronous_model(model)
            elif "AsyncInferenceConfig" in params:
                raise ValidationException(
                    f'AsyncInferenceConfig needs a ModelName for variant "{variant["VariantName"]}": inference '
                    "components take no asynchronous calls."
                )
        arn = await self._create("endpoint-config", params, "EndpointConfigName", "endpoint configuration")
        return {"EndpointConfigArn": arn}

    @operation("DescribeEndpointConfig")
    async def describe_endpoint_config(self, call: ApiCall) -> Document:
        config = await self._find("endpoint-config", call.params["EndpointConfigName"], "endpoint configuration")
        return config.document | {"EndpointConfigArn": config.arn, "CreationTime": config.created_at}

    @operation("ListEndpointConfigs")
    async def list_endpoint_configs(self, call: ApiCall) -> Document:
        page = await self._page("endpoint-config", call.params)
        summaries = [
            {"EndpointConfigName": config.name, "EndpointConfigArn": config.arn, "CreationTime": config.created_at}
            for config in page.entries
        ]
        return {"EndpointConfigs": summaries, "NextToken": page.next_token}

    @operation("DeleteEndpointConfig")
    async def delete_endpoint_config(self, call: ApiCall) -> Document:
        return await self._delete("endpoint-config", call.params["EndpointConfigName"], "endpoint configuration")

    # Endpoints

    @operation("CreateEndpoint")
    async def create_endpoint(self, call: ApiCall) -> Document:
        return await self._endpoints.create(call.params, tags_of(call.params))

    @operation("UpdateEndpoint")
    async def update_endpoint(self, call: ApiCall) -> Document:
        return await self._endpoints.update(call.params)

    @operation("UpdateEndpointWeightsAndCapacities")
    async def update_endpoint_weights_and_capacities(self, call: ApiCall) -> Document:
        return await self._endpoints.update_weights_and_capacities(call.params)

    @operation("DeleteEndpoint")
    async def delete_endpoint(self, call: ApiCall) -> Document:
        return await self._endpoints.delete(call.params)

    @operation("DescribeEndpoint")
    async def describe_endpoint(self, call: ApiCall) -> Document:
        return await self._endpoints.describe(call.params)

    @operation("ListEndpoints")
    async def list_endpoints(self, call: ApiCall) -> Document:
        page = await self._page("endpoint", call.params)
        summaries = [
            {
                "EndpointName": endpoint.name,
                "EndpointArn": endpoint.arn,
                "CreationTime": endpoint.created_at,
                "LastModifiedTime": endpoint.modified_at,
                "EndpointStatus": endpoint.status,
            }
            for endpoint in page.entries
        ]
        return {"Endpoints": summaries, "NextToken": page.next_token}

    # Tags

    @operation("AddTags")
    async def add_tags(self, call: ApiCall) -> Document:
        arn, pairs = call.params["ResourceArn"], tags_of(call.params)

        def write(db: Connection) -> dict[str, str]:
            self._check_resource(db, arn)
            tags.put(db, arn, pairs)
            found = tags.of(db, arn)
            if len(found) > MOST_TAGS:
                raise ResourceLimitExceeded(f"A resource can have {MOST_TAGS} tags; this would make {len(found)}.")
            return found

        return {"Tags": _as_list(await self._store.run(write))}

    @operation("ListTags")
    async def list_tags(self, call: ApiCall) -> Document:
        arn = call.params["ResourceArn"]

        def read(db: Connection) -> dict[str, str]:
            self._check_resource(db, arn)
            return tags.of(db, arn)

        found = _as_list(await self._store.run(read))
        start = _offset(call.params.get("NextToken"))
        stop = start + call.params.get("MaxResults", MOST_TAGS)
        return {"Tags": found[start:stop], "NextToken": str(stop) if stop < len(found) else None}

    @operation("DeleteTags")
    async def delete_tags(self, call: ApiCall) -> Document:
        arn = call.params["ResourceArn"]

        def write(db: Connection) -> None:
            self._check_resource(db, arn)
            tags.remove(db, arn, call.params["TagKeys"])

        await self._store.run(write)
        return {}

    # What they share

    async def _create(self, kind: str, params: Document, name_member: str, words: str) -> str:
        name = params[name_member]
        arn = self._partition.arn(f"{kind}/{name}")
        now = self._clock.now()
        pairs = tags_of(params)
        document = {member: value for member, value in params.items() if member != "Tags"}

        def write(db: Connection) -> None:
            if resources.get(db, kind, name) is not None:
                raise ValidationException(f'Cannot create already existing {words} "{arn}".')
            resources.insert(db, Resource(kind, name, arn, now, now, document=document))
            tags.put(db, arn, pairs)

        await self._store.run(write)
        return arn

    async def _find(self, kind: str, name: str, words: str) -> Resource:
        found = await self._store.run(lambda db: resources.get(db, kind, name))
        if found is None:
            raise self._missing(kind, name, words)
        return found

    async def _delete(self, kind: str, name: str, words: str) -> Document:
        arn = self._partition.arn(f"{kind}/{name}")

        def write(db: Connection) -> bool:
            tags.remove(db, arn)
            return resources.delete(db, kind, name)

        if not await self._store.run(write):
            raise self._missing(kind, name, words)
        return {}

    async def _page(self, kind: str, params: Document) -> listing.Page:
        wanted = listing.from_request(kind, params)
        return await self._store.run(lambda db: listing.page(db, wanted))

    def _missing(self, kind: str, name: str, words: str) -> ValidationException:
        return ValidationException(f'Could not find {words} "{self._partition.arn(f"{kind}/{name}")}".')

    def _check_resource(self, db: Connection, arn: str) -> None:
        if not tags.has_resource(db, arn):
            raise ValidationException(f'Could not find resource "{arn}".')


def _check_containers(params: Mapping[str, Any]) -> None:
    if ("PrimaryContainer" in params) == bool(params.get("Containers")):
        raise ValidationException("Specify exactly one of PrimaryContainer and Containers.")
    containers = params.get("Containers") or [params["PrimaryContainer"]]
    if len(containers) > MOST_CONTAINERS:
        raise ValidationException(f"A model can have {MOST_CONTAINERS} containers, not {len(containers)}.")
    for container in containers:
        if "ModelDataUrl" in container and "ModelDataSource" in container:
            raise ValidationException("Specify only one of ModelDataUrl and ModelDataSource in a container.")
        if container.get("Mode") == "MultiModel" and not container.keys() & {"ModelDataUrl", "ModelDataSource"}:
            raise ValidationException("A container with Mode MultiModel needs ModelDataUrl: the prefix of its models.")
        if container.get("Mode") != "MultiModel" and "MultiModelConfig" in container:
            raise ValidationException("MultiModelConfig goes with Mode MultiModel.")
    _check_execution(params, containers)


def _check_execution(params: Mapping[str, Any], containers: Sequence[Mapping[str, Any]]) -> None:
    """Rules of models with several containers."""
    hostnames = [container["ContainerHostname"] for container in containers if "ContainerHostname" in container]
    if len(set(hostnames)) < len(hostnames):
        raise ValidationException(f"The ContainerHostname of each container must be unique: {', '.join(hostnames)}.")
    multi_model = sum(container.get("Mode") == "MultiModel" for container in containers)
    if multi_model > 1:
        raise ValidationException("A model can have one container with Mode MultiModel.")
    if params.get("InferenceExecutionConfig", {}).get("Mode") == "Direct":
        if len(hostnames) < len(containers):
            raise ValidationException("With InferenceExecutionConfig Direct each container needs a ContainerHostname.")
        if len(containers) < 2 or multi_model:
            raise ValidationException("InferenceExecutionConfig Direct is for several containers of Mode SingleModel.")


def _check_variants(params: Mapping[str, Any]) -> None:
    production, shadows = params["ProductionVariants"], params.get("ShadowProductionVariants", [])
    names = [variant["VariantName"] for variant in all_variants(dict(params))]
    if len(set(names)) < len(names):
        raise ValidationException(f"Duplicate variant names are not allowed: {', '.join(sorted(names))}.")
    if shadows and (len(shadows) != 1 or len(production) != 1):
        raise ValidationException("With a shadow variant there must be exactly one production and one shadow variant.")
    if sum(variant.get("InitialVariantWeight", 1.0) for variant in production) <= 0:
        raise ValidationException("The weights of an endpoint's variants cannot all be 0.")
    for variant in all_variants(dict(params)):
        _check_variant(variant, params)


def _check_variant(variant: Mapping[str, Any], params: Mapping[str, Any]) -> None:
    name, serverless = variant["VariantName"], variant.get("ServerlessConfig")
    if serverless is None:
        if "InstanceType" not in variant and "InstancePools" not in variant:
            raise ValidationException(f'Specify InstanceType or ServerlessConfig for variant "{name}".')
        if "ModelName" in variant and "InitialInstanceCount" not in variant:
            raise ValidationException(f'Specify InitialInstanceCount for variant "{name}".')
        _check_managed(variant)
        return
    if "InstanceType" in variant or "InitialInstanceCount" in variant:
        raise ValidationException(
            f'Variant "{name}" has ServerlessConfig: InstanceType and InitialInstanceCount do not go with it.'
        )
    if serverless["MemorySizeInMB"] % 1024:
        raise ValidationException(
            f"MemorySizeInMB must be 1024, 2048, 3072, 4096, 5120 or 6144, not {serverless['MemorySizeInMB']}."
        )
    if serverless.get("ProvisionedConcurrency", 0) > serverless["MaxConcurrency"]:
        raise ValidationException("ProvisionedConcurrency cannot be greater than MaxConcurrency.")
    if len(params["ProductionVariants"]) > 1 or params.get("ShadowProductionVariants"):
        raise ValidationException("A serverless endpoint has exactly one variant.")
    for member in ("AsyncInferenceConfig", "DataCaptureConfig", "VpcConfig"):
        if member in params:
            raise ValidationException(f"{member} is not supported for serverless endpoints.")


def _check_serverless_model(model: Resource) -> None:
    """What a model of a serverless variant may not be."""
    containers = model.document.get("Containers") or [model.document["PrimaryContainer"]]
    what = None
    if len(containers) > 1:
        what = "an inference pipeline, or one of several containers"
    elif containers[0].get("Mode") == "MultiModel":
        what = "a multi-model endpoint"
    elif "VpcConfig" in model.document:
        what = "a model with VpcConfig"
    elif model.document.get("EnableNetworkIsolation"):
        what = "a model with network isolation"
    if what:
        raise ValidationException(
            f'Model "{model.name}" cannot be used with ServerlessConfig: {what} is not supported for serverless '
            "endpoints. Use InstanceType and InitialInstanceCount instead."
        )


def _check_asynchronous_model(model: Resource) -> None:
    """What a model of an asynchronous endpoint may not be: its dispatcher gives calls to the workers of one model."""
    if is_composite(model.document):
        raise ValidationException(
            f'Model "{model.name}" cannot be used with AsyncInferenceConfig: inference pipelines, several containers '
            "and multi-model containers are not supported for asynchronous endpoints. Use a model with one container, "
            "or leave AsyncInferenceConfig away."
        )


def _check_managed(variant: Mapping[str, Any]) -> None:
    """ManagedInstanceScaling has bounds that hold the count that the endpoint starts with."""
    scaling = variant.get("ManagedInstanceScaling", {})
    if scaling.get("Status") != "ENABLED" or "InitialInstanceCount" not in variant:
        return
    count = variant["InitialInstanceCount"]
    if not scaling.get("MinInstanceCount", 0) <= count <= scaling.get("MaxInstanceCount", count):
        raise ValidationException(
            f'InitialInstanceCount ({count}) of variant "{variant["VariantName"]}" must be within MinInstanceCount and '
            "MaxInstanceCount of its ManagedInstanceScaling."
        )


def tags_of(params: Mapping[str, Any]) -> dict[str, str]:
    pairs = {tag["Key"]: tag["Value"] for tag in params.get("Tags", [])}
    if len(pairs) < len(params.get("Tags", [])):
        raise ValidationException("Duplicate tag keys are not allowed.")
    if len(pairs) > MOST_TAGS:
        raise ResourceLimitExceeded(f"A resource can have {MOST_TAGS} tags, not {len(pairs)}.")
    reserved = [key for key in pairs if key.lower().startswith("aws:")]
    if reserved:
        raise ValidationException(f"Tag keys that start with aws: are reserved: {', '.join(reserved)}.")
    return pairs


def _as_list(pairs: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"Key": key, "Value": value} for key, value in pairs.items()]


def _offset(token: str | None) -> int:
    if token is None:
        return 0
    if not token.isdigit():
        raise ValidationException("Invalid NextToken: give the one of the previous page.")
    return int(token)
