"""A model that is Python: a handler in `code/inference.py`, deployed from a folder, answering whole and as a stream."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

import boto3
from shared import FOURFOLD, server

HANDLER = """
from pathlib import Path


def model_fn(model_dir):
    return Path(model_dir, "rhymes.txt").read_text().split()


def transform_fn(model, body, content_type, accept):
    for word in model:
        yield f"{body}, {word}\\n"
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, server():
        model = Path(folder, "rhymer")
        (model / "code").mkdir(parents=True)
        (model / "code" / "inference.py").write_text(HANDLER)
        (model / "rhymes.txt").write_text("fold mould gold")
        subprocess.run([*FOURFOLD, "deploy", str(model), "--name", "rhymer"], check=True)

        runtime = boto3.client("sagemaker-runtime")
        request = {"EndpointName": "rhymer", "ContentType": "text/csv", "Body": "four"}
        print("\nin one piece:", runtime.invoke_endpoint(**request)["Body"].read())
        print("as a stream:")
        for event in runtime.invoke_endpoint_with_response_stream(**request)["Body"]:
            print("  part", event["PayloadPart"]["Bytes"])


if __name__ == "__main__":
    main()
