"""A sizing as SageMaker request members: what is sent to `CreateEndpointConfig`, `CreateTransformJob` and the rest.

Names and places (model, buckets) follow the scenario's id, so that the members can be sent as they stand once the model
and the buckets exist; `export` writes whole deployments.
"""

from __future__ import annotations

import re
from typing import Any

from fourfold.advisor.scenario import Scenario
from fourfold.advisor.sizing import Sizing

VARIANT = "AllTraffic"


def name_of(scenario: Scenario) -> str:
    """A resource name from the scenario's id: letters, digits and hyphens, at most 40 characters."""
    name = re.sub(r"[^a-zA-Z0-9]+", "-", scenario.id or "").strip("-")[:40].strip("-")
    return name or "model"


def configuration(size: Sizing, scenario: Scenario) -> dict[str, Any]:
    """Request members by operation, in the order in which they would be sent."""
    name = name_of(scenario)
    if size.mode == "batch":
        return _transform(size, name, scenario)
    config: dict[str, Any] = {"EndpointConfigName": f"{name}-config", "ProductionVariants": [_variant(size, name)]}
    if size.mode == "asynchronous":
        config["AsyncInferenceConfig"] = {
            "ClientConfig": {"MaxConcurrentInvocationsPerInstance": size.concurrency},
            "OutputConfig": {
                "S3OutputPath": f"s3://{name}-data/output/",
                "S3FailurePath": f"s3://{name}-data/failure/",
            },
        }
    members: dict[str, Any] = {
        "CreateEndpointConfig": config,
        "CreateEndpoint": {"EndpointName": f"{name}-endpoint", "EndpointConfigName": f"{name}-config"},
    }
    if size.instance is not None and size.count > size.floor:
        members |= _scaling(size, name)
    return members


def _variant(size: Sizing, name: str) -> dict[str, Any]:
    variant: dict[str, Any] = {"VariantName": VARIANT, "ModelName": name}
    if size.instance is None:
        serverless = {"MemorySizeInMB": size.memory_mb, "MaxConcurrency": size.max_concurrency}
        if size.provisioned:
            serverless["ProvisionedConcurrency"] = size.provisioned
        return {**variant, "ServerlessConfig": serverless}
    return {
        **variant,
        "InstanceType": size.instance.name,
        "InitialInstanceCount": max(1, size.floor if size.hourly else size.count if size.floor else 1),
    }


def _scaling(size: Sizing, name: str) -> dict[str, Any]:
    """Application Auto Scaling: capacity that follows the load."""
    target = {
        "ServiceNamespace": "sagemaker",
        "ResourceId": f"endpoint/{name}-endpoint/variant/{VARIANT}",
        "ScalableDimension": "sagemaker:variant:DesiredInstanceCount",
    }
    members: dict[str, Any] = {
        "RegisterScalableTarget": {**target, "MinCapacity": size.floor, "MaxCapacity": size.count},
    }
    if size.mode == "asynchronous":
        tracking: dict[str, Any] = {
            "TargetValue": float(max(1, 2 * size.concurrency)),
            "CustomizedMetricSpecification": {
                "MetricName": "ApproximateBacklogSizePerInstance",
                "Namespace": "AWS/SageMaker",
                "Dimensions": [{"Name": "EndpointName", "Value": f"{name}-endpoint"}],
                "Statistic": "Average",
            },
            "ScaleInCooldown": 600,
            "ScaleOutCooldown": 60,
        }
    else:
        tracking = {
            "TargetValue": float(round(70 * 60 * size.concurrency / 100 / max(size.service_s, 1e-3), 1)),
            "PredefinedMetricSpecification": {"PredefinedMetricType": "SageMakerVariantInvocationsPerInstance"},
            "ScaleInCooldown": 300,
            "ScaleOutCooldown": 60,
        }
    members["PutScalingPolicy"] = {
        **target,
        "PolicyName": f"{name}-load",
        "PolicyType": "TargetTrackingScaling",
        "TargetTrackingScalingPolicyConfiguration": tracking,
    }
    if size.hourly:
        members["PutScheduledAction"] = _timetable(size, name, target)
    return members


def _timetable(size: Sizing, name: str, target: dict[str, str]) -> list[dict[str, Any]]:
    """One scheduled action for each hour in which the floor changes."""
    return [
        {
            **target,
            "ScheduledActionName": f"{name}-{hour:02d}",
            "Schedule": f"cron(0 {hour} * * ? *)",
            "ScalableTargetAction": {"MinCapacity": count, "MaxCapacity": size.count},
        }
        for hour, count in enumerate(size.hourly)
        if count != size.hourly[hour - 1]
    ]


def _transform(size: Sizing, name: str, scenario: Scenario) -> dict[str, Any]:
    assert size.instance is not None
    payload = max(1, min(100, round(scenario.payload_mb or 6)))
    return {
        "CreateTransformJob": {
            "TransformJobName": f"{name}-transform",
            "ModelName": name,
            "MaxConcurrentTransforms": max(1, min(size.concurrency, 100 // payload)),
            "MaxPayloadInMB": payload,
            "BatchStrategy": "MultiRecord",
            "TransformInput": {
                "DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": f"s3://{name}-data/input/"}},
                "ContentType": "application/jsonlines",
                "SplitType": "Line",
            },
            "TransformOutput": {
                "S3OutputPath": f"s3://{name}-data/output/",
                "AssembleWith": "Line",
                "Accept": "application/jsonlines",
            },
            "TransformResources": {"InstanceType": size.instance.name, "InstanceCount": size.count},
        },
    }
