"""What people write with version 2 of the sagemaker SDK, unmodified; run by its own interpreter (test_sdk.py).

    python sdk_v2.py CASE FOLDER

Each case deploys and calls, and prints one line of JSON that the test looks at.
"""

from __future__ import annotations

import json
import os
import sys
import tarfile
import time
from pathlib import Path

import boto3
import numpy as np
import sagemaker
from sagemaker.deserializers import JSONDeserializer
from sagemaker.model import Model
from sagemaker.model_monitor import DataCaptureConfig
from sagemaker.predictor import Predictor
from sagemaker.serializers import CSVSerializer, JSONSerializer
from sagemaker.serverless import ServerlessInferenceConfig
from sagemaker.sklearn import SKLearnModel
from sagemaker.xgboost import XGBoostModel

ROLE = "arn:aws:iam::123456789012:role/sdk"
BUCKET = f"sdk-v2-{sys.argv[1].replace('_', '-')}"


def main() -> None:
    case, folder = sys.argv[1], Path(sys.argv[2])
    os.chdir(folder)
    boto3.client("s3").create_bucket(Bucket=BUCKET)
    result = CASES[case](sagemaker.Session(default_bucket=BUCKET))
    print(f"\n{json.dumps(result)}")  # what the SDK prints stays on lines of its own


def upload(session: sagemaker.Session, name: str, *members: str) -> str:
    with tarfile.open(f"{name}.tar.gz", "w:gz") as archive:
        for member in members:
            archive.add(member)
    return session.upload_data(f"{name}.tar.gz", key_prefix=f"models/{name}")


def ready(session: sagemaker.Session, predictor: Predictor) -> Predictor:
    """As `deploy(wait=True)`, which sleeps half a minute before it looks for the first time."""
    for _ in range(600):
        found = session.sagemaker_client.describe_endpoint(EndpointName=predictor.endpoint_name)
        if found["EndpointStatus"] == "InService":
            return predictor
        assert found["EndpointStatus"] != "Failed", found["FailureReason"]
        time.sleep(0.1)
    raise TimeoutError(predictor.endpoint_name)


def fit_sklearn() -> None:
    import joblib
    from sklearn.linear_model import LinearRegression

    x = np.arange(12.0).reshape(4, 3)
    joblib.dump(LinearRegression().fit(x, x.sum(axis=1)), "model.joblib")


def sklearn(session: sagemaker.Session) -> object:
    """A framework model with an entry point; NPY both ways, which is the SDK's default here."""
    fit_sklearn()
    Path("inference.py").write_text(
        "import os, joblib\ndef model_fn(model_dir):\n    return joblib.load(os.path.join(model_dir, 'model.joblib'))\n"
    )
    model = SKLearnModel(
        model_data=upload(session, "sklearn", "model.joblib"),
        role=ROLE,
        entry_point="inference.py",
        framework_version="1.2-1",
        sagemaker_session=session,
    )
    predictor = ready(session, model.deploy(initial_instance_count=1, instance_type="ml.m5.large", wait=False))
    answer = predictor.predict(np.array([[1.0, 2.0, 3.0]]))
    predictor.delete_model()
    predictor.delete_endpoint()
    return np.round(answer, 3).tolist()


def sklearn_plain(session: sagemaker.Session) -> object:
    """The artifact alone, by SageMaker's image, with JSON."""
    fit_sklearn()
    image = sagemaker.image_uris.retrieve("sklearn", "us-east-1", version="1.2-1")
    model = Model(
        image_uri=image,
        model_data=upload(session, "sklearn-plain", "model.joblib"),
        role=ROLE,
        predictor_cls=Predictor,
        sagemaker_session=session,
    )
    predictor = model.deploy(1, "ml.m5.large", serializer=JSONSerializer(), deserializer=JSONDeserializer(), wait=False)
    return ready(session, predictor).predict([[1.0, 2.0, 3.0]])


def fit_xgboost() -> object:
    import xgboost

    rng = np.random.default_rng(1)
    x = rng.normal(size=(100, 3))
    return xgboost.train({"objective": "binary:logistic"}, xgboost.DMatrix(x, x[:, 0] > 0), 3)


