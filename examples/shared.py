"""What the examples share: a server of their own, as a user would start it, with nothing left behind."""

from __future__ import annotations

import json
import os
import shlex
import socket
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3

SCENARIOS = Path(__file__).parent / "scenarios"
FOURFOLD = [sys.executable, "-m", "fourfold"]


@contextmanager
def server() -> Iterator[str]:
    """Run `fourfold serve` on a free port and a temporary data folder, and point boto3 at it; gives the address."""
    with tempfile.TemporaryDirectory(prefix="fourfold-") as data_dir:
        port = str(_free_port())
        command = [*FOURFOLD, "serve", "--port", port, "--data-dir", data_dir, "--log-level", "warning"]
        # In a session of its own, as a service is: Linux shares the cores between sessions first, and then within one.
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
        assert process.stdout is not None
        ready = process.stdout.readline().split()
        if ready[:1] != ["ready"]:
            sys.exit("the server did not start")
        command = [*FOURFOLD, "env", "--port", port, "--data-dir", data_dir]
        exports = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        os.environ |= dict(word.split("=", 1) for word in shlex.split(exports) if "=" in word)
        try:
            yield ready[1]
        finally:
            process.terminate()
            process.wait(timeout=40)


def advised(name: str, mode: str) -> dict[str, Any]:
    """What the advisor says of examples/scenarios/NAME.yaml, as its JSON; ends the example if it is another mode."""
    command = [*FOURFOLD, "advise", "--file", str(SCENARIOS / f"{name}.yaml"), "--json"]
    answer: dict[str, Any] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    if answer["recommendation"] != mode:
        sys.exit(f"the advisor says {answer['recommendation']}, this example is written for {mode}")
    print(f"the advisor: {mode}, {answer['monthly_cost_usd']:,.2f} USD a month on AWS; because:")
    for step in answer["path"]:
        print(f"  {step['question']} {step['answer']}")
    return answer


def deploy(artifact: Path, configuration: dict[str, Any], **environment: str) -> str:
    """Upload a model and create what the advisor configured: an endpoint, or for a batch the model alone.

    Gives the endpoint's name, once it is in service; for a batch the bucket's.
    """
    job = configuration.get("CreateTransformJob")
    config = configuration.get("CreateEndpointConfig")
    name = job["ModelName"] if job else config["ProductionVariants"][0]["ModelName"]
    bucket = f"{name}-data"
    s3, sagemaker = boto3.client("s3"), boto3.client("sagemaker")
    s3.create_bucket(Bucket=bucket)
    s3.upload_file(str(artifact), bucket, f"model/{artifact.name}")
    container = {"ModelDataUrl": f"s3://{bucket}/model/{artifact.name}", "Environment": environment}
    sagemaker.create_model(ModelName=name, PrimaryContainer=container)
    if job:
        return bucket
    sagemaker.create_endpoint_config(**config)
    endpoint = configuration["CreateEndpoint"]
    sagemaker.create_endpoint(**endpoint)
    made = str(endpoint["EndpointName"])
    sagemaker.get_waiter("endpoint_in_service").wait(EndpointName=made, WaiterConfig={"Delay": 1})
    return made


def packed(handler: str, folder: Path) -> Path:
    """A model.tar.gz with a Python handler and nothing else."""
    (folder / "inference.py").write_text(handler)
    with tarfile.open(folder / "model.tar.gz", "w:gz") as archive:
        archive.add(folder / "inference.py", "code/inference.py")
    return folder / "model.tar.gz"


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
