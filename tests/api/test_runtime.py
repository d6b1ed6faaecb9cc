"""Invocations as boto3 sees them: what reaches the model, what comes back, and each error with SageMaker's code."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from botocore.exceptions import ClientError

TELLER = """
import json

def model_fn(model_dir):
    return None

def transform_fn(model, data, content_type, accept, context):
    if data == "raise":
        raise ValueError("this row is no row")
    headers = context.get_all_request_header(0)
    context.set_response_header(0, "X-Amzn-SageMaker-Custom-Attributes", "from the model")
    return json.dumps({"data": data, "content_type": content_type, "accept": accept, "headers": headers}), accept
"""


@pytest.fixture(scope="module")
def runtime(server) -> Any:
    return server.client("sagemaker-runtime")


@pytest.fixture(scope="module")
def teller(server, handler) -> str:
    """An endpoint whose model tells what it was given."""
    server.deploy("teller", handler(TELLER))
    return "teller"


def refused(call: Any, **members: Any) -> tuple[str, int, str]:
    with pytest.raises(ClientError) as error:
        call(**members)
    answer = error.value.response
    return answer["Error"]["Code"], answer["ResponseMetadata"]["HTTPStatusCode"], answer["Error"]["Message"]


def test_a_call_and_its_answer(runtime, teller):
    answer = runtime.invoke_endpoint(
        EndpointName=teller, Body="1,2", ContentType="text/csv", Accept="application/json",
        CustomAttributes="trace=1", InferenceId="id-1",
    )  # fmt: skip
    assert answer["ContentType"] == "application/json"
    assert answer["InvokedProductionVariant"] == "AllTraffic"
    assert answer["CustomAttributes"] == "from the model"
    told = json.loads(answer["Body"].read())
    assert (told["data"], told["content_type"], told["accept"]) == ("1,2", "text/csv", "application/json")
    headers = {name.lower(): value for name, value in told["headers"].items()}
    assert headers["x-amzn-sagemaker-custom-attributes"] == "trace=1"
    assert headers["x-amzn-sagemaker-inference-id"] == "id-1"
    assert not [name for name in headers if name in ("authorization", "host", "x-amz-date", "user-agent")]


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ({"TargetModel": "a.tar.gz"}, "Endpoint teller is not a multi-model endpoint"),
        ({"TargetContainerHostname": "first"}, "Endpoint teller does not call containers directly"),
        ({"InferenceComponentName": "part"}, "Endpoint teller has no inference components"),
    ],
)
def test_a_call_that_names_what_the_endpoint_cannot_choose_is_refused(runtime, teller, address, told):
    for call in (runtime.invoke_endpoint, runtime.invoke_endpoint_with_response_stream):
        if "TargetModel" not in address or call == runtime.invoke_endpoint:
            code, status, message = refused(call, EndpointName=teller, Body="1", **address)
            assert (code, status) == ("ValidationError", 400)
            assert told in message


def test_a_models_exception_is_a_model_error_with_its_own_words_and_place(server, runtime, teller):
    with pytest.raises(runtime.exceptions.ModelError) as error:
        runtime.invoke_endpoint(EndpointName=teller, Body="raise", ContentType="text/csv", Accept="text/csv")
    answer = error.value.response
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 424
    assert answer["OriginalStatusCode"] == 500
    assert "this row is no row" in answer["OriginalMessage"]
    assert "inference.py" in answer["OriginalMessage"], "the traceback says where"
    assert answer["LogStreamArn"].startswith("arn:aws:logs:us-east-1:123456789012:log-group:/aws/sagemaker/Endpoints/")
    assert answer["Error"]["Message"].startswith("Received server error (500) from AllTraffic with message")
    assert "this row is no row" in server.get("/fourfold/endpoints/teller/logs").decode()


@pytest.mark.parametrize("operation", ["invoke_endpoint", "invoke_endpoint_with_response_stream"])
def test_an_endpoint_that_is_not_there(runtime, operation):
    code, status, message = refused(getattr(runtime, operation), EndpointName="none", Body=b"")
    assert (code, status) == ("ValidationError", 400)
    assert "Endpoint none not found" in message


@pytest.mark.parametrize("operation", ["invoke_endpoint", "invoke_endpoint_with_response_stream"])
def test_members_are_checked_as_the_service_model_says(server, teller, operation):
    unchecked = server.client("sagemaker-runtime", parameter_validation=False)
    code, status, message = refused(
        getattr(unchecked, operation), EndpointName=teller, Body=b"", TargetVariant="not_a_name",
        CustomAttributes="x" * 1025, InferenceId="x" * 65,
    )  # fmt: skip
    assert (code, status) == ("ValidationError", 400)
    assert message.startswith("3 validation errors detected: ")
    assert "Value 'not_a_name' at 'targetVariant' failed to satisfy constraint: Member must satisfy regular " in message
    assert "at 'customAttributes' failed to satisfy constraint: Member must have length less than or equal to 1024" in (
        message
    )


def test_a_target_variant_answers_alone(server, runtime, onnx_model):
    server.deploy("two", onnx_model, endpoint=False)
    variants = [
        {"VariantName": name, "ModelName": "two", "InstanceType": "ml.m5.large", "InitialInstanceCount": 1,
         "InitialVariantWeight": weight}
        for name, weight in (("a", 1.0), ("b", 0.0))
    ]  # fmt: skip
    sagemaker = server.client("sagemaker")
    sagemaker.create_endpoint_config(EndpointConfigName="two", ProductionVariants=variants)
    sagemaker.create_endpoint(EndpointName="two", EndpointConfigName="two")
    server.wait("two")
    call = {"EndpointName": "two", "Body": b"[[1, 2, 3, 4]]", "ContentType": "application/json"}
    assert {runtime.invoke_endpoint(**call)["InvokedProductionVariant"] for _ in range(10)} == {"a"}
    assert runtime.invoke_endpoint(**call, TargetVariant="b")["InvokedProductionVariant"] == "b"
    code, _, message = refused(runtime.invoke_endpoint, **call, TargetVariant="c")
    assert (code, "a, b" in message) == ("ValidationError", True)


@pytest.mark.parametrize(
    ("body", "content_type", "words"),
    [
        (b"[[1, 2, 3]]", "application/json", ("3", "4")),
        (b"[[1, 2, 3, 4", "application/json", ("JSON",)),
        (b'[["a", "b", "c", "d"]]', "application/json", ("float32", "'a'")),
        (b"\xff\xfe", "text/csv", ("UTF-8",)),
        (b"1,2,3", "text/csv", ("3", "4")),
        (b"x", "application/x-npy", ("npy",)),
        (b"x", "image/png", ("image/png",)),
        (b"", "application/json", ()),
    ],
)
def test_a_body_that_the_model_cannot_take_is_told_what_was_expected_and_what_came(
    server, runtime, onnx_model, body, content_type, words
):
    if "takes" not in [one["EndpointName"] for one in server.client("sagemaker").list_endpoints()["Endpoints"]]:
        server.deploy("takes", onnx_model)
    code, status, message = refused(runtime.invoke_endpoint, EndpointName="takes", Body=body, ContentType=content_type)
    assert (code, status) == ("ModelError", 424)
    assert message.startswith("Received client error (4")
    for word in words:
        assert word.lower() in message.lower()


def test_an_endpoint_that_failed_or_went_is_not_called(server, runtime, handler, onnx_model):
    server.deploy("gone", onnx_model)
    sagemaker = server.client("sagemaker")
    sagemaker.delete_endpoint(EndpointName="gone")
    sagemaker.get_waiter("endpoint_deleted").wait(EndpointName="gone", WaiterConfig={"Delay": 1})
    assert refused(runtime.invoke_endpoint, EndpointName="gone", Body=b"")[0] == "ValidationError"


def test_every_answer_has_a_request_id_of_its_own(server, runtime, teller):
    call = {"EndpointName": teller, "Body": "1", "ContentType": "text/csv", "Accept": "text/csv"}
    ids = {runtime.invoke_endpoint(**call)["ResponseMetadata"]["RequestId"] for _ in range(5)}
    assert len(ids) == 5
    wrong = httpx.post(f"{server.url}/endpoints/none/invocations", headers={"Authorization": "Bearer x"})
    assert wrong.headers["x-amzn-requestid"]
    assert wrong.headers["x-amzn-errortype"] == "UnrecognizedClientException"