def xgboost(session: sagemaker.Session) -> object:
    """A handler with model_fn alone, whose booster gets CSV; then libsvm, the SDK's default for XGBoost."""
    fit_xgboost().save_model("model.json")
    Path("serve.py").write_text(
        "import os, xgboost\ndef model_fn(model_dir):\n"
        "    booster = xgboost.Booster()\n    booster.load_model(os.path.join(model_dir, 'model.json'))\n"
        "    return booster\n"
    )
    model = XGBoostModel(
        model_data=upload(session, "xgboost", "model.json"),
        role=ROLE,
        entry_point="serve.py",
        framework_version="1.7-1",
        sagemaker_session=session,
    )
    predictor = ready(session, model.deploy(1, "ml.m5.large", wait=False))
    libsvm = predictor.predict("0:1.0 1:0.0 2:0.0")
    predictor.serializer = CSVSerializer()
    return {"csv": predictor.predict([[1.0, 0.0, 0.0]]), "libsvm": libsvm}


def xgboost_algorithm(session: sagemaker.Session) -> object:
    """The built-in algorithm's artifact, a pickled `xgboost-model`, without code."""
    import pickle

    with open("xgboost-model", "wb") as file:
        pickle.dump(fit_xgboost(), file)
    model = Model(
        image_uri=sagemaker.image_uris.retrieve("xgboost", "us-east-1", version="1.7-1"),
        model_data=upload(session, "xgboost-algorithm", "xgboost-model"),
        role=ROLE,
        predictor_cls=Predictor,
        sagemaker_session=session,
    )
    predictor = ready(session, model.deploy(1, "ml.m5.large", serializer=CSVSerializer(), wait=False))
    return predictor.predict([[1.0, 0.0, 0.0]]).decode()


def own_image(session: sagemaker.Session) -> object:
    """An image of one's own: here its server is a command."""
    model = Model(
        image_uri="123456789012.dkr.ecr.us-east-1.amazonaws.com/mine:1",
        role=ROLE,
        env={"FOURFOLD_COMMAND": f"{sys.executable} {Path(__file__).parent / 'own_server.py'}"},
        predictor_cls=Predictor,
        sagemaker_session=session,
    )
    predictor = ready(session, model.deploy(1, "ml.m5.large", wait=False))
    return predictor.predict(b"hello").decode()


def serverless(session: sagemaker.Session) -> object:
    fit_sklearn()
    model = Model(
        image_uri=sagemaker.image_uris.retrieve("sklearn", "us-east-1", version="1.2-1"),
        model_data=upload(session, "serverless", "model.joblib"),
        role=ROLE,
        predictor_cls=Predictor,
        sagemaker_session=session,
    )
    config = ServerlessInferenceConfig(memory_size_in_mb=2048, max_concurrency=5)
    predictor = model.deploy(
        serverless_inference_config=config, serializer=JSONSerializer(), deserializer=JSONDeserializer(), wait=False
    )
    return ready(session, predictor).predict([[1.0, 2.0, 3.0]])


def capture(session: sagemaker.Session) -> object:
    """Data capture switched on and off, then everything deleted."""
    fit_sklearn()
    model = Model(
        image_uri=sagemaker.image_uris.retrieve("sklearn", "us-east-1", version="1.2-1"),
        model_data=upload(session, "capture", "model.joblib"),
        role=ROLE,
        predictor_cls=Predictor,
        sagemaker_session=session,
    )
    predictor = ready(session, model.deploy(1, "ml.m5.large", endpoint_name="capture", wait=False))
    client = session.sagemaker_client

    def enabled() -> bool:
        ready(session, predictor)
        config = client.describe_endpoint(EndpointName="capture")["EndpointConfigName"]
        found = client.describe_endpoint_config(EndpointConfigName=config).get("DataCaptureConfig", {})
        return found.get("EnableCapture", False)

    seen = [enabled()]
    predictor.update_data_capture_config(
        DataCaptureConfig(
            True, sampling_percentage=100, destination_s3_uri=f"s3://{BUCKET}/capture", sagemaker_session=session
        )
    )
    seen.append(enabled())
    predictor.disable_data_capture()
    seen.append(enabled())
    predictor.delete_model()
    predictor.delete_endpoint()
    for _ in range(100):
        if not client.list_endpoints(NameContains="capture")["Endpoints"]:
            break
        time.sleep(0.1)
    left = (
        client.list_models(NameContains=model.name)["Models"]
        + client.list_endpoints(NameContains="capture")["Endpoints"]
    )
    return {"enabled": seen, "left": left}


def role(session: sagemaker.Session) -> object:
    """Nothing set but what `fourfold run` sets: role and bucket come from STS, whose address the SDK has fixed."""
    own = sagemaker.Session()
    return {"role": sagemaker.get_execution_role(sagemaker_session=own), "bucket": own.default_bucket()}


CASES = {
    case.__name__: case
    for case in (sklearn, sklearn_plain, xgboost, xgboost_algorithm, own_image, serverless, capture, role)
}

if __name__ == "__main__":
    main()
