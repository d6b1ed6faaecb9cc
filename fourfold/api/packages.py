"""The model registry of the `sagemaker` service: groups of model packages, their versions and approval.

A package is a resource of kind `model-package`, named `group/version`, or by its own name where it has no versions. Its
status in the store is its approval, which lists are filtered by; the package itself is Completed when it is made, since
nothing has to be scanned or validated here.
"""

from __future__ import annotations

from typing import Any, ClassVar

from sqlalchemy.engine import Connection

from fourfold.api.identity import assumed_role
from fourfold.api.protocol import ApiCall, operation
from fourfold.api.sagemaker import tags_of
from fourfold.clock import Clock
from fourfold.control.packages import PACKAGE, find, name_of
from fourfold.errors import ConflictException, ValidationException
from fourfold.records import Partition
from fourfold.store import Store, listing, resources, tags
from fourfold.store.resources import Resource

Document = dict[str, Any]

GROUP = "model-package-group"

_UPDATED = (
    "ModelPackageRegistrationType", "ApprovalDescription", "InferenceSpecification", "SourceUri", "ModelCard",
    "ModelLifeCycle",
)  # fmt: skip
_SUMMARY = (
    "ModelPackageName", "ModelPackageGroupName", "ModelPackageVersion", "ModelPackageArn", "ModelPackageDescription",
    "CreationTime", "InferenceSpecification", "ModelPackageStatus", "ModelApprovalStatus", "ModelLifeCycle",
    "ModelPackageRegistrationType",
)  # fmt: skip


