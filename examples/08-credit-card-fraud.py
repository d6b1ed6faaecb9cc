"""Credit-card fraud: the terminal waits for the score, so the advisor says real-time."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path

import boto3
import numpy as np
from shared import advised, deploy, server
from skl2onnx import to_onnx
from sklearn.ensemble import GradientBoostingClassifier

PAYMENTS = 300
TARGET_MS = 100


def main() -> None:
    configuration = advised("credit-card-fraud", "real-time")["configuration"]
    with tempfile.TemporaryDirectory() as folder, server():
        endpoint = deploy(trained(Path(folder)), configuration)
        runtime, rng = boto3.client("sagemaker-runtime"), np.random.default_rng(2)
        took, frauds = [], 0
        for payment in draw(rng, PAYMENTS)[0]:
            body = ",".join(f"{value:.3f}" for value in payment)
            began = time.perf_counter()
            answer = runtime.invoke_endpoint(
                EndpointName=endpoint, ContentType="text/csv", Accept="application/json", Body=body
            )
            took.append(1000 * (time.perf_counter() - began))
            frauds += json.loads(answer["Body"].read())["predictions"][0]["label"]
    print(f"{PAYMENTS} payments, {frauds} refused; p99 {np.percentile(took, 99):.1f} ms, the target is {TARGET_MS} ms")


def draw(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Payments (amount, hour, kilometres from home, payments in the last hour), and which of them are fraud."""
    payments = np.column_stack(
        [rng.lognormal(3, 1, count), rng.uniform(0, 24, count), rng.exponential(30, count), rng.poisson(1, count)]
    ).astype(np.float32)
    return payments, (payments[:, 0] > 60) & (payments[:, 2] > 40)


def trained(folder: Path) -> Path:
    payments, fraud = draw(np.random.default_rng(1), 2000)
    model = GradientBoostingClassifier(n_estimators=20, random_state=1).fit(payments, fraud)
    path = folder / "model.onnx"
    path.write_bytes(to_onnx(model, payments[:1], options={"zipmap": False}).SerializeToString())
    return path


if __name__ == "__main__":
    main()
