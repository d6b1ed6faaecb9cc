"""A job as the store has it, and what follows from it."""

from __future__ import annotations

import logging
from typing import Any

import msgspec
from sqlalchemy.engine import Connection

from fourfold.modes.batch.options import options_of
from fourfold.modes.batch.running.tools import Tools
from fourfold.storage.objects import parse_location
from fourfold.store import resources
from fourfold.store.resources import Resource

log = logging.getLogger(__name__)

KIND = "transform-job"
MOST_REASON = 1024
"""Longest FailureReason, characters: DescribeTransformJob's own limit."""


class Record:
    """The record of a job that runs.

    Attributes:
        document: the request's members, and what was noted of the job since.
        options: how it treats its records.
        destination: address under which its outputs go.
        root: the folder of buckets.
    """

    def __init__(self, job: Resource, tools: Tools) -> None:
        self.name = job.name
        self.arn = job.arn
        self.document = job.document
        self.options = msgspec.structs.replace(options_of(job.document), shard_bytes=tools.shard_bytes)
        self.destination = destination(job)
        self.root = str(tools.settings.buckets.resolve())
        self._tools = tools

    @property
    def started_at(self) -> float:
        """When its first run began, seconds since the epoch."""
        return float(self.document["TransformStartTime"])

    async def begin(self) -> None:
        """Note that it runs, unless it did before."""
        if "TransformStartTime" not in self.document:
            await self.note(TransformStartTime=self._tools.clock.now())
        log.info("transform job runs", extra={"job": self.name})

    async def note(self, **changes: Any) -> None:
        """Add to the document."""

        def write(db: Connection) -> None:
            job = resources.get(db, KIND, self.name)
            assert job is not None
            self.document = job.document = job.document | changes
            resources.save(db, job)

        await self._tools.store.run(write)

    async def is_stopping(self) -> bool:
        """Has somebody wished it to stop?"""
        job = await self._tools.store.run(lambda db: resources.get(db, KIND, self.name))
        return job is not None and job.status == "Stopping"

    async def end(self, status: str, reason: str = "") -> None:
        """Write its last status, and why it failed."""
        now = self._tools.clock.now()

        def write(db: Connection) -> None:
            job = resources.get(db, KIND, self.name)
            if job is None:
                return
            job.status, job.modified_at = status, now
            job.document = job.document | {"TransformEndTime": now}
            if reason:
                job.document["FailureReason"] = reason[:MOST_REASON]
            resources.save(db, job)

        await self._tools.store.run(write)
        log.info("transform job ended", extra={"job": self.name, "status": status, "reason": reason})


def destination(job: Resource) -> str:
    """Address under which a job's outputs go, `s3://bucket/prefix`, whichever form it was given in."""
    return str(parse_location(job.document["TransformOutput"]["S3OutputPath"]))
