"""Asynchronous endpoints on a real server, called with boto3."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from fourfold.modes.asynchronous.orders import KEPT
from tests.asynchronous.conftest import ECHO, client, create, describe, object_at, route, submit, wait_for
from tests.test_serve import eventually
from tests.topics.receiver import Receiver


def test_an_inline_body_is_answered_at_the_output_location(server, echo):
    answer = submit(server, "echo", b"hello")
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 202
    wait_for(server, "echo", answer)
    assert object_at(server, answer["OutputLocation"]) == b"HELLO"
    assert object_at(server, answer["FailureLocation"]) is None
    record = describe(server, "echo", answer["InferenceId"])
    assert (record["status"], record["attempts"], record["reason"]) == ("completed", 1, None)
    assert record["accepted_at"] <= record["started_at"] <= record["ended_at"]


def test_an_object_is_answered_too_and_names_may_be_given(server, echo):
    s3 = client(server, "s3")
    s3.put_object(Bucket="answers", Key="in/one.txt", Body=b"from s3")
    answer = client(server, "sagemaker-runtime").invoke_endpoint_async(
        EndpointName="echo",
        InputLocation="s3://answers/in/one.txt",
        ContentType="text/plain",
        InferenceId="mine",
        Filename="result.txt",
        S3OutputPathExtension="today/",
        CustomAttributes="who=me",
    )
    assert answer["InferenceId"] == "mine"
    assert answer["OutputLocation"] == "s3://answers/out/today/result.txt"
    assert answer["FailureLocation"] == "s3://answers/failed/today/result-error.out"
    wait_for(server, "echo", answer)
    assert object_at(server, answer["OutputLocation"]) == b"FROM S3 who=me mine"


def test_an_object_says_what_it_is_where_the_call_does_not(server, echo):
    """As the SDK's AsyncPredictor has it: only the object that it uploads has a type. JSON would arrive as str."""
    client(server, "s3").put_object(Bucket="answers", Key="in/typed", Body=b"typed", ContentType="text/plain")
    runtime = client(server, "sagemaker-runtime")
    answer = runtime.invoke_endpoint_async(EndpointName="echo", InputLocation="s3://answers/in/typed")
    wait_for(server, "echo", answer)
    assert object_at(server, answer["OutputLocation"]) == b"TYPED"


@pytest.mark.parametrize(
    ("word", "location", "content_type"),
    [
        ("array 10", "OutputLocation", "application/x-npy"),
        ("array 300000", "OutputLocation", "application/x-npy"),
        ("repeat 10", "OutputLocation", "text/plain"),
        ("fail", "FailureLocation", "application/json"),
    ],
)
def test_what_became_of_a_call_says_what_it_is(server, echo, word, location, content_type):
    answer = submit(server, "echo", word.encode())
    wait_for(server, "echo", answer, "failed" if word == "fail" else "completed")
    key = answer[location].removeprefix("s3://answers/")
    found = client(server, "s3").head_object(Bucket="answers", Key=key)
    assert found["ContentType"] == content_type


def test_a_large_output_does_not_go_through_the_queue(server, echo):
    answer = submit(server, "echo", b"repeat 300000")
    wait_for(server, "echo", answer)
    assert object_at(server, answer["OutputLocation"]) == b"x" * 300_000
    kept = server.folder / "buckets" / "answers" / KEPT
    assert list(kept.iterdir()) == []
    (kept / "waiting").write_text("an output that is no object yet")
    listed = client(server, "s3").list_objects_v2(Bucket="answers")["Contents"]
    assert not [entry["Key"] for entry in listed if "waiting" in entry["Key"]]
    (kept / "waiting").unlink()


def test_the_models_error_is_an_object_at_the_failure_location(server, echo):
    answer = submit(server, "echo", b"fail")
    record = wait_for(server, "echo", answer, "failed")
    failure = json.loads(object_at(server, answer["FailureLocation"]))
    assert failure["code"] == "ModelError"
    assert "asked to fail" in failure["message"]
    assert "ValueError: asked to fail" in failure["traceback"]
    assert failure["attempts"] == record["attempts"] == 1
    assert "asked to fail" in record["reason"]
    assert object_at(server, answer["OutputLocation"]) is None


