"""What people write with version 2 of the sagemaker SDK, unmodified; run by its own interpreter (test_sdk.py)."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import boto3
import numpy as np
import sagemaker
from case import BUCKET, NAME, ROLE, captures, fit_sklearn, left, run, upload, write
from sagemaker.deserializers import JSONDeserializer
from sagemaker.huggingface import HuggingFaceModel
from sagemaker.model import Model
from sagemaker.model_monitor import DataCaptureConfig
from sagemaker.predictor import Predictor
from sagemaker.pytorch import PyTorchModel
from sagemaker.s3 import S3Downloader
from sagemaker.serializers import CSVSerializer, JSONSerializer
from sagemaker.session import production_variant
from sagemaker.sklearn import SKLearnModel
from sagemaker.tensorflow import TensorFlowModel
from sagemaker.xgboost import XGBoostModel


def sklearn(session: sagemaker.Session) -> object:
    """A framework model with an entry point; NPY both ways, which is the SDK's default here."""
    code = (
        "import os, joblib\ndef model_fn(model_dir):\n    return joblib.load(os.path.join(model_dir, 'model.joblib'))\n"
    )
    model = SKLearnModel(
        model_data=upload("sklearn", fit_sklearn()),
        role=ROLE,
        entry_point=write("inference.py", code),
        framework_version="1.2-1",
        sagemaker_session=session,
    )
    predictor = model.deploy(initial_instance_count=1, instance_type="ml.m5.large")
    answer = predictor.predict(np.array([[1.0, 2.0, 3.0]]))
    predictor.delete_model()
    predictor.delete_endpoint()
    return np.round(answer, 3).tolist()


def deploy_plain(session: sagemaker.Session, **options: object) -> Predictor:
    image = sagemaker.image_uris.retrieve("sklearn", "us-east-1", version="1.2-1")
    model = Model(
        image_uri=image,
        model_data=upload("sklearn-plain", fit_sklearn()),
        role=ROLE,
        predictor_cls=Predictor,
        sagemaker_session=session,
    )
    return model.deploy(1, "ml.m5.large", serializer=JSONSerializer(), deserializer=JSONDeserializer(), **options)


def sklearn_plain(session: sagemaker.Session) -> object:
    """The artifact alone, by SageMaker's image, with JSON."""
    return deploy_plain(session).predict([[1.0, 2.0, 3.0]])


def data_capture(session: sagemaker.Session) -> object:
    """Captured until it is disabled, read back, and enabled with the SDK's defaults."""
    where = f"s3://{BUCKET}/captured"
    config = DataCaptureConfig(True, sampling_percentage=100, destination_s3_uri=where, sagemaker_session=session)
    predictor = deploy_plain(session, data_capture_config=config)
    predictor.predict([[1.0, 2.0, 3.0]])
    predictor.disable_data_capture()
    predictor.predict([[4.0, 5.0, 6.0]])
    while not (files := S3Downloader.list(where, sagemaker_session=session)):
        time.sleep(0.1)
    lines = "".join(S3Downloader.read_file(file, sagemaker_session=session) for file in files).splitlines()
    data = [json.loads(line)["captureData"] for line in lines]
    predictor.enable_data_capture()
    now = session.sagemaker_client.describe_endpoint(EndpointName=predictor.endpoint_name)["DataCaptureConfig"]
    return {
        "captured": [[one[side]["data"] for side in ("endpointInput", "endpointOutput")] for one in data],
        "now": [now["CaptureStatus"], now["CurrentSamplingPercentage"], now["DestinationS3Uri"]],
    }


def fit_xgboost() -> object:
    import xgboost

    rng = np.random.default_rng(1)
    x = rng.normal(size=(100, 3))
    return xgboost.train({"objective": "binary:logistic"}, xgboost.DMatrix(x, x[:, 0] > 0), 3)


