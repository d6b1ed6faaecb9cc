"""The Open Inference Protocol over HTTP, with Triton's own client where it goes, and by hand where it cannot go."""

from __future__ import annotations

import gzip
import json
import urllib.error
import urllib.request
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.server import LiveServer

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")  # Triton's client
http = pytest.importorskip("tritonclient.http")

ROWS = np.random.default_rng(3).normal(size=(3, 4)).astype(np.float32)


@pytest.fixture(scope="module")
def trees(server: LiveServer, onnx_model: Path) -> str:
    server.deploy("trees", onnx_model)
    return "trees"


@pytest.fixture(scope="module")
def expected(server: LiveServer, trees: str) -> np.ndarray[Any, Any]:
    runtime = server.client("sagemaker-runtime")
    body = json.dumps({"inputs": ROWS.tolist()})
    answer = json.loads(runtime.invoke_endpoint(EndpointName=trees, Body=body)["Body"].read())
    return np.array(answer["outputs"]["probabilities"], np.float32)


@pytest.fixture
def token(server: LiveServer) -> dict[str, str]:
    """For one call: Triton's client writes into the headers that it gets."""
    return {"Authorization": f"Bearer {server.keys['api_key']}"}


@pytest.fixture
def client(server: LiveServer) -> Any:
    with http.InferenceServerClient(server.url.removeprefix("http://")) as client:
        yield client


def ask(server: LiveServer, path: str, body: bytes | None = None, **headers: str) -> tuple[int, Any]:
    """Status and JSON of a request by hand."""
    token = {"Authorization": f"Bearer {server.keys['api_key']}"}
    request = urllib.request.Request(server.url + path, data=body, headers=token | headers)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def rows(data: np.ndarray[Any, Any], *, binary: bool, name: str = "X") -> Any:
    tensor = http.InferInput(name, list(data.shape), "FP32")
    tensor.set_data_from_numpy(data, binary_data=binary)
    return tensor


def test_health_and_metadata(client: Any, trees: str, token: dict[str, str]) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert "binary_tensor_data" in client.get_server_metadata(token)["extensions"]
    assert client.is_model_ready(trees, headers=token)
    assert client.is_model_ready(trees, "1", headers=token)
    assert not client.is_model_ready("nobody", headers=token)
    metadata = client.get_model_metadata(trees, headers=token)
    assert (metadata["name"], metadata["versions"]) == (trees, ["1"])
    assert metadata["inputs"] == [{"name": "X", "datatype": "FP32", "shape": [-1, 4]}]
    assert [output["name"] for output in metadata["outputs"]] == ["label", "probabilities"]
    config = client.get_model_config(trees, headers=token)
    assert config["max_batch_size"] > 1
    assert config["input"] == [{"name": "X", "data_type": "TYPE_FP32", "dims": [4]}]


@pytest.mark.parametrize("binary_input", [True, False])
@pytest.mark.parametrize("binary_output", [True, False])
def test_infer(
    client: Any,
    trees: str,
    token: dict[str, str],
    expected: np.ndarray[Any, Any],
    binary_input: bool,
    binary_output: bool,
) -> None:
    wanted = http.InferRequestedOutput("probabilities", binary_data=binary_output)
    result = client.infer(trees, [rows(ROWS, binary=binary_input)], outputs=[wanted], request_id="r-1", headers=token)
    np.testing.assert_allclose(result.as_numpy("probabilities"), expected, rtol=1e-6)
    response = result.get_response()
    assert (response["id"], response["model_name"], response["model_version"]) == ("r-1", trees, "1")
    assert result.as_numpy("label") is None


