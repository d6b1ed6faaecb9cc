"""Where a model may come from: buckets by either URL, code kept apart, requirements, a hub, a command alone."""

from __future__ import annotations

import json
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import joblib
import pytest

from fourfold.errors import ModelLoadError, ValidationException
from fourfold.storage import hub as hubs
from fourfold.storage.artifacts import Artifacts
from fourfold.storage.objects import Location, Objects, parse_location
from tests.formats.test_environment import package
from tests.hub import Hub, running
from tests.server import LiveServer

ROLE = "arn:aws:iam::123456789012:role/test"
MODEL_AND_CODE = """
from pathlib import Path

def model_fn(model_dir):
    return Path(model_dir, "weights.txt").read_text()

def transform_fn(model, data, content_type, accept):
    return model + data
"""
OLD_CODE = MODEL_AND_CODE.replace("model + data", "'the code of the artifact'")


def pack(path: Path, files: dict[str, str | Path]) -> Path:
    folder = path.parent / f"{path.name}.files"
    for name, content in files.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content.read_bytes() if isinstance(content, Path) else content.encode())
    with tarfile.open(path, "w:gz") as archive:
        archive.add(folder, ".")
    return path


@pytest.fixture(scope="module")
def hub(onnx_model: Path) -> Iterator[Hub]:
    files = {"README.md": b"# trees", "onnx/model.onnx": onnx_model.read_bytes()}
    with running(Hub({"acme/trees": {"main": files, "v1": files}, "acme/words": {"main": {"README.md": b"#"}}})) as hub:
        yield hub


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, hub: Hub) -> Iterator[LiveServer]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_ENDPOINT", hub.url)
        patch.setenv("HF_HOME", str(tmp_path_factory.mktemp("hub")))
        server = LiveServer(tmp_path_factory.mktemp("server") / "data")
    server.client("s3").create_bucket(Bucket="test-models")
    yield server
    assert server.stop() == 0


def deploy(server: LiveServer, name: str, **container: Any) -> None:
    sagemaker = server.client("sagemaker")
    sagemaker.create_model(ModelName=name, ExecutionRoleArn=ROLE, PrimaryContainer=container)
    variant = {"VariantName": "AllTraffic", "ModelName": name, "InstanceType": "ml.m5.large", "InitialInstanceCount": 1}
    sagemaker.create_endpoint_config(EndpointConfigName=name, ProductionVariants=[variant])
    sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=name)
    server.wait(name, seconds=100)  # an environment with requirements takes a while to make


def invoke(server: LiveServer, name: str, body: bytes, content_type: str = "application/json") -> bytes:
    runtime = server.client("sagemaker-runtime")
    return runtime.invoke_endpoint(EndpointName=name, ContentType=content_type, Body=body)["Body"].read()


def upload(server: LiveServer, path: Path) -> str:
    server.client("s3").upload_file(str(path), "test-models", path.name)
    return f"s3://test-models/{path.name}"


def test_code_that_the_sdk_uploads_apart_is_put_beside_the_model(server: LiveServer, tmp_path: Path) -> None:
    model = upload(server, pack(tmp_path / "apart.tar.gz", {"weights.txt": "w", "code/inference.py": OLD_CODE}))
    code = upload(server, pack(tmp_path / "sourcedir.tar.gz", {"serve_it.py": MODEL_AND_CODE}))
    deploy(
        server,
        "apart",
        Image="683313688378.dkr.ecr.us-east-1.amazonaws.com/sagemaker-scikit-learn:1.2-1-cpu-py3",
        ModelDataUrl=model,
        Environment={"SAGEMAKER_PROGRAM": "serve_it.py", "SAGEMAKER_SUBMIT_DIRECTORY": code},
    )
    assert invoke(server, "apart", b"!", "text/csv") == b"w!"


def test_a_handler_gets_what_its_requirements_name(server: LiveServer, tmp_path: Path) -> None:
    wheel = package(tmp_path / "wheels", "1.0")
    code = "import tinypackage\ndef model_fn(d):\n    return tinypackage\n"
    code += "def transform_fn(model, data, content_type, accept):\n    return model.version\n"
    files = {"code/inference.py": code, "code/requirements.txt": f"./{wheel.name}\n", f"code/{wheel.name}": wheel}
    deploy(server, "needy", ModelDataUrl=upload(server, pack(tmp_path / "needy.tar.gz", files)))
    assert invoke(server, "needy", b"{}") == b"1.0"


def test_an_https_url_of_a_bucket(server: LiveServer, onnx_model: Path) -> None:
    upload(server, onnx_model)
    deploy(server, "by-https", ModelDataUrl="https://test-models.s3.us-east-1.amazonaws.com/model.onnx")
    assert b"predictions" in invoke(server, "by-https", b"[[1, 2, 3, 4]]")


@pytest.mark.parametrize("compression", ["gzip", "bz2", "xz"])
def test_a_compressed_file_is_no_archive(tmp_path: Path, compression: str) -> None:
    objects = Objects(tmp_path / "buckets")
    bucket = tmp_path / "buckets" / "test-models"
    bucket.mkdir(parents=True)
    joblib.dump([1, 2], bucket / "model.joblib", compress=(compression, 3))
    (bucket / "model.tar.gz").write_bytes((bucket / "model.joblib").read_bytes())
    artifacts = Artifacts(tmp_path / "artifacts", objects)
    assert joblib.load(artifacts.fetch("s3://test-models/model.joblib") / "model.joblib") == [1, 2]
    with pytest.raises(ModelLoadError, match="not a whole tar archive"):
        artifacts.fetch("s3://test-models/model.tar.gz")