@pytest.mark.parametrize(
    ("location", "code"), [("s3://answers/none", "InputNotFound"), ("s3://nowhere/at/all", "InputNotFound")]
)
def test_an_input_that_is_not_there_fails_that_call(server, echo, location, code):
    answer = client(server, "sagemaker-runtime").invoke_endpoint_async(EndpointName="echo", InputLocation=location)
    wait_for(server, "echo", answer, "failed")
    assert json.loads(object_at(server, answer["FailureLocation"]))["code"] == code


def test_an_input_over_the_limit_fails_that_call(server, echo):
    with (server.folder / "buckets" / "answers" / "huge").open("wb") as huge:
        huge.truncate(1024 * 1024 * 1024 + 1)
    answer = client(server, "sagemaker-runtime").invoke_endpoint_async(
        EndpointName="echo", InputLocation="s3://answers/huge"
    )
    wait_for(server, "echo", answer, "failed")
    assert "1,073,741,824 at most" in json.loads(object_at(server, answer["FailureLocation"]))["message"]


LARGE = """
import resource


def model_fn(model_dir):
    return None


def transform_fn(model, data, content_type, accept):
    return f"{len(data)} {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}", "text/plain"
"""


def test_a_large_input_passes_by_the_gateway_and_is_in_its_worker_once(server, handler, answers):
    size = 300 * 2**20
    with (server.folder / "buckets" / "answers" / "large").open("wb") as file:
        file.truncate(size)
    server.deploy("large", handler(LARGE), endpoint=False)
    create(server, "large", {"OutputConfig": {"S3OutputPath": "s3://answers/out"}})
    before = peak(server.process.pid)
    answer = client(server, "sagemaker-runtime").invoke_endpoint_async(
        EndpointName="large", InputLocation="s3://answers/large", ContentType="application/octet-stream"
    )
    wait_for(server, "large", answer)
    length, worker = map(int, object_at(server, answer["OutputLocation"]).split())
    assert length == size
    assert worker * 1024 < size + 150 * 2**20
    assert peak(server.process.pid) - before < 32 * 2**20


