"""Operations on buckets."""

from __future__ import annotations

import asyncio

from starlette.responses import Response

from fourfold.api.s3 import xml
from fourfold.api.s3.answers import document
from fourfold.api.s3.ask import Ask
from fourfold.api.s3.bodies import LARGEST_DOCUMENT, receive_whole
from fourfold.api.s3.routes import operation
from fourfold.errors import S3Error


@operation("ListBuckets")
async def _list_buckets(ask: Ask) -> Response:
    names = await asyncio.to_thread(ask.buckets.names)
    listed = [("Bucket", [("Name", name), ("CreationDate", xml.moment(at))]) for name, at in names]
    owner = [("ID", "fourfold"), ("DisplayName", "fourfold")]
    return document("ListAllMyBucketsResult", ("Owner", owner), ("Buckets", listed))


@operation("CreateBucket")
async def _create_bucket(ask: Ask) -> Response:
    await receive_whole(ask.receive, LARGEST_DOCUMENT)  # it may name a region; there is one
    if not await asyncio.to_thread(ask.buckets.create, ask.bucket) and ask.region != "us-east-1":
        raise S3Error(  # in us-east-1 AWS answers 200
            "BucketAlreadyOwnedByYou",
            "Your previous request to create the named bucket succeeded and you already own it.",
            409,
            ask.bucket,
        )
    return Response(headers={"location": f"/{ask.bucket}"})


@operation("HeadBucket")
async def _head_bucket(ask: Ask) -> Response:
    await asyncio.to_thread(ask.buckets.check, ask.bucket)
    return Response(headers={"x-amz-bucket-region": ask.region})


@operation("DeleteBucket")
async def _delete_bucket(ask: Ask) -> Response:
    await asyncio.to_thread(ask.buckets.remove, ask.bucket)
    return Response(status_code=204)


@operation("GetBucketLocation")
async def _get_bucket_location(ask: Ask) -> Response:
    await asyncio.to_thread(ask.buckets.check, ask.bucket)
    place = "" if ask.region == "us-east-1" else ask.region
    text = f'<?xml version="1.0" encoding="UTF-8"?>\n<LocationConstraint xmlns="{xml.NAMESPACE}">{place}'
    return Response(f"{text}</LocationConstraint>", media_type="application/xml")


@operation("GetBucketVersioning")
async def _get_bucket_versioning(ask: Ask) -> Response:
    await asyncio.to_thread(ask.buckets.check, ask.bucket)
    return document("VersioningConfiguration")
