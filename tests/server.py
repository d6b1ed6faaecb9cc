"""A real `fourfold serve` process for tests, and boto3 clients of it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import urllib.request
from functools import cached_property
from pathlib import Path
from typing import Any

import boto3
import msgspec
from botocore.config import Config

from fourfold.api.keys import Keys


class LiveServer:
    """`fourfold serve` on a free port and a data folder of its own.

    Args:
        folder: the data folder.
        options: further command-line options.
    """

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self.options = options
        self.process: subprocess.Popen[str]
        self.url = ""
        self._clients: list[Any] = []
        self.start()

    def start(self) -> None:
        """Start it (again) and wait for its `ready` line."""
        command = [sys.executable, "-m", "fourfold", "serve", "--port", "0", "--data-dir", str(self.folder)]
        with (self.folder.parent / f"{self.folder.name}.log").open("a") as log:
            self.process = subprocess.Popen([*command, *self.options], stdout=subprocess.PIPE, stderr=log, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith("ready "), f"serve did not start: see {self.folder.parent}/{self.folder.name}.log"
        self.url = line.split()[1]

    def stop(self) -> int:
        """SIGTERM; returns the exit status."""
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(40)
        self._closed()
        return status

    def kill(self) -> None:
        """`kill -9`."""
        self.process.kill()
        self.process.wait(10)
        self._closed()

    def _closed(self) -> None:
        self.process.stdout.close()  # type: ignore[union-attr]
        for client in self._clients:
            client.close()
        self._clients.clear()

    @cached_property
    def keys(self) -> dict[str, Any]:
        """The first key, which the server has made: access_key_id, secret_access_key, api_key."""
        return msgspec.to_builtins(Keys(self.folder).first())

    def client(self, service: str, **config: Any) -> Any:
        """A boto3 client that does not retry, so that a test sees what happens."""
        config = {"retries": {"total_max_attempts": 1}, "read_timeout": 70} | config
        client = boto3.client(
            service,
            endpoint_url=self.url,
            region_name="us-east-1",
            aws_access_key_id=self.keys["access_key_id"],
            aws_secret_access_key=self.keys["secret_access_key"],
            config=Config(**config),
        )
        self._clients.append(client)
        return client

    def get(self, path: str) -> bytes:
        """GET with the bearer token."""
        request = urllib.request.Request(self.url + path, headers={"Authorization": f"Bearer {self.keys['api_key']}"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.read()

    def deploy(
        self, name: str, artifact: Path, *, endpoint: bool = True, wait: bool = True, count: int = 1, **environment: str
    ) -> None:
        """Upload, create model, config and endpoint of one name (or the model alone); wait until it is in service."""
        key = f"models/{name}/{artifact.name}"
        s3 = self.client("s3")
        with contextlib.suppress(s3.exceptions.BucketAlreadyOwnedByYou, s3.exceptions.BucketAlreadyExists):
            s3.create_bucket(Bucket="test-models")
        s3.upload_file(str(artifact), "test-models", key)
        sagemaker = self.client("sagemaker")
        sagemaker.create_model(
            ModelName=name,
            ExecutionRoleArn="arn:aws:iam::123456789012:role/test",
            PrimaryContainer={"ModelDataUrl": f"s3://test-models/{key}", "Environment": environment},
        )
        if not endpoint:
            return
        variant = {"VariantName": "AllTraffic", "ModelName": name, "InstanceType": "ml.m5.large"}
        sagemaker.create_endpoint_config(
            EndpointConfigName=name, ProductionVariants=[variant | {"InitialInstanceCount": count}]
        )
        sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=name)
        if wait:
            self.wait(name)

    def wait(self, name: str, status: str = "InService", seconds: float = 30) -> dict[str, Any]:
        """Wait until an endpoint has a status; returns its description."""
        sagemaker = self.client("sagemaker")
        end = time.monotonic() + seconds
        while True:
            description = sagemaker.describe_endpoint(EndpointName=name)
            if description["EndpointStatus"] == status:
                return description
            if description["EndpointStatus"] == "Failed" or time.monotonic() > end:
                reason = description.get("FailureReason")
                raise AssertionError(f"{name} is {description['EndpointStatus']}, not {status}: {reason}")
            time.sleep(0.02)

    def worker_pids(self) -> list[int]:
        """Process ids of the workers: descendants of the server with a parent that is its zygote."""
        zygotes = _children(self.process.pid)
        return [worker for zygote in zygotes for worker in _children(zygote)]

    def open_files(self) -> int:
        """Descriptors that the server has open."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def resident_mb(self) -> float:
        """Memory of the server's own process."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    def descendants(self) -> list[int]:
        found, frontier = [], [self.process.pid]
        while frontier:
            children = [child for pid in frontier for child in _children(pid)]
            found += children
            frontier = children
        return found


def _children(pid: int) -> list[int]:
    try:
        return [
            int(child) for task in os.listdir(f"/proc/{pid}/task")
            for child in Path(f"/proc/{pid}/task/{task}/children").read_text().split()
        ]  # fmt: skip
    except (FileNotFoundError, ProcessLookupError):
        return []


def alive(pid: int) -> bool:
    """Does the process run (a zombie does not)?"""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False
