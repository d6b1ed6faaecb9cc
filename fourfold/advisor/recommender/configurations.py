"""The configurations that a job tries."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from fourfold.advisor.prices import Prices
from fourfold.errors import ValidationException

Document = dict[str, Any]

DEFAULT_TYPES = ("ml.c5.large", "ml.m5.large", "ml.c5.xlarge")
DEFAULT_SERVERLESS = (2048, 4096)
"""Memory sizes in MB."""
DEFAULT_CONCURRENCY = 8
MOST_TESTS = 10
SECONDS = 7200
"""How long a job may take where it does not say."""
MOST_SECONDS = 18_000
"""AWS allows a job five hours."""


def configurations(request: Document, prices: Prices) -> list[Document]:
    """The configurations that a job tries, each with `InstanceType` or `ServerlessConfig`, and its `environment`.

    Raises:
        ValidationException: a member contradicts another or names what is not there; the message says which.
    """
    wanted = request["InputConfig"]
    if ("ModelName" in wanted) == ("ModelPackageVersionArn" in wanted):
        raise ValidationException("InputConfig: name either a ModelName or a ModelPackageVersionArn.")
    if wanted.get("Endpoints"):
        raise ValidationException(
            "InputConfig.Endpoints: endpoints that run are not put under load here; use `fourfold verify`, or name the "
            "model and an EndpointConfiguration."
        )
    if wanted.get("JobDurationInSeconds", SECONDS) > MOST_SECONDS:
        raise ValidationException(f"InputConfig.JobDurationInSeconds: at most {MOST_SECONDS}.")
    given = wanted.get("EndpointConfigurations")
    if request["JobType"] == "Advanced" and not given:
        raise ValidationException("InputConfig.EndpointConfigurations is missing; an Advanced job tries what you list.")
    found = [one for entry in given or _usual(wanted) for one in _expanded(entry)]
    most = wanted.get("ResourceLimit", {}).get("MaxNumberOfTests", MOST_TESTS)
    if len(found) > most:
        raise ValidationException(
            f"InputConfig.EndpointConfigurations: {len(found)} configurations, and at most {most} are tried; "
            "list fewer, or fewer values of EnvironmentParameterRanges."
        )
    for one in found:
        if "InstanceType" in one:
            prices.find("hosting", instance_type=one["InstanceType"])
    return found


def _usual(wanted: Document) -> list[Document]:
    container = wanted.get("ContainerConfig", {})
    types = container.get("SupportedInstanceTypes") or DEFAULT_TYPES
    instances: list[Document] = [{"InstanceType": name} for name in types[:MOST_TESTS]]
    if container.get("SupportedEndpointType", "RealTime") == "RealTime":
        return instances
    sizes = [{"MemorySizeInMB": size, "MaxConcurrency": DEFAULT_CONCURRENCY} for size in DEFAULT_SERVERLESS]
    return [{"ServerlessConfig": config} for config in sizes]


def _expanded(entry: Document) -> Iterator[Document]:
    """One configuration for each combination of environment values."""
    if ("InstanceType" in entry) == ("ServerlessConfig" in entry):
        raise ValidationException(
            "InputConfig.EndpointConfigurations: each has either an InstanceType or a ServerlessConfig."
        )
    kind = "InstanceType" if "InstanceType" in entry else "ServerlessConfig"
    if kind == "ServerlessConfig" and entry[kind]["MemorySizeInMB"] % 1024:
        raise ValidationException("ServerlessConfig.MemorySizeInMB: use 1024, 2048, 3072, 4096, 5120 or 6144.")
    ranges = entry.get("EnvironmentParameterRanges", {}).get("CategoricalParameterRanges", [])
    for values in itertools.product(*(one["Value"] for one in ranges)):
        environment = {one["Name"]: value for one, value in zip(ranges, values, strict=True)}
        yield {kind: entry[kind], "environment": environment}
