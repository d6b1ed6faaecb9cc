"""Streamed answers: their deadline, in handlers that run one at a time and in those that overlap."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.server import LiveServer

STUCK = """
import time

def model_fn(model_dir):
    return None

def transform_fn(model, data, content_type, accept):
    yield "first"
    if data == "stay":
        time.sleep(600)
"""
OVERLAPPING = """
import asyncio

def model_fn(model_dir):
    return {"running": 0}

async def transform_fn(model, data, content_type, accept):
    model["running"] += 1
    try:
        yield str(model["running"])
        if data == "stay":
            await asyncio.sleep(600)
    finally:
        model["running"] -= 1
"""


@contextmanager
def stream(server: LiveServer, name: str, body: bytes) -> Iterator[Any]:
    runtime = server.client("sagemaker-runtime")
    answer = runtime.invoke_endpoint_with_response_stream(EndpointName=name, ContentType="text/csv", Body=body)
    with closing(answer["Body"]) as events:
        yield iter(events)


@pytest.mark.parametrize("code", [STUCK, OVERLAPPING], ids=["one at a time", "overlapping"])
def test_a_stream_past_its_deadline_ends_with_the_error_that_says_so(
    server: LiveServer, handler: Any, code: str
) -> None:
    name = "stuck" if code is STUCK else "overlapping"
    server.deploy(name, handler(code), FOURFOLD_STREAM_SECONDS="1")
    with stream(server, name, b"stay") as events:
        assert next(events)["PayloadPart"]["Bytes"] in (b"first", b"1")
        with pytest.raises(Exception, match=r"took over 1 s \(FOURFOLD_STREAM_SECONDS") as ended:
            next(events)
    assert ended.value.response["Error"]["Code"] == "ModelStreamError"
    with stream(server, name, b"go") as events:
        again = [event["PayloadPart"]["Bytes"] for event in events]
    assert again in ([b"first"], [b"1"]), "what hung is gone, and the next call finds a worker"


def test_a_stream_that_fails_before_its_first_part_is_an_ordinary_error(server: LiveServer, handler: Any) -> None:
    code = (
        "def model_fn(d):\n    return None\ndef transform_fn(m, data, c, a):\n    raise ValueError('no')\n    yield\n"
    )
    server.deploy("early", handler(code))
    with pytest.raises(Exception, match="no") as ended, stream(server, "early", b"x"):
        pass
    assert ended.value.response["Error"]["Code"] == "ModelError"


def test_a_stream_that_is_refused_has_the_models_status(server: LiveServer, handler: Any, onnx_model: Path) -> None:
    code = (
        "class Refused(Exception):\n    status_code = 422\ndef model_fn(d):\n    return None\n"
        "def transform_fn(m, data, c, a):\n    raise Refused('say something else')\n"
    )
    server.deploy("refuses", handler(code))
    server.deploy("trees", onnx_model)
    for name, status, words in [("refuses", 422, "say something else"), ("trees", 400, "Each record needs 4 values")]:
        with pytest.raises(ClientError) as ended, stream(server, name, b"1,2"):
            pass
        told = ended.value.response
        assert (told["OriginalStatusCode"], words in told["OriginalMessage"]) == (status, True)


HEADED = """
def model_fn(model_dir):
    return None

DEF transform_fn(model, data, content_type, accept, context):
    if data == "tell":
        context.set_response_content_type(0, "text/plain; charset=utf-8")
        context.set_response_header(0, "X-Amzn-SageMaker-Custom-Attributes", "lang=en\\n")
    yield "first"
    yield "second"
"""


@pytest.mark.parametrize("keyword", ["def", "async def"])
def test_a_stream_has_the_models_content_type_and_attributes(server: LiveServer, handler: Any, keyword: str) -> None:
    name = f"headed-{len(keyword)}"
    server.deploy(name, handler(HEADED.replace("DEF", keyword)))
    runtime = server.client("sagemaker-runtime")
    for body, accept, content_type, attributes in [
        (b"tell", "text/csv", "text/plain; charset=utf-8", "lang=en "),
        (b"-", "text/csv", "text/csv", None),
        (b"-", "*/*", "application/json", None),
    ]:
        answer = runtime.invoke_endpoint_with_response_stream(
            EndpointName=name, ContentType="text/csv", Accept=accept, Body=body
        )
        parts = [event["PayloadPart"]["Bytes"] for event in answer["Body"]]
        assert parts == [b"first", b"second"]
        assert (answer["ContentType"], answer.get("CustomAttributes")) == (content_type, attributes)