def test_a_command_needs_no_artifact(server: LiveServer, tmp_path: Path) -> None:
    script = tmp_path / "own.py"
    script.write_text(
        "import http.server, os\n"
        "class Handler(http.server.BaseHTTPRequestHandler):\n"
        "    protocol_version = 'HTTP/1.1'\n"
        "    def answer(self, body):\n"
        "        self.send_response(200)\n"
        "        self.send_header('Content-Length', str(len(body)))\n"
        "        self.end_headers()\n"
        "        self.wfile.write(body)\n"
        "    def do_GET(self):\n"
        "        self.answer(b'')\n"
        "    def do_POST(self):\n"
        "        self.answer(b'own:' + self.rfile.read(int(self.headers['Content-Length'])))\n"
        "http.server.HTTPServer(('127.0.0.1', int(os.environ['PORT'])), Handler).serve_forever()\n"
    )
    environment = {"FOURFOLD_COMMAND": f"{sys.executable} {script}", "FOURFOLD_WARMUP": '{"a": 1}'}
    deploy(server, "own", Image="123456789012.dkr.ecr.us-east-1.amazonaws.com/mine:1", Environment=environment)
    assert [invoke(server, "own", body) for body in (b"1", b"2")] == [b"own:1", b"own:2"]


def test_a_model_that_fails_its_warm_up_never_takes_traffic(server: LiveServer, onnx_model: Path) -> None:
    with pytest.raises(AssertionError, match="failed on its FOURFOLD_WARMUP sample"):
        server.deploy("cold", onnx_model, FOURFOLD_WARMUP="[[1, 2]]")


@pytest.mark.parametrize(
    "container",
    [
        {"ModelDataUrl": "hf://acme/trees"},
        {"ModelDataUrl": "hf://acme/trees@v1"},
        {"ModelDataUrl": "hf://acme/trees@v1/onnx/model.onnx"},
        {"Environment": {"HF_MODEL_ID": "acme/trees", "HF_MODEL_REVISION": "v1"}},
    ],
    ids=["main", "revision", "file", "HF_MODEL_ID"],
)
def test_a_model_from_a_hub(server: LiveServer, container: dict[str, Any], request: pytest.FixtureRequest) -> None:
    name = f"hub-{request.node.callspec.id.replace('_', '-')}"
    deploy(server, name, **container)
    assert len(json.loads(invoke(server, name, b"[[1, 2, 3, 4]]"))["predictions"]) == 1


def test_a_hub_is_asked_once_and_then_not_needed(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    artifacts = Artifacts(tmp_path / "artifacts", Objects(tmp_path / "buckets"))
    folder = artifacts.fetch("hf://acme/trees@v1")
    assert sorted(path.name for path in folder.rglob("*") if path.is_file()) == ["README.md", "model.onnx"]
    assert not any(path.is_symlink() for path in folder.rglob("*"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    asked = len(hub.requests)
    assert artifacts.fetch("hf://acme/trees@v1") == folder
    with pytest.raises(ModelLoadError, match="HF_HUB_OFFLINE"):
        artifacts.fetch("hf://acme/words")
    assert len(hub.requests) == asked


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("hf://acme/none", "RepositoryNotFoundError"),
        ("hf://acme/trees@v9", "RevisionNotFoundError"),
        ("hf://acme/trees/none.onnx", "EntryNotFoundError"),
        ("hf://", r"write hf://ORG/REPO\[@REVISION\]\[/FILE\]"),
        ("hf://acme/trees@", r"write hf://ORG/REPO\[@REVISION\]\[/FILE\]"),
    ],
)
def test_what_a_hub_does_not_have_is_told(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, expected: str
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    artifacts = Artifacts(tmp_path / "artifacts", Objects(tmp_path / "buckets"))
    with pytest.raises(ModelLoadError, match=expected):
        artifacts.fetch(url)


@pytest.mark.parametrize(
    "url",
    [
        "s3://b-1/a b.onnx",
        "https://b-1.s3.amazonaws.com/a%20b.onnx",
        "https://b-1.s3-us-west-2.amazonaws.com/a%20b.onnx",
        "https://b-1.s3.dualstack.eu-central-1.amazonaws.com/a%20b.onnx",
        "https://b-1.s3.cn-north-1.amazonaws.com.cn/a%20b.onnx?X-Amz-Signature=00",
        "https://s3-fips.us-gov-west-1.amazonaws.com/b-1/a%20b.onnx?versionId=1",
    ],
)
def test_every_address_of_an_object(url: str) -> None:
    assert parse_location(url) == Location("b-1", "a b.onnx")


@pytest.mark.parametrize(
    "url",
    [
        "https://b-1.s3.amazonaws.com.evil.org/k",
        "https://example.com/s3.amazonaws.com/k",
        "http://s3.amazonaws.com/b-1",
    ],
)
def test_other_addresses_are_refused(url: str) -> None:
    with pytest.raises(ValidationException, match="write s3://bucket/key"):
        parse_location(url)


@pytest.mark.parametrize(
    ("url", "reference"),
    [
        ("hf://gpt2", ("gpt2", None, None)),
        ("hf://org/repo@refs/pr/7/a/b.onnx", ("org/repo", "refs/pr/7", "a/b.onnx")),
        ("hf://org/repo/a@b.onnx", ("org/repo", None, "a@b.onnx")),
    ],
)
def test_parse(url: str, reference: tuple[str, str | None, str | None]) -> None:
    assert hubs.parse(url) == reference