def xgboost(session: sagemaker.Session) -> object:
    """A handler with model_fn alone, whose booster gets CSV; then libsvm, the SDK's default for XGBoost."""
    fit_xgboost().save_model("model.json")
    code = (
        "import os, xgboost\ndef model_fn(model_dir):\n"
        "    booster = xgboost.Booster()\n    booster.load_model(os.path.join(model_dir, 'model.json'))\n"
        "    return booster\n"
    )
    model = XGBoostModel(
        model_data=upload("xgboost", "model.json"),
        role=ROLE,
        entry_point=write("serve.py", code),
        framework_version="1.7-1",
        sagemaker_session=session,
    )
    predictor = model.deploy(1, "ml.m5.large")
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
        model_data=upload("xgboost-algorithm", "xgboost-model"),
        role=ROLE,
        predictor_cls=Predictor,
        sagemaker_session=session,
    )
    predictor = model.deploy(1, "ml.m5.large", serializer=CSVSerializer())
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
    predictor = model.deploy(1, "ml.m5.large")
    return predictor.predict(b"hello").decode()


def lifetime(model: Model, data: object, **options: object) -> object:
    """Deploy, call, grow, switch data capture on and off, shrink and delete, as its SDK does each of them."""
    predictor = model.deploy(1, "ml.m5.large", endpoint_name=NAME, **options)
    answers = [predictor.predict(data)]
    predictor.update_endpoint(initial_instance_count=2, instance_type="ml.m5.large")
    seen = [captures(NAME)]
    predictor.update_data_capture_config(
        DataCaptureConfig(
            True,
            sampling_percentage=100,
            destination_s3_uri=f"s3://{BUCKET}/capture",
            sagemaker_session=model.sagemaker_session,
        )
    )
    seen.append(captures(NAME))
    predictor.disable_data_capture()
    seen.append(captures(NAME))
    predictor.enable_data_capture()
    seen.append(captures(NAME))
    answers.append(predictor.predict(data))
    predictor.delete_model()
    predictor.delete_endpoint()
    return {
        "answers": [answer.tolist() if isinstance(answer, np.ndarray) else answer for answer in answers],
        "captures": seen,
        "left": left(model.name, NAME),
    }


def variants(session: sagemaker.Session) -> object:
    """What a predictor and a session do besides: variants, streams, other models, monitors; then all of it deleted."""
    for name, factor in ((f"{NAME}-single", 1.0), (f"{NAME}-double", 2.0)):
        Model(
            image_uri=sagemaker.image_uris.retrieve("sklearn", "us-east-1", version="1.2-1"),
            model_data=upload(name, fit_sklearn(factor=factor)),
            role=ROLE,
            name=name,
            sagemaker_session=session,
        ).create(instance_type="ml.m5.large")
    both = [
        production_variant(name, "ml.m5.large", 1, variant, 0.5)
        for variant, name in (("one", f"{NAME}-single"), ("two", f"{NAME}-double"))
    ]
    session.endpoint_from_production_variants(NAME, both, tags=[{"Key": "team", "Value": "sums"}])
    predictor = Predictor(NAME, session, JSONSerializer(), JSONDeserializer())
    row = [[1.0, 2.0, 3.0]]
    found = {
        "variants": [predictor.predict(row, target_variant=name)["predictions"] for name in ("one", "two")],
        "monitors": predictor.list_monitors(),
    }
    predictor.update_endpoint(initial_instance_count=1, instance_type="ml.m5.large", model_name=f"{NAME}-double")
    found["updated"] = json.loads(b"".join(predictor.predict_stream(row)))["predictions"]
    config = boto3.client("sagemaker").describe_endpoint(EndpointName=NAME)["EndpointConfigName"]
    predictor.delete_model()
    predictor.delete_endpoint(delete_endpoint_config=True)
    configs = boto3.client("sagemaker").list_endpoint_configs(NameContains=config)["EndpointConfigs"]
    return found | {"left": left(f"{NAME}-double", NAME) + configs}


NUMPY = """
import os
import numpy as np

def model_fn(model_dir):
    return np.load(os.path.join(model_dir, "weights.npy"))
"""
"""A handler that needs no framework, whatever the image; PREDICT makes it call the weights."""

PREDICT = """
def predict_fn(data, model):
    return np.asarray(data) @ model
"""


def weights() -> str:
    np.save("weights.npy", np.ones((3, 1), np.float32))
    return "weights.npy"


