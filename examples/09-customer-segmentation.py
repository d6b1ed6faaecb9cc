"""Overnight customer segmentation: nobody waits and the list is there, so the advisor says batch."""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from pathlib import Path

import boto3
import numpy as np
from shared import advised, deploy, server
from skl2onnx import to_onnx
from sklearn.cluster import KMeans

CUSTOMERS = 5000
SEGMENTS = ("occasional", "regular", "big basket")


def main() -> None:
    configuration = advised("customer-segmentation", "batch")["configuration"]
    with tempfile.TemporaryDirectory() as folder, server():
        bucket = deploy(trained(Path(folder)), configuration)
        s3, sagemaker = boto3.client("s3"), boto3.client("sagemaker")
        table = "\n".join(
            ",".join(f"{value:.2f}" for value in row) for row in draw(np.random.default_rng(2), CUSTOMERS)
        )
        s3.put_object(Bucket=bucket, Key="input/customers.csv", Body=table)

        job = configuration["CreateTransformJob"]
        job["TransformInput"]["ContentType"] = job["TransformOutput"]["Accept"] = "text/csv"
        sagemaker.create_transform_job(**job)
        name = {"TransformJobName": job["TransformJobName"]}
        while (found := sagemaker.describe_transform_job(**name))["TransformJobStatus"] == "InProgress":
            time.sleep(0.2)
        if found["TransformJobStatus"] != "Completed":
            raise SystemExit(found["FailureReason"])
        answers = s3.get_object(Bucket=bucket, Key="output/customers.csv.out")["Body"].read().decode().split()
    sizes = Counter(answer.split(",")[0] for answer in answers)
    print(f"{len(answers)} customers in {len(sizes)} segments: {sorted(sizes.values(), reverse=True)}")
    if len(answers) != CUSTOMERS:
        raise SystemExit("a customer is missing")


def draw(rng: np.random.Generator, count: int) -> np.ndarray:
    """Customers: purchases a year and euros a purchase."""
    centres = np.array([[2, 20], [30, 25], [8, 150]])[rng.choice(3, count, p=[0.6, 0.3, 0.1])]
    return (centres * rng.lognormal(0, 0.2, centres.shape)).astype(np.float32)


def trained(folder: Path) -> Path:
    customers = draw(np.random.default_rng(1), 2000)
    model = KMeans(len(SEGMENTS), n_init=3, random_state=1).fit(customers)
    path = folder / "model.onnx"
    path.write_bytes(to_onnx(model, customers[:1]).SerializeToString())
    return path


if __name__ == "__main__":
    main()
