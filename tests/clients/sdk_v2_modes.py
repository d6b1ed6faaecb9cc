"""The other three modes with version 2 of the sagemaker SDK, unmodified; run by its own interpreter (test_sdk.py)."""

from __future__ import annotations

import sys
from io import StringIO

import boto3
import sagemaker
from case import BUCKET, NAME, ROLE, fit_sklearn, left, run, upload, write
from sagemaker.async_inference import AsyncInferenceConfig, WaiterConfig
from sagemaker.deserializers import JSONDeserializer, NumpyDeserializer
from sagemaker.exceptions import AsyncInferenceModelError, ObjectNotExistedError, PollingTimeoutError
from sagemaker.inputs import BatchDataCaptureConfig
from sagemaker.model import Model
from sagemaker.predictor import Predictor
from sagemaker.serializers import JSONSerializer
from sagemaker.serverless import ServerlessInferenceConfig

SKLEARN = sagemaker.image_uris.retrieve("sklearn", "us-east-1", version="1.2-1")
WAIT = WaiterConfig(max_attempts=20, delay=15)
HANDLER = """
import json, time

def model_fn(model_dir):
    return None

def predict_fn(data, model):
    if data.sum() < 0:
        raise ValueError("negative")
    if data.sum() > 100:
        time.sleep(5)
    return {"sum": data.sum()}
"""


def model(session: sagemaker.Session, *members: str) -> Model:
    return Model(
        image_uri=SKLEARN,
        model_data=upload("model", *members),
        role=ROLE,
        predictor_cls=Predictor,
        name=NAME,
        sagemaker_session=session,
    )


def serverless(session: sagemaker.Session) -> object:
    config = ServerlessInferenceConfig(memory_size_in_mb=2048, max_concurrency=5)
    predictor = model(session, fit_sklearn()).deploy(
        serverless_inference_config=config, serializer=JSONSerializer(), deserializer=JSONDeserializer()
    )
    return predictor.predict([[1.0, 2.0, 3.0]])


def asynchronous(session: sagemaker.Session) -> object:
    """AsyncPredictor: waiting, not waiting, from an object, failing; then everything deleted."""
    sent = model(session, f"code/inference.py={write('inference.py', HANDLER)}")
    predictor = sent.deploy(
        1,
        "ml.m5.large",
        endpoint_name=NAME,
        async_inference_config=AsyncInferenceConfig(
            output_path=f"s3://{BUCKET}/out", failure_path=f"s3://{BUCKET}/bad"
        ),
        serializer=JSONSerializer(),
        deserializer=JSONDeserializer(),
    )
    answers = {"waited for": predictor.predict([[1.0, 2.0]], waiter_config=WAIT)}
    response = predictor.predict_async([[2.0, 3.0]], inference_id="mine")
    answers["looked up"] = response.get_result(WAIT)
    answers["in the bucket"] = response.output_path.startswith(f"s3://{BUCKET}/out/")
    session.upload_string_as_file_body("[4, 5]", BUCKET, "in.json")
    answers["of an object"] = predictor.predict(
        input_path=f"s3://{BUCKET}/in.json", initial_args={"ContentType": "application/json"}, waiter_config=WAIT
    )
    failed = predictor.predict_async([[-1.0]])
    for deserializer in (JSONDeserializer(), NumpyDeserializer()):
        predictor.deserializer = deserializer
        for look in (lambda: predictor.predict([[-1.0]], waiter_config=WAIT), lambda: failed.get_result(WAIT)):
            try:
                answers.setdefault("failed", []).append(look())
            except AsyncInferenceModelError as error:
                answers.setdefault("failed", []).append("negative" in str(error))
    predictor.deserializer = NumpyDeserializer(accept="application/json")
    answers["as an array"] = predictor.predict([[1.0, 2.0]], waiter_config=WAIT).item()
    slow = predictor.predict_async([[1000.0]])
    try:
        answers["too early"] = slow.get_result()
    except ObjectNotExistedError:
        answers["too early"] = "does not exist yet"
    try:
        answers["too slow"] = predictor.predict([[1000.0]], waiter_config=WaiterConfig(max_attempts=1, delay=1))
    except PollingTimeoutError:
        answers["too slow"] = "still running"
    predictor.delete_model()
    predictor.delete_endpoint()
    return answers | {"left": left(NAME)}