class ModelRegistry:
    """Operations on model package groups and model packages."""

    service: ClassVar = "sagemaker"

    def __init__(self, store: Store, partition: Partition, clock: Clock) -> None:
        self._store = store
        self._partition = partition
        self._clock = clock

    # Groups

    @operation("CreateModelPackageGroup")
    async def create_group(self, call: ApiCall) -> Document:
        name = call.params["ModelPackageGroupName"]
        arn, now, pairs = self._partition.arn(f"{GROUP}/{name}"), self._clock.now(), tags_of(call.params)
        document = {member: value for member, value in call.params.items() if member != "Tags"} | {"versions": 0}

        def write(db: Connection) -> None:
            if resources.get(db, GROUP, name) is not None:
                raise ValidationException(f"Model Package Group already exists: {arn}")
            resources.insert(db, Resource(GROUP, name, arn, now, now, "Completed", document))
            tags.put(db, arn, pairs)

        await self._store.run(write)
        return {"ModelPackageGroupArn": arn}

    @operation("DescribeModelPackageGroup")
    async def describe_group(self, call: ApiCall) -> Document:
        name = name_of(call.params["ModelPackageGroupName"])
        group = await self._store.run(lambda db: self._group(db, name))
        return group.document | _group_summary(group) | {"CreatedBy": self._creator()}

    @operation("ListModelPackageGroups")
    async def list_groups(self, call: ApiCall) -> Document:
        wanted = listing.from_request(GROUP, call.params)
        page = await self._store.run(lambda db: listing.page(db, wanted))
        return {"ModelPackageGroupSummaryList": [*map(_group_summary, page.entries)], "NextToken": page.next_token}

    @operation("DeleteModelPackageGroup")
    async def delete_group(self, call: ApiCall) -> Document:
        name = name_of(call.params["ModelPackageGroupName"])

        def write(db: Connection) -> None:
            group = self._group(db, name)
            if listing.page(db, listing.Listing(PACKAGE, name_prefix=f"{name}/", limit=1)).entries:
                raise ConflictException(
                    f"Model Package Group {group.arn} cannot be deleted because it still contains Model Packages."
                )
            resources.delete(db, GROUP, name)
            tags.remove(db, group.arn)

        await self._store.run(write)
        return {}

    # Packages

    @operation("CreateModelPackage", kept=("*.S3DataType", "*.CompressionType", "*.S3DataSource.ETag"))
    async def create(self, call: ApiCall) -> Document:
        params = call.params
        _check_new(params)
        pairs = tags_of(params)
        document = {"CertifyForMarketplace": False} | {
            member: value for member, value in params.items() if member not in ("Tags", "ModelApprovalStatus")
        }

        def write(db: Connection) -> str:
            if "ModelPackageGroupName" in params:
                return self._insert_version(db, document, params.get("ModelApprovalStatus", "PendingManualApproval"))
            arn = self._insert(db, params["ModelPackageName"], document, params.get("ModelApprovalStatus", ""))
            tags.put(db, arn, pairs)
            return arn

        return {"ModelPackageArn": await self._store.run(write)}

    def _insert_version(self, db: Connection, document: Document, approval: str) -> str:
        name = name_of(document["ModelPackageGroupName"])
        group = self._group(db, name)
        made = group.document.get("tokens", {})
        token = document.pop("ClientToken", None)
        if token in made:
            return str(made[token])  # the same request once more
        version = group.document["versions"] + 1  # a version that was deleted does not come again
        own = f"{name}/{version}"  # what DescribeModelPackage takes, as SDKs give it back
        document |= {"ModelPackageGroupName": name, "ModelPackageName": own, "ModelPackageVersion": version}
        arn = self._insert(db, own, document, approval)
        group.document |= {"versions": version, "tokens": made | ({token: arn} if token else {})}
        resources.save(db, group)
        return arn

    def _insert(self, db: Connection, name: str, document: Document, approval: str) -> str:
        arn, now = self._partition.arn(f"{PACKAGE}/{name}"), self._clock.now()
        if resources.get(db, PACKAGE, name) is not None:
            raise ValidationException(f"Model Package already exists: {arn}")
        resources.insert(db, Resource(PACKAGE, name, arn, now, now, approval, document))
        return arn

    @operation("DescribeModelPackage")
    async def describe(self, call: ApiCall) -> Document:
        name = name_of(call.params["ModelPackageName"])
        package = await self._store.run(lambda db: find(db, name, self._partition))
        creator = self._creator()
        return _described(package) | {
            "ModelPackageStatusDetails": {"ValidationStatuses": [], "ImageScanStatuses": []},
            "CreatedBy": creator,
            "LastModifiedBy": creator if package.modified_at > package.created_at else None,
            "LastModifiedTime": package.modified_at if package.modified_at > package.created_at else None,
        }

    @operation("ListModelPackages")
    async def list(self, call: ApiCall) -> Document:
        params = call.params
        group = params.get("ModelPackageGroupName")
        kind = params.get("ModelPackageType", "Unversioned" if group is None else "Versioned")
        wanted = listing.from_request(
            PACKAGE,
            params | {"StatusEquals": params.get("ModelApprovalStatus")},
            name_prefix=None if group is None else f"{name_of(group)}/",
            nested={"Versioned": True, "Unversioned": False}.get(kind),
        )
        page = await self._store.run(lambda db: listing.page(db, wanted))
        return {"ModelPackageSummaryList": [*map(_summary, page.entries)], "NextToken": page.next_token}

    @operation("UpdateModelPackage", kept=("*.S3DataType", "*.CompressionType", "*.S3DataSource.ETag"))
    async def update(self, call: ApiCall) -> Document:
        params = call.params

        def write(db: Connection) -> str:
            package = find(db, name_of(params["ModelPackageArn"]), self._partition)
            package.status = params.get("ModelApprovalStatus", package.status)
            package.modified_at = self._clock.now()
            document = package.document | {name: params[name] for name in _UPDATED if name in params}
            properties = document.get("CustomerMetadataProperties", {}) | params.get("CustomerMetadataProperties", {})
            for name in params.get("CustomerMetadataPropertiesToRemove", []):
                properties.pop(name, None)
            document["CustomerMetadataProperties"] = properties or None
            added = params.get("AdditionalInferenceSpecificationsToAdd", [])
            document["AdditionalInferenceSpecifications"] = [
                *(document.get("AdditionalInferenceSpecifications") or []), *added
            ] or None  # fmt: skip
            package.document = document
            resources.save(db, package)
            return package.arn

        return {"ModelPackageArn": await self._store.run(write)}

    @operation("DeleteModelPackage")
    async def delete(self, call: ApiCall) -> Document:
        def write(db: Connection) -> None:
            package = find(db, name_of(call.params["ModelPackageName"]), self._partition)
            resources.delete(db, PACKAGE, package.name)
            tags.remove(db, package.arn)

        await self._store.run(write)
        return {}

    @operation("BatchDescribeModelPackage")
    async def batch_describe(self, call: ApiCall) -> Document:
        arns = call.params["ModelPackageArnList"]

        def read(db: Connection) -> tuple[Document, Document]:
            found, missing = {}, {}
            for arn in arns:
                try:
                    found[arn] = _summary(find(db, name_of(arn), self._partition))
                except ValidationException as error:
                    missing[arn] = {"ErrorCode": error.code, "ErrorResponse": error.message}
            return found, missing

        found, missing = await self._store.run(read)
        return {"ModelPackageSummaries": found, "BatchDescribeModelPackageErrorMap": missing or None}

    def _group(self, db: Connection, name: str) -> Resource:
        group = resources.get(db, GROUP, name)
        if group is None:
            raise ValidationException(f"ModelPackageGroup {self._partition.arn(f'{GROUP}/{name}')} does not exist.")
        return group

    def _creator(self) -> Document:
        return {"IamIdentity": {"Arn": assumed_role(self._partition)}}


def _check_new(params: Document) -> None:
    if ("ModelPackageName" in params) == ("ModelPackageGroupName" in params):
        raise ValidationException(
            "Specify exactly one of ModelPackageName (a package by itself) and ModelPackageGroupName (a version)."
        )
    if "ModelPackageGroupName" in params and params.get("Tags"):
        raise ValidationException("Tags cannot be given to a version of a model package: tag its group.")
    if not params.keys() & {"InferenceSpecification", "SourceAlgorithmSpecification", "SourceUri"}:
        raise ValidationException("Specify InferenceSpecification, SourceAlgorithmSpecification or SourceUri.")


def _group_summary(group: Resource) -> Document:
    return {
        "ModelPackageGroupName": group.name,
        "ModelPackageGroupArn": group.arn,
        "ModelPackageGroupDescription": group.document.get("ModelPackageGroupDescription"),
        "CreationTime": group.created_at,
        "ModelPackageGroupStatus": group.status,
    }


def _described(package: Resource) -> Document:
    return package.document | {
        "ModelPackageArn": package.arn,
        "CreationTime": package.created_at,
        "ModelPackageStatus": "Completed",
        "ModelApprovalStatus": package.status or None,
    }


def _summary(package: Resource) -> Document:
    described = _described(package)
    return {member: described.get(member) for member in _SUMMARY}