def pytorch(session: sagemaker.Session) -> object:
    """NPY both ways, the SDK's default; the SDK puts the code into the artifact."""
    model = PyTorchModel(
        model_data=upload("pytorch", weights()),
        role=ROLE,
        entry_point=write("serve.py", NUMPY + PREDICT),
        framework_version="2.3",
        py_version="py311",
        sagemaker_session=session,
    )
    return lifetime(model, np.array([[1.0, 2.0, 3.0]], np.float32))


def torchscript(session: sagemaker.Session) -> object:
    """The artifact's TorchScript file, which the image loads and calls; the code has nothing but input_fn."""
    code = "import json, torch\ndef input_fn(data, content_type):\n    return torch.tensor(json.loads(data)['rows'])\n"
    model = PyTorchModel(
        model_data=upload("torchscript", "model.pth"),
        role=ROLE,
        entry_point=write("serve.py", code),
        framework_version="2.3",
        py_version="py311",
        sagemaker_session=session,
    )
    return lifetime(model, {"rows": [[1.0, 2.0, 3.0]]}, serializer=JSONSerializer(), deserializer=JSONDeserializer())


def tensorflow(session: sagemaker.Session) -> object:
    """A handler of the toolkit's kind on TensorFlow's image."""
    code = NUMPY + "def predict_fn(data, model):\n    return {'predictions': (np.asarray(data) @ model).tolist()}\n"
    model = TensorFlowModel(
        model_data=upload("tensorflow", weights()),
        role=ROLE,
        entry_point=write("inference.py", code),
        framework_version="2.16",
        sagemaker_session=session,
    )
    return lifetime(model, [[1.0, 2.0, 3.0]])


def saved_model(session: sagemaker.Session) -> object:
    """A SavedModel in a version folder, without code; JSON both ways, TensorFlowPredictor's default."""
    model = TensorFlowModel(
        model_data=upload("saved-model", "1"), role=ROLE, framework_version="2.16", sagemaker_session=session
    )
    return lifetime(model, {"instances": [[1.0, 2.0, 3.0]]})


def saved_model_with_handlers(session: sagemaker.Session) -> object:
    """A SavedModel and the two functions of TensorFlow's image around it."""
    code = (
        "import json\n"
        "def input_handler(data, context):\n"
        "    return json.dumps({'instances': json.loads(data.read())['rows']})\n"
        "def output_handler(response, context):\n"
        "    return json.dumps({'sums': response.json()['predictions']}), context.accept_header\n"
    )
    model = TensorFlowModel(
        model_data=upload("saved-model", "1"),
        role=ROLE,
        entry_point=write("inference.py", code),
        framework_version="2.16",
        sagemaker_session=session,
    )
    return lifetime(model, {"rows": [[1.0, 2.0, 3.0]]})


def hugging_face(session: sagemaker.Session) -> object:
    """What model_fn returns is called like a pipeline, with `inputs` and `parameters`; JSON both ways."""
    code = NUMPY.replace("return np.load", "weights = np.load") + (
        "    return lambda inputs, scale=1: [{'sum': (scale * np.asarray(inputs) @ weights).tolist()}]\n"
    )
    model = HuggingFaceModel(
        model_data=upload("hugging-face", weights()),
        role=ROLE,
        entry_point=write("inference.py", code),
        transformers_version="4.37",
        pytorch_version="2.1",
        py_version="py310",
        sagemaker_session=session,
    )
    return lifetime(model, {"inputs": [[1.0, 2.0, 3.0]], "parameters": {"scale": 2}})


def role(session: sagemaker.Session) -> object:
    """Nothing set but what `fourfold run` sets: role and bucket come from STS, whose address the SDK has fixed."""
    own = sagemaker.Session()
    return {"role": sagemaker.get_execution_role(sagemaker_session=own), "bucket": own.default_bucket()}


if __name__ == "__main__":
    run(
        sagemaker.Session,
        sklearn,
        sklearn_plain,
        data_capture,
        xgboost,
        xgboost_algorithm,
        own_image,
        variants,
        pytorch,
        torchscript,
        tensorflow,
        saved_model,
        saved_model_with_handlers,
        hugging_face,
        role,
    )
