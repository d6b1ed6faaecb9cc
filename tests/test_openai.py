"""Chat completions through OpenAI's own client: handlers and own servers, whole and streamed, either kind of key."""

from __future__ import annotations

import base64
import json
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from botocore.auth import SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from tests.server import LiveServer

openai = pytest.importorskip("openai")

HANDLER = """
import json

def model_fn(model_dir):
    return None

def chunk(text):
    return "data: " + json.dumps({"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m",
        "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]}) + "\\n\\n"

def words(request):
    for word in request["messages"][-1]["content"].split():
        if word == "fail":
            raise RuntimeError("lost for words")
        yield chunk(word)
    yield "data: [DONE]\\n\\n"

def transform_fn(model, data, content_type, accept):
    request = json.loads(data)
    if request.get("stream"):
        assert accept == "text/event-stream"
        return words(request)
    answer = request["messages"][-1]["content"].upper()
    return json.dumps({"id": "c", "object": "chat.completion", "created": 1, "model": request["model"],
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": answer}}]})
"""

SERVER = """
import http.server, json, os, sys

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def answer(self, status, body):
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def do_GET(self):
        self.answer(200, b"")
    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path != sys.argv[1]:
            self.answer(404, b"{}")
        elif request["messages"][-1]["content"] == "bad":
            self.answer(422, json.dumps({"error": {"message": "say something else", "code": "bad"}}).encode())
        else:
            self.answer(200, json.dumps({"id": "c", "object": "chat.completion", "created": 1, "model": self.path,
                "choices": [{"index": 0, "finish_reason": "stop",
                             "message": {"role": "assistant", "content": "from " + self.path}}]}).encode())

http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""


@pytest.fixture(scope="module")
def chatty(server: LiveServer, handler: Any) -> str:
    server.deploy("chatty", handler(HANDLER))
    return "chatty"


def client(server: LiveServer, path: str = "", key: str = "") -> Any:
    url = f"{server.url}{path}/openai/v1"
    return openai.OpenAI(base_url=url, api_key=key or server.keys["api_key"], max_retries=0)


def said(content: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": content}]


def sagemaker_token(server: LiveServer, *, expires: int = 3600, action: str = "CallWithBearerToken") -> str:
    """As `sagemaker.core.token_generator` of the SDK makes it."""
    host = "sagemaker.amazonaws.com"
    request = AWSRequest("POST", f"https://{host}/", headers={"host": host}, params={"Action": action})
    credentials = Credentials(server.keys["access_key_id"], server.keys["secret_access_key"])
    SigV4QueryAuth(credentials, "sagemaker", "us-east-1", expires=expires).add_auth(request)
    url = request.url.replace("https://", "") + "&Version=1"
    return "sagemaker-api-key-" + base64.b64encode(url.encode()).decode()


@pytest.mark.parametrize("path", ["", "/endpoints/chatty"])
def test_a_completion(server: LiveServer, chatty: str, path: str) -> None:
    with client(server, path) as chat:
        answer = chat.chat.completions.create(model=chatty, messages=said("hello"))
    assert answer.choices[0].message.content == "HELLO"


@pytest.mark.parametrize("path", ["", "/endpoints/chatty"])
def test_a_stream(server: LiveServer, chatty: str, path: str) -> None:
    with client(server, path) as chat:
        parts = chat.chat.completions.create(model=chatty, messages=said("one two three"), stream=True)
        assert [part.choices[0].delta.content for part in parts] == ["one", "two", "three"]


def test_a_stream_that_breaks_ends_with_the_models_error(server: LiveServer, chatty: str) -> None:
    with client(server) as chat:
        parts = iter(chat.chat.completions.create(model=chatty, messages=said("one fail"), stream=True))
        assert next(parts).choices[0].delta.content == "one"
        with pytest.raises(openai.APIError, match="lost for words"):
            list(parts)


def test_a_stream_that_never_begins_is_an_ordinary_error(server: LiveServer, chatty: str) -> None:
    with client(server) as chat, pytest.raises(openai.InternalServerError, match="lost for words"):
        chat.chat.completions.create(model=chatty, messages=said("fail"), stream=True)


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    script = tmp_path_factory.mktemp("own") / "chat.py"
    script.write_text(SERVER)
    return script


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/invocations"])
def test_an_own_server_is_asked_where_it_listens(server: LiveServer, scripts: Path, path: str) -> None:
    name = f"own{path.replace('/', '-')}"
    sagemaker = server.client("sagemaker")
    command = f"{sys.executable} {scripts} {path}"
    sagemaker.create_model(
        ModelName=name,
        ExecutionRoleArn="arn:aws:iam::123456789012:role/test",
        PrimaryContainer={"Environment": {"FOURFOLD_COMMAND": command}},
    )
    variant = {"VariantName": "v", "ModelName": name, "InstanceType": "ml.m5.large", "InitialInstanceCount": 1}
    sagemaker.create_endpoint_config(EndpointConfigName=name, ProductionVariants=[variant])
    sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=name)
    server.wait(name)
    with client(server) as chat:
        for _ in range(2):
            answer = chat.chat.completions.create(model=name, messages=said("hello"))
            assert answer.choices[0].message.content == f"from {path}"
        for stream in (False, True):
            with pytest.raises(openai.UnprocessableEntityError, match="say something else") as refused:
                chat.chat.completions.create(model=name, messages=said("bad"), stream=stream)
            assert refused.value.code == "bad", "as the server wrote it"


def test_a_token_of_the_sdk_opens_the_door(server: LiveServer, chatty: str) -> None:
    with client(server, f"/endpoints/{chatty}", sagemaker_token(server)) as chat:
        assert chat.chat.completions.create(model="any", messages=said("a")).choices[0].message.content == "A"


@pytest.mark.parametrize(
    "key",
    [
        lambda server: "wrong",
        lambda server: "sagemaker-api-key-" + base64.b64encode(b"nonsense").decode(),
        lambda server: sagemaker_token(server, expires=13 * 3600),
        lambda server: sagemaker_token(server, action="ListModels"),
        lambda server: sagemaker_token(server)[:-4] + "AAAA",
        lambda server: (
            "sagemaker-api-key-"
            + base64.b64encode(
                server.client("s3").generate_presigned_url("get_object", Params={"Bucket": "b", "Key": "k"}).encode()
            ).decode()
        ),
    ],
    ids=["unknown", "nonsense", "too long", "another action", "changed", "a link to an object"],
)
def test_any_other_key_does_not(server: LiveServer, chatty: str, key: Any) -> None:
    with client(server, key=key(server)) as chat, pytest.raises(openai.PermissionDeniedError):
        chat.chat.completions.create(model=chatty, messages=said("a"))


def test_wrong_requests_are_answered_in_openais_words(server: LiveServer, chatty: str) -> None:
    with client(server) as chat, pytest.raises(openai.NotFoundError, match="no endpoint 'nobody'"):
        chat.chat.completions.create(model="nobody", messages=said("a"))
    headers = {"Authorization": f"Bearer {server.keys['api_key']}"}
    request = urllib.request.Request(f"{server.url}/openai/v1/chat/completions", b"no json", headers)
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request)
    assert refused.value.code == 400
    assert json.loads(refused.value.read())["error"]["type"] == "invalid_request_error"


def test_endpoints_are_models(server: LiveServer, chatty: str) -> None:
    with client(server) as chat:
        assert chatty in [model.id for model in chat.models.list()]
        assert chat.models.retrieve(chatty).id == chatty
        with pytest.raises(openai.NotFoundError, match="no endpoint 'nobody'"):
            chat.models.retrieve("nobody")
        with pytest.raises(openai.NotFoundError, match="There is no POST /openai/v1/embeddings"):
            chat.embeddings.create(model=chatty, input="a")
    with client(server, f"/endpoints/{chatty}") as chat:
        assert [model.id for model in chat.models.list()] == [chatty]
