"""Sticky sessions on a real server: the same worker, until it is closed, expires, or the worker is gone."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from botocore.exceptions import ClientError

from tests.server import LiveServer
from tests.test_serve import eventually

CHAT = """
import json, os, time

NEW, HEADER = "NEW_SESSION", "x-amzn-sagemaker-session-id"

def model_fn(model_dir):
    return {}

def transform_fn(chats, data, content_type, accept, context):
    order = json.loads(data)
    session = context.get_request_header(0, HEADER)
    if session == NEW:
        session = str(len(chats)) + "-" + str(os.getpid())
        chats[session] = []
        end = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + order.get("live", 60)))
        context.set_response_header(0, HEADER, session + "; Expires=" + end)
    if order.get("close"):
        chats.pop(session)
        context.set_response_header(0, "x-amzn-sagemaker-closed-session-id", session)
    time.sleep(order.get("sleep", 0))
    if order.get("die"):
        os._exit(9)
    if session in chats:
        chats[session].append(order.get("say", ""))
    return json.dumps({"pid": os.getpid(), "said": chats.get(session, [])}), "application/json"
"""


@pytest.fixture(scope="module")
def chat(server, handler):
    """An endpoint of three workers that keep conversations."""
    server.deploy("chat", handler(CHAT), count=3)
    return "chat"


def talk(server: LiveServer, name: str, session: str | None = None, **order) -> dict:
    given = {} if session is None else {"SessionId": session}
    answer = server.client("sagemaker-runtime").invoke_endpoint(EndpointName=name, Body=json.dumps(order), **given)
    body = json.loads(answer["Body"].read())
    return body | {"new": answer.get("NewSessionId"), "closed": answer.get("ClosedSessionId")}


def opened(server: LiveServer, name: str, **order) -> tuple[str, int]:
    answer = talk(server, name, "NEW_SESSION", **order)
    session, _, expires = answer["new"].partition("; Expires=")
    assert expires.endswith("Z")
    return session, answer["pid"]


def test_a_session_stays_with_its_worker(server, chat):
    sessions = [opened(server, chat, say="hello") for _ in range(6)]
    assert len({pid for _, pid in sessions}) == 3
    for number in range(3):
        for session, pid in sessions:
            answer = talk(server, chat, session, say=str(number))
            assert answer["pid"] == pid
            assert answer["said"] == ["hello", *map(str, range(number + 1))]
            assert answer["new"] is None


def test_a_closed_session_is_gone(server, chat):
    session, _ = opened(server, chat)
    assert talk(server, chat, session, close=True)["closed"] == session
    with pytest.raises(ClientError, match="not found") as error:
        talk(server, chat, session)
    assert error.value.response["Error"]["Code"] == "ValidationError"


def test_a_session_expires(server, chat):
    session, _ = opened(server, chat, live=0)
    time.sleep(0.01)
    with pytest.raises(ClientError, match="expired"):
        talk(server, chat, session)


def test_a_session_that_never_was(server, chat):
    with pytest.raises(ClientError, match="Session nobody is not found"):
        talk(server, chat, "nobody")


def test_a_session_ends_with_its_worker(server, chat):
    session, _ = opened(server, chat)
    with pytest.raises(ClientError, match="ended while it was answering"):
        talk(server, chat, session, die=True)
    with pytest.raises(ClientError, match="its worker was replaced"):
        talk(server, chat, session)
    eventually(lambda: len({opened(server, chat)[1] for _ in range(12)}) == 3)


def test_sessions_and_other_calls_share_the_workers(server, chat):
    sessions = [opened(server, chat) for _ in range(3)]
    with ThreadPoolExecutor(12) as pool:
        mixed = [pool.submit(talk, server, chat, session, say="x", sleep=0.02) for session, _ in sessions * 8]
        plain = [pool.submit(talk, server, chat, None, sleep=0.02) for _ in range(24)]
        for (_, pid), call in zip(sessions * 8, mixed, strict=True):
            assert call.result()["pid"] == pid
        assert len({call.result()["pid"] for call in plain}) > 1
    assert [len(talk(server, chat, session)["said"]) for session, _ in sessions] == [10, 10, 10]


def test_a_session_finds_its_variant_and_stays_while_an_update_bakes(server, handler):
    server.deploy("first", handler(CHAT), endpoint=False)
    server.deploy("second", handler(CHAT), endpoint=False)
    sagemaker = server.client("sagemaker")
    shared = {"InstanceType": "ml.m5.large", "InitialInstanceCount": 1}
    for model in ("first", "second"):
        variants = [shared | {"VariantName": name, "ModelName": model} for name in ("A", "B")]
        sagemaker.create_endpoint_config(EndpointConfigName=f"{model}-twice", ProductionVariants=variants)
    sagemaker.create_endpoint(EndpointName="twice", EndpointConfigName="first-twice")
    server.wait("twice")
    sessions = [opened(server, "twice") for _ in range(8)]
    assert all(talk(server, "twice", session)["pid"] == pid for session, pid in sessions)
    canary = {"Type": "CANARY", "CanarySize": {"Type": "CAPACITY_PERCENT", "Value": 50}, "WaitIntervalInSeconds": 60}
    sagemaker.update_endpoint(
        EndpointName="twice", EndpointConfigName="second-twice",
        DeploymentConfig={"BlueGreenUpdatePolicy": {"TrafficRoutingConfiguration": canary}},
    )  # fmt: skip
    eventually(lambda: len({talk(server, "twice")["pid"] for _ in range(40)}) == 4)
    sessions += [opened(server, "twice") for _ in range(8)]
    assert all(talk(server, "twice", session)["pid"] == pid for session, pid in sessions)
    sagemaker.delete_endpoint(EndpointName="twice")


def test_scaling_in_ends_sessions_clearly(server, handler):
    server.deploy("shrinking", handler(CHAT), count=2)
    sessions = [opened(server, "shrinking")[0] for _ in range(2)]
    server.client("sagemaker").update_endpoint_weights_and_capacities(
        EndpointName="shrinking", DesiredWeightsAndCapacities=[{"VariantName": "AllTraffic", "DesiredInstanceCount": 1}]
    )
    server.wait("shrinking")
    left = []
    for session in sessions:
        try:
            left.append(talk(server, "shrinking", session)["pid"])
        except ClientError as error:
            assert "Open a new one" in str(error)  # noqa: PT017 - one of the two is refused
    assert len(left) == 1
