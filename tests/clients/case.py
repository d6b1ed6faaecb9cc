"""One case of a script of the sagemaker SDK: what every script here begins and ends with.

    python sdk_v2.py CASE

A case deploys and calls, and returns what the test looks at; that is printed as the last line, in JSON.
"""

from __future__ import annotations

import json
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import numpy as np

ROLE = "arn:aws:iam::123456789012:role/sdk"
NAME = f"{Path(sys.argv[0]).stem}-{sys.argv[1]}".replace("_", "-")
"""Of what a case makes; no other case of any script has it."""
BUCKET = NAME


def run(session: Callable[..., Any], *cases: Callable[[Any], object]) -> None:
    """Run the case that the command line names, with a session whose bucket is of that name."""
    boto3.client("s3").create_bucket(Bucket=BUCKET)
    result = {case.__name__: case for case in cases}[sys.argv[1]](session(default_bucket=BUCKET))
    print(f"\n{json.dumps(result)}")  # what the SDK prints stays on lines of its own


def pack(name: str, *members: str) -> str:
    """An archive of files and folders of this folder; one that has another place in it is `there=here`."""
    with tarfile.open(f"{name}.tar.gz", "w:gz") as archive:
        for member in members:
            there, _, here = member.partition("=")
            archive.add(here or there, there)
    return f"{name}.tar.gz"


def upload(name: str, *members: str) -> str:
    """The address of such an archive in the case's bucket."""
    key = f"models/{pack(name, *members)}"
    boto3.client("s3").upload_file(f"{name}.tar.gz", BUCKET, key)
    return f"s3://{BUCKET}/{key}"


def fit_sklearn(name: str = "model.joblib", factor: float = 1.0) -> str:
    """The sum of three numbers, times a factor."""
    import joblib
    from sklearn.linear_model import LinearRegression

    model = LinearRegression().fit(np.eye(3), np.ones(3))
    model.coef_, model.intercept_ = np.full(3, factor), 0.0  # exactly
    joblib.dump(model, name)
    return name


def write(name: str, text: str) -> str:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text(text)
    return name


def captures(endpoint: str) -> bool:
    """Does the endpoint's config have data capture switched on?"""
    client = boto3.client("sagemaker")
    config = client.describe_endpoint(EndpointName=endpoint)["EndpointConfigName"]
    return bool(
        client.describe_endpoint_config(EndpointConfigName=config).get("DataCaptureConfig", {}).get("EnableCapture")
    )


def left(*names: str) -> list[str]:
    """What is still there, once deletions are done, of models and endpoints with these names."""
    client = boto3.client("sagemaker")
    while client.list_endpoints(StatusEquals="Deleting")["Endpoints"]:
        time.sleep(0.1)
    models = [found["ModelName"] for found in client.list_models()["Models"]]
    endpoints = [found["EndpointName"] for found in client.list_endpoints()["Endpoints"]]
    return [name for name in names if name in models + endpoints]
