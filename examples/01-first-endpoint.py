"""Train a model on real data, export it to ONNX, put it behind an endpoint and call it with boto3.

`make demo` runs this. The data is scikit-learn's own copy of the Wisconsin breast cancer set: 569 tumours, 30 measures
each. Everything printed was measured while it ran.
"""

from __future__ import annotations

import http.client
import json
import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from urllib.parse import urlsplit

import boto3
import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from shared import server
from skl2onnx import to_onnx
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.model_selection import train_test_split

NAME = "tumours"
CLIENTS, SECONDS = 8, 3.0


def main() -> None:
    report = Table("step", "what happened", "measured", box=SIMPLE_HEAD, pad_edge=False)
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        model, rows, labels = train()
        artifact = export(model, Path(folder))
        took = time.perf_counter() - began
        report.add_row("train", f"100 trees; {artifact.stat().st_size / 1024:.0f} kB of ONNX", f"{took:.2f} s")

        began = time.perf_counter()
        with server() as url:
            report.add_row("serve", url, f"{time.perf_counter() - began:.2f} s")

            began = time.perf_counter()
            deploy(artifact)
            report.add_row("deploy", f"endpoint {NAME} is in service", f"{time.perf_counter() - began:.2f} s")

            call(report, model, rows, labels)
            load(report, url, rows[0])
    console = Console()
    Console(width=max(console.width, 100)).print(report)


def train() -> tuple[GradientBoostingClassifier, np.ndarray, np.ndarray]:
    """A model, and the rows and labels that it has not seen."""
    features, labels = load_breast_cancer(return_X_y=True)
    features = features.astype(np.float32)
    seen, unseen, seen_labels, unseen_labels = train_test_split(features, labels, test_size=0.2, random_state=0)
    return GradientBoostingClassifier(random_state=0).fit(seen, seen_labels), unseen, unseen_labels


def export(model: GradientBoostingClassifier, folder: Path) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(to_onnx(model, np.zeros((1, 30), np.float32), options={"zipmap": False}).SerializeToString())
    return path


def deploy(artifact: Path) -> None:
    """What an existing SageMaker script does, unchanged: upload, model, config, endpoint."""
    s3, sagemaker = boto3.client("s3"), boto3.client("sagemaker")
    s3.create_bucket(Bucket="models")
    s3.upload_file(str(artifact), "models", "tumours/model.onnx")
    role = "arn:aws:iam::123456789012:role/anything"
    container = {"Image": "fourfold/onnx:latest", "ModelDataUrl": "s3://models/tumours/model.onnx"}
    sagemaker.create_model(ModelName=NAME, ExecutionRoleArn=role, PrimaryContainer=container)
    variant = {"VariantName": "all", "ModelName": NAME, "InitialInstanceCount": 1, "InstanceType": "ml.m5.large"}
    sagemaker.create_endpoint_config(EndpointConfigName=NAME, ProductionVariants=[variant])
    sagemaker.create_endpoint(EndpointName=NAME, EndpointConfigName=NAME)
    sagemaker.get_waiter("endpoint_in_service").wait(EndpointName=NAME, WaiterConfig={"Delay": 0.1, "MaxAttempts": 300})


def call(report: Table, model: GradientBoostingClassifier, rows: np.ndarray, labels: np.ndarray) -> None:
    """One row as JSON, then every unseen row as one CSV body, held against scikit-learn's own answers."""
    runtime = boto3.client("sagemaker-runtime")
    body = json.dumps({"instances": [rows[0].tolist()]})
    answer = runtime.invoke_endpoint(EndpointName=NAME, ContentType="application/json", Body=body)["Body"].read()
    label, probabilities = json.loads(answer)["predictions"][0].values()
    report.add_row("call", f"JSON, one row: label {label}", f"{probabilities[label]:.2%} sure")

    csv = "\n".join(",".join(map(repr, row)) for row in rows.tolist())
    answer = runtime.invoke_endpoint(EndpointName=NAME, ContentType="text/csv", Accept="text/csv", Body=csv)
    served = np.array([line.split(",") for line in answer["Body"].read().decode().split()], float)
    same = np.allclose(served[:, -2:], model.predict_proba(rows), atol=1e-5)
    if not same:
        raise SystemExit("the endpoint does not answer what scikit-learn does")
    right = (served[:, 0] == labels).mean()
    report.add_row("", f"CSV, {len(rows)} unseen rows: the answers of scikit-learn itself", f"{right:.0%} right")


def load(report: Table, url: str, row: np.ndarray) -> None:
    """A short closed loop of one-row calls from threads of this process; the client is the slower half."""
    body = json.dumps({"instances": [row.tolist()]})
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {os.environ['FOURFOLD_API_KEY']}"}
    end = time.perf_counter() + SECONDS

    def client(_: int) -> list[float]:
        connection, latencies = http.client.HTTPConnection(urlsplit(url).netloc), []
        while (began := time.perf_counter()) < end:
            connection.request("POST", f"/endpoints/{NAME}/invocations", body, headers)
            response = connection.getresponse()
            if response.status != 200:
                raise SystemExit(f"a call was answered with {response.status}: {response.read()!r}")
            response.read()
            latencies.append(time.perf_counter() - began)
        return latencies

    with ThreadPoolExecutor(CLIENTS) as threads:
        latencies = [latency for found in threads.map(client, range(CLIENTS)) for latency in found]
    report.add_row("load", f"{CLIENTS} Python clients, one row a call", f"{len(latencies) / SECONDS:,.0f} calls/s")
    report.add_row("", f"{len(latencies):,} calls, none failed; median latency", f"{median(latencies) * 1000:.2f} ms")


if __name__ == "__main__":
    main()
