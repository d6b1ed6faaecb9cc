"""Score a million rows that lie in a bucket as Parquet, and show the predictions beside the columns they are from."""

from __future__ import annotations

import io
import tempfile
import time
from pathlib import Path

import boto3
import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
from onnx import TensorProto, helper
from shared import server

ROWS = 1_000_000
PARQUET = "application/vnd.apache.parquet"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, server():
        s3, sagemaker = boto3.client("s3"), boto3.client("sagemaker")
        s3.create_bucket(Bucket="shop")
        s3.upload_file(str(score_model(Path(folder))), "shop", "models/score.onnx")
        s3.upload_file(str(customers(Path(folder))), "shop", "in/customers.parquet")
        sagemaker.create_model(ModelName="score", PrimaryContainer={"ModelDataUrl": "s3://shop/models/score.onnx"})

        began = time.monotonic()
        sagemaker.create_transform_job(
            TransformJobName="night",
            ModelName="score",
            TransformInput={
                "DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": "s3://shop/in/"}},
                "ContentType": PARQUET,
            },
            TransformOutput={"S3OutputPath": "s3://shop/out/", "Accept": PARQUET},
            TransformResources={"InstanceType": "ml.m5.large", "InstanceCount": 1},
            DataProcessing={"InputFilter": "$['age','visits','basket']", "JoinSource": "Input"},
        )
        waiter = sagemaker.get_waiter("transform_job_completed_or_stopped")
        waiter.wait(TransformJobName="night", WaiterConfig={"Delay": 1})
        seconds = time.monotonic() - began
        body = s3.get_object(Bucket="shop", Key="out/customers.parquet.out")["Body"].read()

    table = pq.read_table(io.BytesIO(body))
    print(f"{len(table):,} rows in {seconds:.1f} s (looked at once a second); the first:")
    for row in table.slice(0, 3).to_pylist():
        print("  ", row)
    if table["customer"].to_pylist() != list(range(ROWS)):
        raise SystemExit("the rows are not in the order of the input")


def score_model(folder: Path) -> Path:
    """A logistic model over three columns."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "weights"], ["z"]), helper.make_node("Sigmoid", ["z"], ["score"])],
        "score",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 3])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, [None, 1])],
        [helper.make_tensor("weights", TensorProto.FLOAT, [3, 1], [-0.05, 0.3, 0.01])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, str(folder / "score.onnx"))
    return folder / "score.onnx"


def customers(folder: Path) -> Path:
    """A Parquet file with a number and three features of each customer."""
    random = np.random.default_rng(1)
    columns = {
        "customer": np.arange(ROWS),
        "age": random.integers(18, 90, ROWS).astype(np.float32),
        "visits": random.poisson(4, ROWS).astype(np.float32),
        "basket": random.gamma(2, 30, ROWS).astype(np.float32),
    }
    pq.write_table(pa.table(columns), folder / "customers.parquet")
    return folder / "customers.parquet"


if __name__ == "__main__":
    main()
