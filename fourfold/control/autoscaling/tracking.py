"""Metrics that target tracking follows: which they are, and their latest values."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence

from fourfold.control.autoscaling.capacities import Document, endpoint_and_variant
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
    "SageMakerVariantInvocationsPerInstance": (SAGEMAKER, "InvocationsPerInstance", "Sum"),
    "SageMakerVariantConcurrentRequestsPerModelHighResolution": (SAGEMAKER, "ConcurrentRequestsPerModel", "Average"),
    "SageMakerVariantProvisionedConcurrencyUtilization": (
        SAGEMAKER, "ServerlessProvisionedConcurrencyUtilization", "Average",
    ),
    "SageMakerInferenceComponentInvocationsPerCopy": (SAGEMAKER, "InvocationsPerCopy", "Sum"),
    "SageMakerInferenceComponentConcurrentRequestsPerCopyHighResolution": (
        SAGEMAKER, "ConcurrentRequestsPerCopy", "Average",
    ),
}  # fmt: skip
"""Predefined metrics: namespace, name, statistic."""


def check(configuration: Document) -> None:
    """Is this a TargetTrackingScalingPolicyConfiguration that can be followed?

    Raises:
        ValidationException: no metric or two, an unknown one, or a target that is not above zero.
    """
    given = [m for m in ("PredefinedMetricSpecification", "CustomizedMetricSpecification") if configuration.get(m)]
    if len(given) != 1:
        raise ValidationException(
            "Exactly one of PredefinedMetricSpecification and CustomizedMetricSpecification must be given."
        )
    if configuration["TargetValue"] <= 0:
        raise ValidationException("TargetValue must be greater than 0.")
    kind = configuration.get("PredefinedMetricSpecification", {}).get("PredefinedMetricType")
    if kind is not None and kind not in PREDEFINED:
        raise ValidationException(f"{kind} is no metric of SageMaker: use {', '.join(PREDEFINED)}.")


async def latest(measure: Measure, configuration: Document, resource: str, now: float, since: float) -> list[float]:
    """A policy's metric, one value each ten seconds, oldest first; as much as is known without a gap.

    Only what was measured `since` the capacity changed: what was before says nothing of what is needed now.
    """
    queries, wanted, statistic, quiet = _queries(configuration, resource)
    end = now // LOOK * LOOK
    start = end - HISTORY
    series = (await measure(queries, start, end))[wanted]
    times = [start + n * LOOK for n in range(HISTORY // LOOK) if start + n * LOOK >= since]
    found = (dict.fromkeys(times, 0.0) if quiet else {}) | dict(series)
    return _smoothed(times, found, (WINDOW if quiet else MINUTE) // LOOK, sums=statistic in ("Sum", "SampleCount"))


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


def _queries(configuration: Document, resource: str) -> tuple[list[Document], str, str, bool]:
    """Queries of a tracked metric, the id of the wanted one, its statistic, and whether no value means none.

    Counts of calls have no value while nobody calls; there the capacity may go down.
    """
    predefined = configuration.get("PredefinedMetricSpecification")
    if predefined is not None:
        namespace, name, statistic = PREDEFINED[predefined["PredefinedMetricType"]]
        metric = {"Namespace": namespace, "MetricName": name, "Dimensions": _dimensions(resource)}
        return [_query(metric, statistic)], "m", statistic, True
    custom = configuration["CustomizedMetricSpecification"]
    if "Metrics" in custom:
        asked = [
            query | {"MetricStat": query["MetricStat"] | {"Period": LOOK}} if "MetricStat" in query else query
            for query in custom["Metrics"]
        ]
        wanted = next(query for query in asked if query.get("ReturnData", True))
        return asked, wanted["Id"], wanted.get("MetricStat", {}).get("Stat", "Average"), False
    for member in ("Namespace", "MetricName", "Statistic"):
        if member not in custom:
            raise ValidationException(f"CustomizedMetricSpecification needs {member}, or Metrics.")
    quiet = custom["Namespace"] in (SAGEMAKER, ENDPOINTS) and custom["MetricName"].startswith("Invocation")
    return [_query(custom, custom["Statistic"])], "m", custom["Statistic"], quiet


def _query(metric: Document, statistic: str) -> Document:
    members = {member: metric[member] for member in ("Namespace", "MetricName", "Dimensions") if member in metric}
    return {"Id": "m", "MetricStat": {"Metric": members, "Period": LOOK, "Stat": statistic}}


def _dimensions(resource: str) -> list[Document]:
    if resource.startswith("inference-component/"):
        return [{"Name": "InferenceComponentName", "Value": resource.partition("/")[2]}]
    endpoint, variant = endpoint_and_variant(resource)
    return [{"Name": "EndpointName", "Value": endpoint}, {"Name": "VariantName", "Value": variant}]
