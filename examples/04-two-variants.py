"""Two models behind one endpoint: calls divided by weight, one variant asked for by name, and the weights moved."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

import boto3
import numpy as np
from shared import server
from skl2onnx import to_onnx
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.tree import DecisionTreeClassifier

CALLS = 200


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, server():
        s3, sagemaker = boto3.client("s3"), boto3.client("sagemaker")
        s3.create_bucket(Bucket="models")
        for name, model in (("linear", LogisticRegression(max_iter=500)), ("tree", DecisionTreeClassifier())):
            model.fit(*load_iris(return_X_y=True))
            artifact = Path(folder, "model.onnx")
            artifact.write_bytes(to_onnx(model, np.zeros((1, 4), np.float32)).SerializeToString())
            s3.upload_file(str(artifact), "models", f"{name}/model.onnx")
            sagemaker.create_model(ModelName=name, PrimaryContainer={"ModelDataUrl": f"s3://models/{name}/model.onnx"})
        sagemaker.create_endpoint_config(
            EndpointConfigName="iris", ProductionVariants=[variant("linear", 0.8), variant("tree", 0.2)]
        )
        sagemaker.create_endpoint(EndpointName="iris", EndpointConfigName="iris")
        wait(sagemaker)

        print(f"weights 0.8 and 0.2: {dict(count())}")
        print(f"asked for by name:   {dict(count(TargetVariant='tree'))}")
        weights = [{"VariantName": "linear", "DesiredWeight": 0.0}, {"VariantName": "tree", "DesiredWeight": 1.0}]
        sagemaker.update_endpoint_weights_and_capacities(EndpointName="iris", DesiredWeightsAndCapacities=weights)
        wait(sagemaker)
        print(f"weights 0 and 1:     {dict(count())}")


def variant(name: str, weight: float) -> dict[str, object]:
    shared = {"InitialInstanceCount": 1, "InstanceType": "ml.m5.large"}
    return {"VariantName": name, "ModelName": name, "InitialVariantWeight": weight, **shared}


def wait(sagemaker) -> None:
    sagemaker.get_waiter("endpoint_in_service").wait(EndpointName="iris", WaiterConfig={"Delay": 1})


def count(**options: str) -> Counter[str]:
    """Which variant answered, of so many calls."""
    runtime = boto3.client("sagemaker-runtime")
    request = {"EndpointName": "iris", "ContentType": "text/csv", "Body": "5.1,3.5,1.4,0.2", **options}
    return Counter(runtime.invoke_endpoint(**request)["InvokedProductionVariant"] for _ in range(CALLS))


if __name__ == "__main__":
    main()
