"""Metrics that target tracking follows: which they are, and their latest values."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence

from fourfold.control.autoscaling.capacities import COPIES, INSTANCES, PROVISIONED, Document, endpoint_and_variant
from fourfold.datapoints import ENDPOINTS, SAGEMAKER
from fourfold.errors import ValidationException

Measure = Callable[[Sequence[Document], float, float], Awaitable[Mapping[str, Mapping[float, float]]]]
"""Values of metric data queries, from one time to another, by id and time."""

LOOK = 10
"""Seconds between two values of a metric."""
MINUTE = 60
WINDOW = 30
"""Seconds that one value is taken over where the metric is known to come every ten seconds, else a minute.
Sums are scaled to a minute, in which targets are given."""
HISTORY = 120
"""Seconds of a metric that are looked at."""

PREDEFINED: dict[str, tuple[str, str, str]] = {
    "SageMakerVariantInvocationsPerInstance": (INSTANCES, "InvocationsPerInstance", "Sum"),
    "SageMakerVariantConcurrentRequestsPerModelHighResolution": (INSTANCES, "ConcurrentRequestsPerModel", "Average"),
    "SageMakerVariantProvisionedConcurrencyUtilization": (
        PROVISIONED, "ServerlessProvisionedConcurrencyUtilization", "Average",
    ),
    "SageMakerInferenceComponentInvocationsPerCopy": (COPIES, "InvocationsPerCopy", "Sum"),
    "SageMakerInferenceComponentConcurrentRequestsPerCopyHighResolution": (
        COPIES, "ConcurrentRequestsPerCopy", "Average",
    ),
}  # fmt: skip
"""Predefined metrics: what they are for, name, statistic."""


def check(configuration: Document, dimension: str) -> None:
    """Is this a TargetTrackingScalingPolicyConfiguration that can be followed?

    Raises:
        ValidationException: no metric or two, one that this dimension does not have, or a target that is not above
            zero.
    """
    given = [m for m in ("PredefinedMetricSpecification", "CustomizedMetricSpecification") if configuration.get(m)]
    if len(given) != 1:
        raise ValidationException(
            "Exactly one of PredefinedMetricSpecification and CustomizedMetricSpecification must be given."
        )
    if configuration["TargetValue"] <= 0:
        raise ValidationException("TargetValue must be greater than 0.")
    if min(configuration.get(name, 0) for name in ("ScaleInCooldown", "ScaleOutCooldown")) < 0:
        raise ValidationException("ScaleInCooldown and ScaleOutCooldown must not be negative.")
    kind = configuration.get("PredefinedMetricSpecification", {}).get("PredefinedMetricType")
    known = [name for name, (its, *_) in PREDEFINED.items() if its == dimension]
    if kind is not None and kind not in known:
        raise ValidationException(f"{kind} is no metric of the dimension {dimension}: use {' or '.join(known)}.")
    _check_custom(configuration.get("CustomizedMetricSpecification"))


def _check_custom(custom: Document | None) -> None:
    single = ("Namespace", "MetricName", "Statistic")
    if not custom:
        return
    if "Metrics" in custom:
        both = [member for member in (*single, "Dimensions", "Unit") if member in custom]
        if both:
            raise ValidationException(f"CustomizedMetricSpecification has either Metrics or {', '.join(both)}.")
        return
    missing = [member for member in single if member not in custom]
    if missing:
        raise ValidationException(f"CustomizedMetricSpecification needs {', '.join(missing)}, or Metrics.")


def is_high_resolution(configuration: Document) -> bool:
    """Is its metric one that AWS looks at each ten seconds?"""
    kind: str = configuration.get("PredefinedMetricSpecification", {}).get("PredefinedMetricType", "")
    return kind.endswith("HighResolution")


def is_quiet(metric: Document) -> bool:
    """Does no value of a metric mean none? Counts of calls have none while nobody calls."""
    return metric.get("Namespace") in (SAGEMAKER, ENDPOINTS) and metric["MetricName"].startswith("Invocation")


def metric_of(configuration: Document, resource: str) -> Document:
    """Its metric, named as in an alarm: by Namespace, MetricName, Dimensions, Statistic and Unit, or by Metrics."""
    custom: Document | None = configuration.get("CustomizedMetricSpecification")
    if custom is not None:
        return custom
    _, name, statistic = PREDEFINED[configuration["PredefinedMetricSpecification"]["PredefinedMetricType"]]
    return {"Namespace": SAGEMAKER, "MetricName": name, "Dimensions": _dimensions(resource), "Statistic": statistic}


def single(metric: Document, period: int) -> Document:
    """The query `m` of a metric that is named by itself."""
    members = {member: metric[member] for member in ("Namespace", "MetricName", "Dimensions") if member in metric}
    return {"Id": "m", "MetricStat": {"Metric": members, "Period": period, "Stat": metric["Statistic"]}}


def with_period(queries: Sequence[Document], period: int) -> list[Document]:
    """Queries of a policy, which have no period, for one."""
    return [
        query | {"MetricStat": query["MetricStat"] | {"Period": period}} if "MetricStat" in query else query
        for query in queries
    ]


async def latest(measure: Measure, configuration: Document, resource: str, now: float, since: float) -> list[float]:
    """A policy's metric, one value each ten seconds, oldest first; as much as is known without a gap.

    Only what was measured `since` the capacity changed: what was before says nothing of what is needed now.
    """
    metric, end = metric_of(configuration, resource), now // LOOK * LOOK
    start = end - HISTORY
    if "Metrics" in metric:
        return await _calculated(measure, metric["Metrics"], start, end, since)
    window = WINDOW if metric["Namespace"] in (SAGEMAKER, ENDPOINTS) else MINUTE
    series = (await measure([single(metric, LOOK)], start, end))["m"]
    times = [start + n * LOOK for n in range(HISTORY // LOOK) if start + n * LOOK >= since]
    found = (dict.fromkeys(times, 0.0) if is_quiet(metric) else {}) | dict(series)
    return _smoothed(times, found, window // LOOK, sums=metric["Statistic"] in ("Sum", "SampleCount"))


async def _calculated(
    measure: Measure, queries: Sequence[Document], start: float, end: float, since: float
) -> list[float]:
    """Values of arithmetic. What it makes of ten seconds says nothing of a minute; each value is that of its minute."""
    wanted = next(query for query in queries if query.get("ReturnData", True))["Id"]
    series = (await measure(with_period(queries, MINUTE), start, end))[wanted]
    if end - MINUTE not in series:
        return []
    return [value for at, value in sorted(series.items()) if at >= since for _ in range(MINUTE // LOOK)]


def _smoothed(times: Sequence[float], found: Mapping[float, float], length: int, *, sums: bool) -> list[float]:
    """Each value taken over so many before it: a mean, or a sum for a minute. A gap forgets what was before it."""
    values: list[float] = []
    for n in range(len(times)):
        slots = times[max(0, n + 1 - length) : n + 1]
        window = [found[at] for at in slots if at in found]
        if not window:
            values.clear()
            continue
        values.append(sum(window) * MINUTE / LOOK / len(slots) if sums else sum(window) / len(window))
    return values


def _dimensions(resource: str) -> list[Document]:
    if resource.startswith("inference-component/"):
        return [{"Name": "InferenceComponentName", "Value": resource.partition("/")[2]}]
    endpoint, variant = endpoint_and_variant(resource)
    return [{"Name": "EndpointName", "Value": endpoint}, {"Name": "VariantName", "Value": variant}]
