"""Inference components on the wire: six operations of the `sagemaker` service."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

from fourfold.api.protocol import ApiCall, operation
from fourfold.control.components import KIND, InferenceComponents
from fourfold.store import Store, listing
from fourfold.store.resources import Resource

Document = dict[str, Any]


class ComponentsApi:
    """Create, Describe, List, Update, UpdateRuntimeConfig and Delete."""

    service: ClassVar = "sagemaker"

    def __init__(self, store: Store, components: InferenceComponents) -> None:
        self._store = store
        self._components = components

    @operation("CreateInferenceComponent", refused=("*.BaseInferenceComponentName",))
    async def create(self, call: ApiCall) -> Document:
        pairs = {tag["Key"]: tag["Value"] for tag in call.params.get("Tags", [])}
        return {"InferenceComponentArn": await self._components.create(call.params, pairs)}

    @operation("DescribeInferenceComponent")
    async def describe(self, call: ApiCall) -> Document:
        component = await self._components.get(call.params["InferenceComponentName"])
        document = component.document
        return _summary(component) | {
            "FailureReason": document["FailureReason"],
            "Specification": _shown(document["Specification"]),
            "RuntimeConfig": {"DesiredCopyCount": document["copies"], "CurrentCopyCount": document["current"]},
            "LastDeploymentConfig": document.get("deployment"),
        }

    @operation("ListInferenceComponents")
    async def list(self, call: ApiCall) -> Document:
        members = {"EndpointName": "EndpointNameEquals", "VariantName": "VariantNameEquals"}
        where = {member: call.params[filter_] for member, filter_ in members.items() if filter_ in call.params}
        wanted = replace(listing.from_request(KIND, call.params), members=where)
        page = await self._store.run(lambda db: listing.page(db, wanted))
        return {"InferenceComponents": [_summary(one) for one in page.entries], "NextToken": page.next_token}

    @operation("UpdateInferenceComponent", refused=("*.BaseInferenceComponentName",))
    async def update(self, call: ApiCall) -> Document:
        return {"InferenceComponentArn": await self._components.update(call.params)}

    @operation("UpdateInferenceComponentRuntimeConfig")
    async def update_runtime_config(self, call: ApiCall) -> Document:
        copies = call.params["DesiredRuntimeConfig"]["CopyCount"]
        return {
            "InferenceComponentArn": await self._components.update_runtime(
                call.params["InferenceComponentName"], copies
            )
        }

    @operation("DeleteInferenceComponent")
    async def delete(self, call: ApiCall) -> Document:
        await self._components.delete(call.params["InferenceComponentName"])
        return {}


def _shown(specification: Document) -> Document:
    """A specification as it is described: the image of its container has another place there."""
    container = specification.get("Container", {})
    if "Image" not in container:
        return specification
    return specification | {"Container": container | {"DeployedImage": {"SpecifiedImage": container["Image"]}}}


def _summary(component: Resource) -> Document:
    document = component.document
    return {
        "InferenceComponentName": component.name,
        "InferenceComponentArn": component.arn,
        "EndpointName": document["EndpointName"],
        "EndpointArn": document["EndpointArn"],
        "VariantName": document["VariantName"],
        "InferenceComponentStatus": component.status,
        "CreationTime": component.created_at,
        "LastModifiedTime": component.modified_at,
    }
