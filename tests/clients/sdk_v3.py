"""What people write with version 3 of the sagemaker SDK, unmodified; run by its own interpreter (test_sdk.py).

    python sdk_v3.py CASE FOLDER

Each case deploys and calls, and prints one line of JSON that the test looks at.
"""

from __future__ import annotations

import json
import os
import sys
import tarfile
from pathlib import Path

import boto3
from sagemaker.core.helper.session_helper import Session, get_execution_role
from sagemaker.core.inference_config import ServerlessInferenceConfig
from sagemaker.core.resources import Endpoint, EndpointConfig, Model
from sagemaker.core.shapes import ContainerDefinition, ProductionVariant
from sagemaker.serve import ModelBuilder

ROLE = "arn:aws:iam::123456789012:role/sdk"
CASE = sys.argv[1].replace("_", "-")
BUCKET = f"sdk-v3-{CASE}"
SKLEARN = "683313688378.dkr.ecr.us-east-1.amazonaws.com/sagemaker-scikit-learn:1.2-1-cpu-py3"
ROW = json.dumps({"instances": [[1.0, 2.0, 3.0]]})


def main() -> None:
    case, folder = sys.argv[1], Path(sys.argv[2])
    os.chdir(folder)
    boto3.client("s3").create_bucket(Bucket=BUCKET)
    result = CASES[case](Session(default_bucket=BUCKET))
    print(f"\n{json.dumps(result)}")  # what the SDK prints stays on lines of its own


def artifact() -> str:
    import joblib
    import numpy as np
    from sklearn.linear_model import LinearRegression

    x = np.arange(12.0).reshape(4, 3)
    joblib.dump(LinearRegression().fit(x, x.sum(axis=1)), "model.joblib")
    with tarfile.open("model.tar.gz", "w:gz") as archive:
        archive.add("model.joblib")
    boto3.client("s3").upload_file("model.tar.gz", BUCKET, "model.tar.gz")
    return f"s3://{BUCKET}/model.tar.gz"


def resources(session: Session) -> object:
    """The low level: one class a resource, whose answers are checked strictly."""
    model = Model.create(
        model_name=CASE,
        execution_role_arn=ROLE,
        primary_container=ContainerDefinition(image=SKLEARN, model_data_url=artifact()),
    )
    config = EndpointConfig.create(
        endpoint_config_name=CASE,
        production_variants=[
            ProductionVariant(
                variant_name="AllTraffic", model_name=CASE, initial_instance_count=1, instance_type="ml.m5.large"
            )
        ],
    )
    endpoint = Endpoint.create(endpoint_name=CASE, endpoint_config_name=CASE)
    endpoint.wait_for_status("InService", timeout=60)
    answer = endpoint.invoke(body=ROW, content_type="application/json").body.read()
    listed = [found.endpoint_name for found in Endpoint.get_all()]
    endpoint.delete()
    config.delete()
    model.delete()
    return {"answer": json.loads(answer), "listed": CASE in listed}


def builder(session: Session) -> object:
    """ModelBuilder: build asks iam, deploy asks sts and logs."""
    built = ModelBuilder(image_uri=SKLEARN, s3_model_data_url=artifact(), role_arn=ROLE, sagemaker_session=session)
    built.build(model_name=CASE)
    endpoint = built.deploy(endpoint_name=CASE, instance_type="ml.m5.large", initial_instance_count=1)
    return json.loads(endpoint.invoke(body=ROW, content_type="application/json").body.read())


def serverless(session: Session) -> object:
    built = ModelBuilder(image_uri=SKLEARN, s3_model_data_url=artifact(), role_arn=ROLE, sagemaker_session=session)
    built.build(model_name=CASE)
    config = ServerlessInferenceConfig(memory_size_in_mb=2048, max_concurrency=5)
    endpoint = built.deploy(endpoint_name=CASE, inference_config=config)
    return json.loads(endpoint.invoke(body=ROW, content_type="application/json").body.read())


def token(session: Session) -> object:
    """A bearer token of the SDK's generator, as OpenAI-compatible clients send it."""
    from sagemaker.core.token_generator import generate_token

    return generate_token(region="us-east-1")


def role(session: Session) -> object:
    """Nothing set but what `fourfold run` sets: role and bucket come from STS, whose address the SDK has fixed."""
    own = Session()
    return {"role": get_execution_role(sagemaker_session=own), "bucket": own.default_bucket()}


CASES = {case.__name__: case for case in (resources, builder, serverless, token, role)}

if __name__ == "__main__":
    main()
