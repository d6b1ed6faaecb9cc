"""Inference components: what people want of them. `copies` brings it about.

Creating ─► InService       its copies have loaded
         └► Failed          with the real reason
Updating ─► InService       new copies took over, or with FailureReason: they could not, the old ones have all calls
         └► Failed          nor can the old ones be brought back
Deleting ─► gone
after a restart: InService ─► Updating ─► InService
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from sqlalchemy.engine import Connection

from fourfold.clock import Clock
from fourfold.config import Settings
from fourfold.control import deployments
from fourfold.control.composites import is_composite
from fourfold.control.endpoints import check_count
from fourfold.errors import ValidationException
from fourfold.store import Store, resources, tags
from fourfold.store.resources import Resource

Document = dict[str, Any]

KIND = "inference-component"
BUSY = ("Creating", "Updating", "Deleting")


class InferenceComponents:
    """Wishes about components.

    Args:
        store: where they are kept.
        settings: for ARNs and limits.
        clock: for stamps.
        wake: called when there is something to do.
    """

    def __init__(self, store: Store, settings: Settings, clock: Clock, wake: Callable[[], None]) -> None:
        self._store = store
        self._settings = settings
        self._clock = clock
        self._wake = wake

    async def create(self, request: Document, pairs: dict[str, str]) -> str:
        """CreateInferenceComponent; returns the ARN.

        Raises:
            ValidationException: the name is taken, the endpoint or model is not there, or the endpoint's variant has
                a model of its own.
            ResourceLimitExceeded: more copies than a component may have; the other two below raise it, too.
        """
        name, now = request["InferenceComponentName"], self._clock.now()
        arn = self._settings.partition.arn(f"{KIND}/{name}")
        specification = _specification(request)

        def write(db: Connection) -> None:
            if resources.get(db, KIND, name) is not None:
                raise ValidationException(f'Cannot create already existing inference component "{arn}".')
            endpoint, variant = self._variant(db, request)
            copies = request.get("RuntimeConfig", {}).get("CopyCount", 1)
            self._check_copies(name, copies)
            document = {
                "EndpointName": endpoint.name,
                "EndpointArn": endpoint.arn,
                "VariantName": variant,
                "Specification": specification,
                "model": self._model(db, specification),
                "copies": copies,
                "current": 0,
                "revision": 1,
                "deployed": None,
                "FailureReason": None,
            }
            resources.insert(db, Resource(KIND, name, arn, now, now, "Creating", document))
            tags.put(db, arn, pairs)

        await self._store.run(write)
        self._wake()
        return arn

    async def update(self, request: Document) -> str:
        """UpdateInferenceComponent; returns the ARN. Raises ValidationException."""
        change, deployment = _specification(request), request.get("DeploymentConfig")

        def write(db: Connection) -> str:
            component = self._settled(db, request["InferenceComponentName"])
            document = {**component.document}
            if change:
                document["Specification"] = _changed(document["Specification"], change)
                document["model"] = self._model(db, document["Specification"])
            if "RuntimeConfig" in request:
                document["copies"] = request["RuntimeConfig"]["CopyCount"]
            deployments.check(db, deployment, document["copies"])
            document["deployment"] = deployment or document.get("deployment")
            self._want(db, component, document, deployment)
            return component.arn

        arn = await self._store.run(write)
        self._wake()
        return arn

    async def update_runtime(self, name: str, copies: int) -> str:
        """UpdateInferenceComponentRuntimeConfig; returns the ARN. Raises ValidationException."""

        def write(db: Connection) -> str:
            component = self._settled(db, name)
            self._want(db, component, component.document | {"copies": copies})
            return component.arn

        arn = await self._store.run(write)
        self._wake()
        return arn

    async def delete(self, name: str) -> None:
        """DeleteInferenceComponent. Raises ValidationException: there is no such component."""

        def write(db: Connection) -> None:
            component = self._find(db, name)
            component.status = "Deleting"
            component.modified_at = self._clock.now()
            resources.save(db, component)

        await self._store.run(write)
        self._wake()

    async def get(self, name: str) -> Resource:
        """Raises ValidationException: there is no such component."""
        return await self._store.run(lambda db: self._find(db, name))

    def _find(self, db: Connection, name: str) -> Resource:
        found = resources.get(db, KIND, name)
        if found is None:
            arn = self._settings.partition.arn(f"{KIND}/{name}")
            raise ValidationException(f'Could not find inference component "{arn}".')
        return found

    def _settled(self, db: Connection, name: str) -> Resource:
        component = self._find(db, name)
        if component.status in BUSY:
            raise ValidationException(
                f'Cannot update in-progress inference component "{component.arn}": it is {component.status}.'
            )
        return component

    def _check_copies(self, name: str, copies: int) -> None:
        check_count(copies, self._settings.limits, f'Inference component "{name}"', "copies")

    def _want(self, db: Connection, component: Resource, document: Document, rolling: Document | None = None) -> None:
        self._check_copies(component.name, document["copies"])
        wish = {"revision": document["revision"] + 1, "rolling": rolling, "FailureReason": None}
        component.document = document | wish
        component.status = "Updating"
        component.modified_at = self._clock.now()
        resources.save(db, component)

    def _variant(self, db: Connection, request: Document) -> tuple[Resource, str]:
        """The endpoint and the variant that a component is for."""
        name = request["EndpointName"]
        endpoint = resources.get(db, "endpoint", name)
        if endpoint is None or endpoint.status in ("Deleting", "Failed"):
            arn = self._settings.partition.arn(f"endpoint/{name}")
            raise ValidationException(f'Could not find endpoint "{arn}", or it is being deleted or has failed.')
        variants = {one["VariantName"]: one for one in endpoint.document["wanted"]["config"]["ProductionVariants"]}
        wanted = request.get("VariantName") or next(iter(variants))
        if wanted not in variants:
            raise ValidationException(f'Could not find variant "{wanted}": {name} has {", ".join(variants)}.')
        if "ModelName" in variants[wanted]:
            raise ValidationException(
                f'Variant "{wanted}" of endpoint "{endpoint.arn}" has a model of its own. Inference components go to '
                "variants whose endpoint config names no ModelName."
            )
        return endpoint, wanted

    def _model(self, db: Connection, specification: Document) -> Document:
        """The model of a specification, as CreateModel would have it."""
        name, container = specification.get("ModelName"), specification.get("Container")
        if (name is None) == (container is None):
            raise ValidationException("The Specification needs exactly one of ModelName and Container.")
        if container is not None:
            members = {"Image": "Image", "ArtifactUrl": "ModelDataUrl", "Environment": "Environment"}
            return {"PrimaryContainer": {members[key]: value for key, value in container.items() if key in members}}
        found = resources.get(db, "model", str(name))
        if found is None:
            raise ValidationException(f'Could not find model "{self._settings.partition.arn(f"model/{name}")}".')
        if is_composite(found.document):
            raise ValidationException(f"Model {name} has several models or containers; a component has one.")
        return found.document


def _specification(request: Document) -> Document:
    """What a request says of a component's model; empty where it says nothing."""
    one: Document | None = request.get("Specification")
    specification = one if one is not None else (request.get("Specifications") or [{}])[0]
    if "BaseInferenceComponentName" in specification:
        raise ValidationException("Adapter components (BaseInferenceComponentName) are not supported here.")
    needs = needs_of({"Specification": specification})
    if needs.get("MinMemoryRequiredInMb", 0) > needs.get("MaxMemoryRequiredInMb", math.inf):
        raise ValidationException("MinMemoryRequiredInMb must not be more than MaxMemoryRequiredInMb.")
    return specification


def needs_of(document: Document) -> Document:
    """What each copy needs of the machine."""
    needs: Document = document["Specification"].get("ComputeResourceRequirements", {})
    return needs


def _changed(specification: Document, change: Document) -> Document:
    """A specification with what an update says; a model and a container of its own exclude one another."""
    source = ("ModelName", "Container")
    dropped = source if any(member in change for member in source) else ()
    return {member: value for member, value in specification.items() if member not in dropped} | change
