"""What was measured, as SageMaker tells it."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from fourfold.advisor.prices import Prices
from fourfold.advisor.trial import Result

Document = dict[str, Any]

COOLDOWN_S = 300


def metrics(test: Document, prices: Prices) -> Document:
    """A finished benchmark as SageMaker's RecommendationMetrics. Money in US dollars, times in milliseconds."""
    result = msgspec.convert(test["result"], Result)
    one = test["configuration"]
    if "InstanceType" in one:
        name = one["InstanceType"]
        an_hour = float(prices.find("hosting", instance_type=name)[0].usd)
        memory_mb = prices.size(name).memory_gib * 1024
    else:
        # A serverless container is paid for while it works: each user keeps one busy.
        memory_mb = one["ServerlessConfig"]["MemorySizeInMB"]
        an_hour = result.users * 3600 * memory_mb / 1024 * float(prices.find("serverless")[0].usd)
    return {
        "CostPerHour": an_hour,
        "CostPerInference": an_hour / (60 * max(result.per_minute, 1)),
        "MaxInvocations": result.per_minute,
        "ModelLatency": max(1, round(result.latency_ms)),
        "CpuUtilization": result.cpu_percent,
        "MemoryUtilization": 100 * result.memory_mb / memory_mb,
    } | ({} if "InstanceType" in one else {"ModelSetupTime": round(result.setup_ms)})


def recommendation_id(job: str, number: int) -> str:
    """Names a benchmark of a job; the same each time."""
    return f"{job}/{hashlib.sha256(f'{job} {number}'.encode()).hexdigest()[:8]}"


def scaling(test: Document, target_percent: int, least: int, most: int) -> Document:
    """Autoscaling for a configuration that was measured: SageMaker's DynamicScalingConfiguration.

    The target is the rate at which the worker's processors would be busy for `target_percent` of the time, as measured,
    and never more than it was seen to bear.

    Args:
        test: a finished benchmark.
        target_percent: processor use to aim at.
        least: invocations a minute when it is quiet.
        most: invocations a minute at the peak.
    """
    result = msgspec.convert(test["result"], Result)
    share = min(1.0, target_percent / result.cpu_percent) if result.cpu_percent else target_percent / 100
    target = max(1, int(result.per_minute * share))
    low = max(1, -(-least // target))
    return {
        "MinCapacity": low,
        "MaxCapacity": max(low, -(-most // target)),
        "ScaleInCooldown": COOLDOWN_S,
        "ScaleOutCooldown": COOLDOWN_S,
        "ScalingPolicies": [
            {
                "TargetTracking": {
                    "MetricSpecification": {
                        "Predefined": {"PredefinedMetricType": "SageMakerVariantInvocationsPerInstance"}
                    },
                    "TargetValue": float(target),
                }
            }
        ],
    }