def output(key: str) -> str:
    return boto3.client("s3").get_object(Bucket=BUCKET, Key=key)["Body"].read().decode()


def transformer(session: sagemaker.Session) -> object:
    """A CSV file, line by line, its answers joined to chosen columns, with the log while it waits."""
    session.upload_string_as_file_body("a,1,2,3\nb,4,5,6\n", BUCKET, "in/rows.csv")
    job = model(session, fit_sklearn()).transformer(
        instance_count=1,
        instance_type="ml.m5.large",
        strategy="MultiRecord",
        assemble_with="Line",
        accept="text/csv",
        output_path=f"s3://{BUCKET}/out",
        max_payload=1,
        max_concurrent_transforms=2,
    )
    printed, sys.stdout = sys.stdout, StringIO()
    try:
        job.transform(
            f"s3://{BUCKET}/in/",
            content_type="text/csv",
            split_type="Line",
            input_filter="$[1:]",
            join_source="Input",
            output_filter="$[0,-1]",
            wait=True,
            logs=True,
        )
    finally:
        log, sys.stdout = sys.stdout.getvalue(), printed
    attached = sagemaker.transformer.Transformer.attach(job.latest_transform_job.name, session)
    job.delete_model()
    return {
        "rows": output("out/rows.csv.out").split(),
        "attached": [attached.model_name, attached.accept, attached.strategy],
        "log": bool(log.strip()),
        "left": left(NAME),
    }


def transformer_of_files(session: sagemaker.Session) -> object:
    """Whole files of JSON, data capture, a job that is stopped, and one that fails."""
    for number in (1, 2):
        session.upload_string_as_file_body(f"[[{number}, 2, 3]]", BUCKET, f"in/{number}.json")
    session.upload_string_as_file_body('[["a"]]', BUCKET, "bad/1.json")
    job = model(session, fit_sklearn()).transformer(1, "ml.m5.large", output_path=f"s3://{BUCKET}/out")
    job.transform(
        f"s3://{BUCKET}/in/",
        content_type="application/json",
        wait=True,
        logs=False,
        batch_data_capture_config=BatchDataCaptureConfig(destination_s3_uri=f"s3://{BUCKET}/capture"),
    )
    outputs = [output(f"out/{number}.json.out") for number in (1, 2)]
    try:
        job.transform(f"s3://{BUCKET}/bad/", content_type="application/json", wait=True, logs=True)
    except Exception as error:
        failure = str(error)
    job.transform(f"s3://{BUCKET}/in/", content_type="application/json", wait=False)
    job.stop_transform_job()
    return {"outputs": outputs, "failure": failure}


def transformer_of_a_model(session: sagemaker.Session) -> object:
    """Transformer of a model that is there, with an output path of the default bucket."""
    model(session, fit_sklearn()).create(instance_type="ml.m5.large")
    session.upload_string_as_file_body("1,2,3\n", BUCKET, "in/rows.csv")
    job = sagemaker.transformer.Transformer(NAME, 1, "ml.m5.large", sagemaker_session=session)
    job.transform(f"s3://{BUCKET}/in/rows.csv", content_type="text/csv", job_name=NAME, logs=False)
    return {"path": job.output_path == f"s3://{BUCKET}/{NAME}", "rows": output(f"{NAME}/rows.csv.out").split()}


if __name__ == "__main__":
    run(sagemaker.Session, serverless, asynchronous, transformer, transformer_of_files, transformer_of_a_model)
