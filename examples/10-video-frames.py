"""Uploaded video frames: large and slow, so the advisor says asynchronous."""

from __future__ import annotations

import io
import json
import tempfile
from pathlib import Path

import boto3
import numpy as np
from shared import advised, deploy, packed, server

FRAMES = 48
HANDLER = """
import io
import json

import numpy as np


def model_fn(model_dir):
    return 12.0  # the change of brightness that counts as a cut


def transform_fn(threshold, body, content_type, accept):
    frames = np.load(io.BytesIO(body)).astype(float)
    change = np.abs(np.diff(frames, axis=0)).mean(axis=(1, 2, 3))
    return json.dumps({"frames": len(frames), "cuts": (np.flatnonzero(change > threshold) + 1).tolist()}), accept
"""


def main() -> None:
    configuration = advised("video-frames", "asynchronous")["configuration"]
    with tempfile.TemporaryDirectory() as folder, server():
        endpoint = deploy(packed(HANDLER, Path(folder)), configuration)
        s3, runtime = boto3.client("s3"), boto3.client("sagemaker-runtime")
        waiting = {}
        for number, cut in enumerate((12, 30)):
            place = {"Bucket": "video-frames-data", "Key": f"input/{number}.npy"}
            s3.put_object(**place, Body=film(cut))
            answer = runtime.invoke_endpoint_async(
                EndpointName=endpoint,
                InputLocation="s3://{Bucket}/{Key}".format(**place),
                ContentType="application/x-npy",
                Accept="application/json",
            )
            print(f"uploaded {number}.npy, the answer will be at {answer['OutputLocation']}")
            waiting[cut] = answer["OutputLocation"]
        for cut, location in waiting.items():
            bucket, _, key = location.removeprefix("s3://").partition("/")
            s3.get_waiter("object_exists").wait(Bucket=bucket, Key=key, WaiterConfig={"Delay": 1, "MaxAttempts": 60})
            found = json.loads(s3.get_object(Bucket=bucket, Key=key)["Body"].read())
            print(found)
            if found["cuts"] != [cut]:
                raise SystemExit(f"the film was cut at {cut}")


def film(cut: int) -> bytes:
    """Grey noise that turns lighter at one frame, as a .npy file."""
    rng = np.random.default_rng(cut)
    frames = rng.integers(0, 8, (FRAMES, 90, 160, 3), dtype=np.uint8)
    frames[cut:] += 60
    file = io.BytesIO()
    np.save(file, frames)
    return file.getvalue()


if __name__ == "__main__":
    main()