def test_all_outputs_where_none_is_named(client: Any, trees: str, token: dict[str, str]) -> None:
    result = client.infer(trees, [rows(ROWS, binary=True)], model_version="1", headers=token)
    assert result.as_numpy("label").shape == (3,)
    assert result.as_numpy("probabilities").shape == (3, 2)


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_a_compressed_request(
    client: Any, trees: str, token: dict[str, str], expected: np.ndarray[Any, Any], algorithm: str
) -> None:
    result = client.infer(
        trees,
        [rows(ROWS, binary=True)],
        headers=token,
        request_compression_algorithm=algorithm,
        response_compression_algorithm=algorithm,
    )
    np.testing.assert_allclose(result.as_numpy("probabilities"), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("encoding", "body", "status", "message"),
    [
        ("br", b"{}", 400, "gzip or deflate, not 'br'"),
        ("gzip", b"{}", 400, "not compressed with gzip"),
        ("gzip", gzip.compress(b"{}", mtime=0)[:-4], 400, "cut off"),
        ("deflate", zlib.compress(b" " * (6 * 1024 * 1024 + 1)), 413, "6,291,456 bytes"),
    ],
    ids=["unknown", "plain", "cut-off", "too-long"],
)
def test_what_is_wrong_with_a_compressed_request(
    server: LiveServer, trees: str, encoding: str, body: bytes, status: int, message: str
) -> None:
    found, answer = ask(server, f"/v2/models/{trees}/infer", body, **{"Content-Encoding": encoding})
    assert (found, message in answer["error"]) == (status, True), answer


def test_what_is_wrong_with_an_inference_is_told(client: Any, trees: str, token: dict[str, str]) -> None:
    with pytest.raises(http.InferenceServerException, match=r"missing: X; unknown: Y"):
        client.infer(trees, [rows(ROWS, binary=True, name="Y")], headers=token)
    with pytest.raises(http.InferenceServerException, match="There is no model 'nobody'"):
        client.infer("nobody", [rows(ROWS, binary=True)], headers=token)
    with pytest.raises(http.InferenceServerException, match="API key"):
        client.infer(trees, [rows(ROWS, binary=True)], headers={"Authorization": "Bearer ff_wrong"})


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v2/models/nobody", None, 404),
        ("/v2/models/trees/versions/2/ready", None, 404),
        ("/v2/models/trees/unload", b"{}", 404),
        ("/v2/models/trees/infer", None, 404),
        ("/v2/nothing", None, 404),
        ("/v2/health/well", None, 404),
        ("/v2/models/trees/infer", b"no json", 400),
        ("/v2/models/trees/infer", b"{}", 400),
        ("/v2/models/trees/infer", b"x" * (6 * 1024 * 1024 + 1), 413),
    ],
)
def test_every_error_is_json_with_one_member(
    server: LiveServer, trees: str, path: str, body: bytes | None, status: int
) -> None:
    found, answer = ask(server, path, body)
    assert (found, list(answer)) == (status, ["error"])
    assert answer["error"]


def test_a_wrong_header_length_is_told(server: LiveServer, trees: str) -> None:
    status, answer = ask(server, "/v2/models/trees/infer", b"{}", **{"Inference-Header-Content-Length": "99"})
    assert status == 400
    assert "'99', and the body has 2 bytes" in answer["error"]


def test_a_request_without_credentials_is_refused_in_the_protocols_words(server: LiveServer, trees: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{server.url}/v2/models/{trees}")
    assert refused.value.code == 403
    assert list(json.loads(refused.value.read())) == ["error"]


def test_a_handler_gets_the_json_as_it_is(server: LiveServer, handler: Any) -> None:
    code = "def model_fn(d):\n    return None\ndef transform_fn(model, data, content_type, accept):\n"
    server.deploy("echo", handler(code + "    assert content_type == 'application/json'\n    return data\n"))
    request = {"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [1]}]}
    assert ask(server, "/v2/models/echo/infer", json.dumps(request).encode()) == (200, request)
    assert ask(server, "/v2/models/echo")[1]["inputs"] == []
    status, answer = ask(server, "/v2/models/echo/infer", b"{}", **{"Inference-Header-Content-Length": "2"})
    assert (status, "no binary tensors" in answer["error"]) == (400, True)


def test_a_model_that_fails_is_a_server_error(server: LiveServer, handler: Any) -> None:
    code = "def model_fn(d):\n    return None\ndef transform_fn(model, data, content_type, accept):\n"
    server.deploy("failing", handler(code + "    raise KeyError('weights')\n"))
    status, answer = ask(server, "/v2/models/failing/infer", b"{}")
    assert (status, "weights" in answer["error"]) == (500, True)
