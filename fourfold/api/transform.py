"""Transform jobs on the wire: the operations of the `sagemaker` service, and three native routes beside them.

GET  /fourfold/batch/{job}           how far it is: objects, shards, records, bad records, seconds
GET  /fourfold/batch/{job}/errors    what failed, and where bad records are reported
POST /fourfold/batch/{job}/resume    go on with a job that was stopped or has failed
"""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from fourfold.api.native import Handler, parts
from fourfold.api.protocol import ApiCall, operation
from fourfold.clock import Clock
from fourfold.errors import ValidationException
from fourfold.modes.batch.job import Jobs
from fourfold.modes.batch.running.record import KIND
from fourfold.store import Store, listing
from fourfold.store.resources import Resource
from fourfold.store.shards import Progress

Document = dict[str, Any]


class Transform:
    """CreateTransformJob, DescribeTransformJob, ListTransformJobs, StopTransformJob."""

    service: ClassVar = "sagemaker"

    def __init__(self, store: Store, jobs: Jobs) -> None:
        self._store = store
        self._jobs = jobs

    @operation("CreateTransformJob", kept=("*.KmsKeyId",))
    async def create(self, call: ApiCall) -> Document:
        return {"TransformJobArn": await self._jobs.create(call.params)}

    @operation("DescribeTransformJob")
    async def describe(self, call: ApiCall) -> Document:
        return description(await self._jobs.describe(call.params["TransformJobName"]))

    @operation("ListTransformJobs")
    async def list(self, call: ApiCall) -> Document:
        wanted = listing.from_request(KIND, call.params)
        page = await self._store.run(lambda db: listing.page(db, wanted))
        return {"TransformJobSummaries": [_summary(job) for job in page.entries], "NextToken": page.next_token}

    @operation("StopTransformJob")
    async def stop(self, call: ApiCall) -> Document:
        await self._jobs.stop(call.params["TransformJobName"])
        return {}


def description(job: Resource) -> Document:
    """A job as DescribeTransformJob answers it."""
    return job.document | _summary(job)


def _summary(job: Resource) -> Document:
    return {
        "TransformJobName": job.name,
        "TransformJobArn": job.arn,
        "TransformJobStatus": job.status,
        "CreationTime": job.created_at,
        "LastModifiedTime": job.modified_at,
        "TransformEndTime": job.document.get("TransformEndTime"),
        "FailureReason": job.document.get("FailureReason"),
    }


def batch_routes(jobs: Jobs, clock: Clock) -> dict[str, Handler]:
    """The native routes, for the gateway."""

    async def look(request: Request) -> Response:
        name, what = (*parts(request), "", "")[:2]
        match what:
            case "":
                return _json(_progress(await jobs.describe(name), await jobs.progress(name), clock.now()))
            case "errors":
                return _json(await jobs.errors(name))
        raise _unknown()

    async def act(request: Request) -> Response:
        name, what = (*parts(request), "", "")[:2]
        if what != "resume":
            raise _unknown()
        await jobs.resume(name)
        return _json({})

    return {"GET batch": look, "POST batch": act}


def _progress(job: Resource, progress: Progress, now: float) -> Document:
    began = job.document.get("TransformStartTime", now)
    seconds = max(job.document.get("TransformEndTime", now) - began, 0.0)
    return {
        "TransformJobName": job.name,
        "TransformJobStatus": job.status,
        "FailureReason": job.document.get("FailureReason"),
        "Objects": progress.objects,
        "ObjectsDone": progress.objects_done,
        "ObjectsFailed": progress.objects_failed,
        "Shards": progress.shards,
        "ShardsDone": progress.shards_done,
        "Records": progress.records,
        "BadRecords": progress.errors,
        "Seconds": round(seconds, 3),
        "RecordsPerSecond": round(progress.records / seconds, 1) if seconds else 0.0,
        "StandsStill": progress.waits,
    }


def _unknown() -> ValidationException:
    return ValidationException(
        "The native routes of transform jobs are GET /fourfold/batch/{job}, GET /fourfold/batch/{job}/errors and "
        "POST /fourfold/batch/{job}/resume."
    )


def _json(value: Any) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")
