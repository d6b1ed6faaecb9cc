"""Inference recommendations jobs on the wire: six operations of the `sagemaker` service."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

from fourfold.advisor.prices import Prices
from fourfold.advisor.recommender.figures import metrics, recommendation_id, scaling
from fourfold.advisor.recommender.jobs import KIND, Recommender
from fourfold.api.protocol import ApiCall, operation
from fourfold.errors import ResourceNotFound, ValidationException
from fourfold.store import Store, listing
from fourfold.store.resources import Resource

Document = dict[str, Any]

TARGET_PERCENT = 50
"""AWS's default of TargetCpuUtilizationPerCore."""
MODEL_FILTERS: dict[str, tuple[str, ...]] = {
    "ModelNameEquals": ("InputConfig", "ModelName"),
    "ModelPackageVersionArnEquals": ("InputConfig", "ModelPackageVersionArn"),
}
"""Filters of a list, and where in a job's request they look."""


class InferenceRecommender:
    """Create, Describe, List, ListSteps and Stop of InferenceRecommendationsJobs, and
    GetScalingConfigurationRecommendation."""

    service: ClassVar = "sagemaker"

    def __init__(self, store: Store, jobs: Recommender, prices: Prices) -> None:
        self._store = store
        self._jobs = jobs
        self._prices = prices

    @operation("CreateInferenceRecommendationsJob", kept=("RoleArn", "InputConfig.VpcConfig", "OutputConfig.KmsKeyId"))
    async def create(self, call: ApiCall) -> Document:
        return {"JobArn": await self._jobs.create(call.params)}

    @operation("DescribeInferenceRecommendationsJob")
    async def describe(self, call: ApiCall) -> Document:
        job = await self._jobs.describe(call.params["JobName"])
        found = [
            {"RecommendationId": recommendation_id(job.name, number), **self._benchmark(job, number)}
            for number, test in enumerate(job.document["tests"])
            if test["Status"] == "COMPLETED"
        ]
        found.sort(key=lambda one: one["Metrics"]["CostPerInference"])
        return _summary(job) | {
            "InputConfig": job.document["InputConfig"],
            "StoppingConditions": job.document.get("StoppingConditions"),
            "InferenceRecommendations": found or None,
        }

    @operation("ListInferenceRecommendationsJobs")
    async def list(self, call: ApiCall) -> Document:
        members = {path: call.params[name] for name, path in MODEL_FILTERS.items() if name in call.params}
        wanted = replace(listing.from_request(KIND, call.params), members=members)
        page = await self._store.run(lambda db: listing.page(db, wanted))
        return {
            "InferenceRecommendationsJobs": [_summary(job) for job in page.entries],
            "NextToken": page.next_token,
        }

    @operation("ListInferenceRecommendationsJobSteps")
    async def list_steps(self, call: ApiCall) -> Document:
        job = await self._jobs.describe(call.params["JobName"])
        steps = [
            {
                "StepType": "BENCHMARK",
                "JobName": job.name,
                "Status": test["Status"],
                "InferenceBenchmark": self._benchmark(job, number) | {"FailureReason": test.get("FailureReason")},
            }
            for number, test in enumerate(job.document["tests"])
            if call.params.get("Status") in (None, test["Status"])
        ]
        first = _place(call.params.get("NextToken"))
        last = first + call.params.get("MaxResults", 10)
        return {"Steps": steps[first:last], "NextToken": str(last) if last < len(steps) else None}

    @operation("StopInferenceRecommendationsJob")
    async def stop(self, call: ApiCall) -> Document:
        await self._jobs.stop(call.params["JobName"])
        return {}

    @operation("GetScalingConfigurationRecommendation")
    async def get_scaling(self, call: ApiCall) -> Document:
        asked = call.params
        job = await self._jobs.describe(asked["InferenceRecommendationsJobName"])
        number, test = self._measured(job, asked)
        objective = asked.get("ScalingPolicyObjective", {})
        peak = objective.get("MaxInvocationsPerMinute", test["result"]["per_minute"])
        quiet = objective.get("MinInvocationsPerMinute", 0)
        if peak < quiet:
            raise ValidationException(
                "ScalingPolicyObjective: MaxInvocationsPerMinute is below MinInvocationsPerMinute; swap them."
            )
        target = asked.get("TargetCpuUtilizationPerCore", TARGET_PERCENT)
        seen = metrics(test, self._prices)
        return {
            "InferenceRecommendationsJobName": job.name,
            "RecommendationId": recommendation_id(job.name, number),
            "EndpointName": _endpoint(job.name, number),
            "TargetCpuUtilizationPerCore": target,
            "ScalingPolicyObjective": {"MinInvocationsPerMinute": quiet, "MaxInvocationsPerMinute": peak},
            "Metric": {"InvocationsPerInstance": seen["MaxInvocations"], "ModelLatency": seen["ModelLatency"]},
            "DynamicScalingConfiguration": scaling(test, target, quiet, peak),
        }

    def _measured(self, job: Resource, asked: Document) -> tuple[int, Document]:
        """The benchmark that is asked for, by id or endpoint; the cheapest where neither is named."""
        done = [
            (number, test)
            for number, test in enumerate(job.document["tests"])
            if test["Status"] == "COMPLETED" and "InstanceType" in test["configuration"]
        ]
        if not done:
            raise ValidationException(
                f"{job.name} is {job.status} and has no recommendation for an instance; there is nothing to scale yet."
            )
        for number, test in done:
            if asked.get("RecommendationId") == recommendation_id(job.name, number):
                return number, test
            if asked.get("EndpointName") == _endpoint(job.name, number):
                return number, test
        if asked.get("RecommendationId") or asked.get("EndpointName"):
            known = ", ".join(recommendation_id(job.name, number) for number, _ in done)
            raise ResourceNotFound(f"{job.name} has no such recommendation; it has {known}.")
        return min(done, key=lambda one: metrics(one[1], self._prices)["CostPerInference"])

    def _benchmark(self, job: Resource, number: int) -> Document:
        test = job.document["tests"][number]
        one = test["configuration"]
        endpoint = _endpoint(job.name, number)
        shape = {"ServerlessConfig": one["ServerlessConfig"]} if "ServerlessConfig" in one else {
            "InstanceType": one["InstanceType"], "InitialInstanceCount": 1,
        }  # fmt: skip
        values = [{"Key": k, "ValueType": "string", "Value": v} for k, v in one["environment"].items()]
        return {
            "Metrics": metrics(test, self._prices) if test["Status"] == "COMPLETED" else None,
            "EndpointConfiguration": {"EndpointName": endpoint, "VariantName": "AllTraffic", **shape},
            "ModelConfiguration": {"EnvironmentParameters": values} if values else {},
            "InvocationStartTime": test.get("began"),
            "InvocationEndTime": test.get("ended"),
        }


def _summary(job: Resource) -> Document:
    wanted = job.document["InputConfig"]
    payload = wanted.get("ContainerConfig", {}).get("PayloadConfig", {})
    return {
        "JobName": job.name,
        "JobDescription": job.document.get("JobDescription", ""),
        "JobType": job.document["JobType"],
        "JobArn": job.arn,
        "RoleArn": job.document["RoleArn"],
        "Status": job.status,
        "CreationTime": job.created_at,
        "LastModifiedTime": job.modified_at,
        "CompletionTime": job.document.get("CompletionTime"),
        "FailureReason": job.document.get("FailureReason"),
        "ModelName": wanted.get("ModelName"),
        "ModelPackageVersionArn": wanted.get("ModelPackageVersionArn"),
        "SamplePayloadUrl": payload.get("SamplePayloadUrl"),
    }


def _endpoint(job: str, number: int) -> str:
    """What the measured configuration is called; nothing of the name runs any more."""
    return "sm-epc-" + recommendation_id(job, number).rpartition("/")[2]


def _place(token: str | None) -> int:
    if token is None:
        return 0
    if not token.isdigit():
        raise ValidationException("NextToken: this is none that a former answer gave.")
    return int(token)