def peak(pid: int) -> int:
    """The most memory that a process has held, bytes."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.partition("VmHWM:")[2].split()[0]) * 1024


def test_a_call_that_takes_too_long_fails_and_the_next_goes_on(server, echo):
    late = submit(server, "echo", b"sleep 30", InvocationTimeoutSeconds=1)
    after = submit(server, "echo", b"after")
    wait_for(server, "echo", late, "failed")
    assert json.loads(object_at(server, late["FailureLocation"]))["code"] == "ModelInvocationTimeExceeded"
    wait_for(server, "echo", after)


def test_a_call_that_ends_its_workers_fails_and_takes_no_other_with_it(server, echo):
    deadly = submit(server, "echo", b"die")
    others = [submit(server, "echo", f"innocent {i}".encode()) for i in range(10)]
    record = wait_for(server, "echo", deadly, "failed", seconds=60)
    assert json.loads(object_at(server, deadly["FailureLocation"]))["code"] == "WorkerDied"
    assert record["attempts"] == 4
    for i, other in enumerate(others):
        wait_for(server, "echo", other)
        assert object_at(server, other["OutputLocation"]) == f"INNOCENT {i}".encode()


def test_calls_are_listed_by_status_the_newest_first(server, echo):
    good = [submit(server, "echo", b"%d" % i) for i in range(4)]
    bad = submit(server, "echo", b"fail")
    for each in good:
        wait_for(server, "echo", each)
    wait_for(server, "echo", bad, "failed")

    def page(query: str) -> tuple[list[str], int]:
        listed = route(server, "GET", f"/fourfold/async/echo?{query}")[1]
        assert listed["counts"]["queued"] == 0
        return [each["inference_id"] for each in listed["calls"]], listed["next"]

    newest_first = [each["InferenceId"] for each in reversed(good)]
    ids, following = page("status=completed&limit=2")
    assert ids == newest_first[:2]
    assert page(f"status=completed&limit=2&before={following}")[0] == newest_first[2:]
    assert page("status=completed,failed&limit=1")[0] == [bad["InferenceId"]]
    assert route(server, "GET", "/fourfold/async/echo?status=lost")[0] == 400


def test_queued_and_running_calls_can_be_cancelled_and_tried_again(server, echo):
    running = submit(server, "echo", b"sleep 30")
    eventually(lambda: describe(server, "echo", running["InferenceId"])["status"] == "running")
    queued = submit(server, "echo", b"second")
    third = submit(server, "echo", b"third")
    eventually(lambda: describe(server, "echo", queued["InferenceId"])["place"] == 1)
    assert describe(server, "echo", third["InferenceId"])["place"] == 2
    route(server, "POST", f"/fourfold/async/echo/{queued['InferenceId']}/cancel")
    wait_for(server, "echo", queued, "cancelled")
    route(server, "POST", f"/fourfold/async/echo/{running['InferenceId']}/cancel")
    wait_for(server, "echo", running, "cancelled")
    wait_for(server, "echo", third)
    assert json.loads(object_at(server, queued["FailureLocation"]))["code"] == "Cancelled"
    route(server, "POST", f"/fourfold/async/echo/{queued['InferenceId']}/retry")
    wait_for(server, "echo", queued)
    assert object_at(server, queued["FailureLocation"]) is None
    assert object_at(server, queued["OutputLocation"]) == b"SECOND"
    status, refusal = route(server, "POST", f"/fourfold/async/echo/{queued['InferenceId']}/cancel")
    assert status == 400
    assert "completed already" in refusal["message"]


def test_unknown_calls_are_404(server, echo):
    assert route(server, "GET", "/fourfold/async/echo/nobody")[0] == 404


def test_the_same_inference_id_is_a_new_call_but_the_same_key_is_not(server, echo):
    one, two = (submit(server, "echo", b"x", InferenceId="twice") for _ in range(2))
    assert one["OutputLocation"] != two["OutputLocation"]

    def with_key() -> dict:
        runtime = server.client("sagemaker-runtime")
        runtime.meta.events.register(
            "before-sign.sagemaker-runtime.InvokeEndpointAsync",
            lambda request, **_: request.headers.add_header("X-Fourfold-Idempotency-Key", "only-once"),
        )
        return runtime.invoke_endpoint_async(EndpointName="echo", Body=b"key", ContentType="text/plain")

    first, second = with_key(), with_key()
    assert first["InferenceId"] == second["InferenceId"]
    assert first["OutputLocation"] == second["OutputLocation"]


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({}, "Send the input"),
        ({"Body": b"x" * 128_001}, "the limit is 128,000"),
        ({"Body": b"x", "InputLocation": "s3://answers/in"}, "mutually exclusive"),
        ({"InputLocation": "http://somewhere/else"}, "write s3://bucket/key"),
        ({"InputLocation": "s3://answers/"}, "names no object"),
        ({"Body": b"x", "RequestTTLSeconds": 21601}, "between 60 and 21600"),
        ({"Body": b"x", "InvocationTimeoutSeconds": 3601}, "between 1 and 3600"),
        ({"Body": b"x", "Filename": "two.dots.txt"}, "Filename"),
        ({"Body": b"x", "Filename": "a" * 33}, "less than or equal to 32"),
        ({"Body": b"x", "S3OutputPathExtension": "s3://other"}, "S3OutputPathExtension"),
        ({"Body": b"x", "S3OutputPathExtension": "../up"}, "no name for an object"),
        ({"Body": b"x", "InferenceId": "a" * 65}, "less than or equal to 64"),
        ({"Body": b"x", "EndpointName": "nobody"}, "Endpoint nobody not found"),
    ],
)
def test_bad_requests_are_refused_with_what_to_do(server, echo, request_, message):
    with pytest.raises(ClientError, match=message) as error:
        client(server, "sagemaker-runtime").invoke_endpoint_async(**{"EndpointName": "echo"} | request_)
    assert error.value.response["Error"]["Code"] == "ValidationError"
    assert error.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400


def test_each_kind_of_endpoint_takes_its_own_kind_of_call(server, echo, onnx_model):
    server.deploy("sync", onnx_model)
    runtime = server.client("sagemaker-runtime")
    with pytest.raises(ClientError, match="call it with InvokeEndpointAsync"):
        runtime.invoke_endpoint(EndpointName="echo", Body=b"x")
    with pytest.raises(ClientError, match="call it with InvokeEndpoint,"):
        runtime.invoke_endpoint_async(EndpointName="sync", Body=b"x")


@pytest.mark.parametrize(
    "model",
    [
        {"PrimaryContainer": {"ModelDataUrl": "s3://b/models/", "Mode": "MultiModel"}},
        {"Containers": [{"ModelDataUrl": "s3://b/1.onnx"}, {"ModelDataUrl": "s3://b/2.onnx"}]},
    ],
)
def test_a_model_of_several_is_refused_where_calls_would_wait_for_ever(server, model):
    sagemaker = server.client("sagemaker")
    sagemaker.create_model(ModelName="several", ExecutionRoleArn="arn:aws:iam::123456789012:role/test", **model)
    variant = {"VariantName": "a", "ModelName": "several", "InstanceType": "ml.m5.large", "InitialInstanceCount": 1}
    with pytest.raises(ClientError, match="not supported for asynchronous endpoints") as error:
        sagemaker.create_endpoint_config(
            EndpointConfigName="several",
            ProductionVariants=[variant],
            AsyncInferenceConfig={"OutputConfig": {"S3OutputPath": "s3://answers/out"}},
        )
    assert error.value.response["Error"]["Code"] == "ValidationException"
    sagemaker.delete_model(ModelName="several")


def test_a_model_that_batches_gets_batches(server, onnx_model, answers):
    server.deploy("batches", onnx_model, endpoint=False)
    create(server, "batches", {"OutputConfig": {"S3OutputPath": "s3://answers/batches"}})
    body = json.dumps({"instances": [[0.1, 0.2, 0.3, 0.4]]}).encode()
    sent = [submit(server, "batches", body, ContentType="application/json") for _ in range(50)]
    for each in sent:
        wait_for(server, "batches", each)
    results = {object_at(server, each["OutputLocation"]) for each in sent}
    assert len(results) == 1
    assert json.loads(results.pop())


def test_an_async_def_handler_overlaps_its_calls(server, handler, answers):
    code = (
        "import asyncio\ndef model_fn(d):\n    return None\n"
        "async def transform_fn(m, data, c, a):\n    await asyncio.sleep(0.5)\n    return data, c\n"
    )
    server.deploy("overlap", handler(code), endpoint=False)
    create(server, "overlap", {"OutputConfig": {"S3OutputPath": "s3://answers/overlap"}})
    sent = [submit(server, "overlap", b"%d" % i) for i in range(10)]
    records = [wait_for(server, "overlap", each) for each in sent]
    assert [object_at(server, each["OutputLocation"]) for each in sent] == [b"%d" % i for i in range(10)]
    starts, ends = zip(*((each["started_at"], each["ended_at"]) for each in records), strict=True)
    assert max(starts) < min(ends)


def test_scaled_to_zero_it_wakes_for_a_call(server, handler, answers):
    server.deploy("sleeper", handler(ECHO), endpoint=False, FOURFOLD_IDLE_SECONDS="0.2")
    create(server, "sleeper", {"OutputConfig": {"S3OutputPath": "s3://answers/sleeper"}})
    sagemaker = server.client("sagemaker")
    change = {"VariantName": "AllTraffic", "DesiredInstanceCount": 0}
    sagemaker.update_endpoint_weights_and_capacities(EndpointName="sleeper", DesiredWeightsAndCapacities=[change])
    server.wait("sleeper")
    eventually(lambda: workers(server, "sleeper") == 0)
    answer = submit(server, "sleeper", b"wake up")
    wait_for(server, "sleeper", answer)
    assert object_at(server, answer["OutputLocation"]) == b"WAKE UP"
    eventually(lambda: workers(server, "sleeper") == 0)


def test_calls_of_a_deleted_endpoint_fail_and_say_so(server, handler, answers):
    server.deploy("doomed", handler(ECHO), endpoint=False)
    create(server, "doomed", {"OutputConfig": {"S3OutputPath": "s3://answers/doomed"}})
    first = submit(server, "doomed", b"sleep 1")
    eventually(lambda: describe(server, "doomed", first["InferenceId"])["status"] == "running")
    second = submit(server, "doomed", b"never")
    eventually(lambda: describe(server, "doomed", second["InferenceId"])["place"] == 1)
    server.client("sagemaker").delete_endpoint(EndpointName="doomed")
    wait_for(server, "doomed", second, "failed")
    assert json.loads(object_at(server, second["FailureLocation"]))["code"] == "EndpointDeleted"
    wait_for(server, "doomed", first)


def test_accepted_calls_survive_a_kill_and_are_accepted_before_workers_are_back(own_server, handler):
    own_server.client("s3").create_bucket(Bucket="answers")
    own_server.deploy("echo", handler(ECHO), endpoint=False)
    create(own_server, "echo", {"OutputConfig": {"S3OutputPath": "s3://answers/out"}})
    sent = [submit(own_server, "echo", b"sleep 0.3")] + [submit(own_server, "echo", b"%d" % i) for i in range(20)]
    own_server.kill()
    own_server.start()
    sent.append(submit(own_server, "echo", b"later"))
    for each in sent:
        wait_for(own_server, "echo", each)
    assert [object_at(own_server, each["OutputLocation"]) for each in sent[1:]] == [
        *(b"%d" % i for i in range(20)), b"LATER",
    ]  # fmt: skip


def workers(server, name: str) -> int:
    prefix = f'fourfold_workers{{endpoint="{name}"'
    line = next(line for line in server.get("/metrics").decode().splitlines() if line.startswith(prefix))
    return int(float(line.split()[-1]))


def test_topics_are_told_of_successes_and_failures_in_the_form_of_aws(server, handler, answers):
    sns, receiver = server.client("sns"), Receiver()
    try:
        topics = {name: sns.create_topic(Name=name)["TopicArn"] for name in ("good", "bad")}
        for name, topic in topics.items():
            sns.subscribe(TopicArn=topic, Protocol="http", Endpoint=f"{receiver.url}/{name}")
        eventually(lambda: len([one for one in receiver.received if one.type == "SubscriptionConfirmation"]) == 2)
        eventually(lambda: all(sns.get_topic_attributes(TopicArn=topic)["Attributes"]["SubscriptionsConfirmed"] == "1"
                               for topic in topics.values()))  # fmt: skip
        server.deploy("told", handler(ECHO), endpoint=False)
        notify = {
            "SuccessTopic": topics["good"],
            "ErrorTopic": topics["bad"],
            "IncludeInferenceResponseIn": ["SUCCESS_NOTIFICATION_TOPIC"],
        }
        create(server, "told", {"OutputConfig": {"S3OutputPath": "s3://answers/told", "NotificationConfig": notify}})

        def told(path: str, event: str) -> list[dict]:
            messages = [one for one in receiver.received if one.type == "Notification" and one.path == path]
            found = [json.loads(one.json()["Message"]) for one in messages]
            return [one for one in found if one["eventName"] == event]

        eventually(lambda: told("/good", "TestNotification") and told("/bad", "TestNotification"))
        good, bad = submit(server, "told", b"hello"), submit(server, "told", b"fail")
        eventually(lambda: told("/good", "InferenceResult") and told("/bad", "InferenceResult"))
        success, failure = told("/good", "InferenceResult")[0], told("/bad", "InferenceResult")[0]
        assert success["invocationStatus"] == "Completed"
        assert success["inferenceId"] == good["InferenceId"]
        assert success["responseParameters"] == {"contentType": "text/plain", "outputLocation": good["OutputLocation"]}
        assert success["responseBody"] == {"content": "SEVMTE8=", "encoding": "BASE64"}
        assert success["eventSource"] == failure["eventSource"] == "aws:sagemaker"
        assert failure["invocationStatus"] == "Failed"
        assert failure["inferenceId"] == bad["InferenceId"]
        assert "asked to fail" in failure["failureReason"]
    finally:
        receiver.close()
