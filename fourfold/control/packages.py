"""Model packages as models use them: a package's containers stand in for its ARN when a model is made of it."""

from __future__ import annotations

from typing import Any

from sqlalchemy.engine import Connection

from fourfold.errors import ValidationException
from fourfold.records import Partition
from fourfold.store import resources
from fourfold.store.resources import Resource

Document = dict[str, Any]

PACKAGE = "model-package"
"""Kind of the resources, named `group/version`, or by their own name where they have no versions."""


def find(db: Connection, name: str, partition: Partition) -> Resource:
    """A package by `group/version` or by its own name. Raises ValidationException where there is none."""
    package = resources.get(db, PACKAGE, name)
    if package is None:
        raise ValidationException(f"ModelPackage {partition.arn(f'{PACKAGE}/{name}')} does not exist.")
    return package


def with_packages(db: Connection, model: Document, partition: Partition) -> Document:
    """CreateModel's members with the containers that its model packages stand for.

    What was asked for is kept as `asked`, for DescribeModel: an endpoint goes on when its package is gone.

    Raises:
        ValidationException: no such package, or one that is not approved or has no containers.
    """
    containers = model.get("Containers") or [model["PrimaryContainer"]]
    if not any("ModelPackageName" in container for container in containers):
        return model
    meant = [one for container in containers for one in _containers(db, container, partition)]
    kept = {member: value for member, value in model.items() if member not in ("PrimaryContainer", "Containers")}
    asked = {member: model[member] for member in ("PrimaryContainer", "Containers") if member in model}
    one = len(meant) == 1
    return kept | {"asked": asked} | ({"PrimaryContainer": meant[0]} if one else {"Containers": meant})


def _containers(db: Connection, container: Document, partition: Partition) -> list[Document]:
    if "ModelPackageName" not in container:
        return [container]
    package = find(db, name_of(container["ModelPackageName"]), partition)
    if package.status not in ("", "Approved"):
        raise ValidationException(
            f"ModelPackage {package.arn} has the approval status {package.status}: only Approved ones can be deployed. "
            "Approve it with UpdateModelPackage."
        )
    over = {member: value for member, value in container.items() if member != "ModelPackageName"}
    return [
        one | over | {"Environment": one.get("Environment", {}) | container.get("Environment", {})}
        for one in specified(package)
    ]


def specified(package: Resource) -> list[Document]:
    """The containers that a package specifies. Raises ValidationException where it has none."""
    found: list[Document] = package.document.get("InferenceSpecification", {}).get("Containers", [])
    if not found:
        raise ValidationException(
            f"ModelPackage {package.arn} has no containers in an InferenceSpecification to deploy."
        )
    return found


def packaged(db: Connection, arn: str, partition: Partition) -> Document:
    """A package as a model that is only tried out, whatever its approval. Raises ValidationException."""
    return {"Containers": specified(find(db, name_of(arn), partition))}


def name_of(name_or_arn: str) -> str:
    """`group/3` of `arn:…:model-package/group/3`; a name is itself."""
    return name_or_arn.partition("/")[2] if name_or_arn.startswith("arn:") else name_or_arn
