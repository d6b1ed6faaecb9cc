"""The command line against a real server: what it prints, its exit codes, and that every command is a plain client."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import stat
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import boto3
import numpy as np
import onnx
import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper
from typer.testing import CliRunner

from fourfold import __version__
from fourfold.api.keys import Keys
from fourfold.cli import app, main
from fourfold.cli.artifact import packed
from fourfold.cli.client import CommandError, Server
from fourfold.cli.endpoints import _added
from fourfold.cli.server import LARGEST_PAYLOAD, size

MIB = 1024 * 1024

DOUBLER = """
def model_fn(model_dir):
    print("doubler loaded")
    return 2


def predict_fn(data, model):
    return [[model * value for value in row] for row in data]
"""


@dataclass
class Shell:
    """Runs commands beside a server, without anything of AWS in the environment."""

    folder: Path
    url: str

    def run(self, *arguments: str, code: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "fourfold", *arguments],
            cwd=self.folder,
            env=clean_environment() | {"AWS_ENDPOINT_URL": self.url} | environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, f"{arguments}: {done.stdout}\n{done.stderr}"
        return done

    def json(self, *arguments: str) -> Any:
        return json.loads(self.run(*arguments, "--json").stdout)


def clean_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "FOURFOLD_"))}


def start(folder: Path, *options: str) -> tuple[subprocess.Popen[str], str]:
    """A server on a free port with its data in `folder`/.fourfold, and what it said."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    command = [sys.executable, "-m", "fourfold", "serve", "--port", str(port), "--log-level", "warning", *options]
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=clean_environment(), stdout=subprocess.PIPE, stderr=log, text=True
        )
    assert process.stdout is not None
    said = process.stdout.readline()
    if not said:
        process.communicate()
        pytest.fail((folder / "server.log").read_text())
    return process, said


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    folder = tmp_path_factory.mktemp("cli")
    process, said = start(folder)
    yield Shell(folder, said.split()[1])
    process.terminate()
    process.communicate(timeout=40)
    assert process.returncode == 0


@pytest.fixture
def refused(shell: Shell, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command that fails, in this process because that is faster; returns the one line that it says."""

    def run(command: str, **environment: str) -> str:
        for name in os.environ.keys() - clean_environment().keys():
            monkeypatch.delenv(name)
        for name, value in ({"AWS_ENDPOINT_URL": shell.url} | environment).items():
            monkeypatch.setenv(name, value)
        monkeypatch.chdir(shell.folder)
        monkeypatch.setattr(sys, "argv", ["fourfold", *command.split()])
        with pytest.raises(SystemExit, match="1"):
            main()
        said = capsys.readouterr()
        assert not said.out
        assert said.err.count("\n") == 1
        return said.err

    return run


@pytest.fixture(scope="module")
def stranger() -> Iterator[str]:
    """Host and port of a web server that is no Fourfold."""

    class Stranger(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Standard error belongs to the command."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Stranger) as server:
        threading.Thread(target=server.serve_forever, args=[0.01]).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def halves(tmp_path: Path) -> Path:
    """An ONNX model that halves four numbers."""
    path = tmp_path / "halves.onnx"
    half = helper.make_tensor("half", TensorProto.FLOAT, [1], [0.5])
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "half"], ["y"])],
        "halves",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 4])],
        [half],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.fixture
def doubler(tmp_path: Path) -> Path:
    """A folder with a handler that doubles."""
    (tmp_path / "doubler" / "code").mkdir(parents=True)
    (tmp_path / "doubler" / "code" / "inference.py").write_text(DOUBLER)
    return tmp_path / "doubler"


class TestServe:
    def test_says_one_line_and_ends_on_sigterm(self, tmp_path: Path) -> None:
        process, said = start(tmp_path)
        process.send_signal(signal.SIGTERM)
        rest, _ = process.communicate(timeout=40)
        assert said.startswith("ready http://127.0.0.1:")
        assert rest == ""
        assert process.returncode == 0

    def test_a_second_server_on_the_data_folder_is_refused(self, shell: Shell) -> None:
        refused = shell.run("serve", "--port", "0", code=1)
        assert "another server" in refused.stderr
        assert refused.stdout == ""
        assert len(refused.stderr.splitlines()) == 1

    def test_a_port_that_is_taken_is_one_line(self, shell: Shell, tmp_path: Path) -> None:
        port = shell.url.rpartition(":")[2]
        refused = shell.run("serve", "--port", port, "--data-dir", str(tmp_path), code=1)
        assert "Traceback" not in refused.stderr
        assert f"port {port}" in refused.stderr
        assert "Choose another --port" in refused.stderr
        elsewhere = shell.run("serve", "--port", "0", "--host", "192.0.2.1", "--data-dir", str(tmp_path), code=1)
        assert "Choose another --host" in elsewhere.stderr

    def test_unknown_log_level(self, shell: Shell) -> None:
        assert "warning" in shell.run("serve", "--log-level", "loud", code=2).stderr


class TestKeys:
    def test_env_is_what_sh_reads(self, tmp_path: Path) -> None:
        data_dir = tmp_path / "it's a folder"
        command = [sys.executable, "-m", "fourfold", "env", "--port", "4321", "--data-dir", str(data_dir)]
        lines = subprocess.run(command, capture_output=True, text=True, check=True, env=clean_environment()).stdout
        assert all(line.startswith("export ") for line in lines.splitlines())
        script = lines + "env"
        read = subprocess.run(["sh", "-euc", script], capture_output=True, text=True, check=True, env={}).stdout
        values = dict(line.split("=", 1) for line in read.splitlines())
        assert values["AWS_ENDPOINT_URL"] == "http://127.0.0.1:4321"
        assert values["AWS_DEFAULT_REGION"] == "us-east-1"
        assert values["AWS_EC2_METADATA_DISABLED"] == "true"
        assert values["AWS_ACCESS_KEY_ID"]
        assert values["AWS_SECRET_ACCESS_KEY"]
        assert values["FOURFOLD_API_KEY"]
        again = subprocess.run(command, capture_output=True, text=True, check=True, env=clean_environment()).stdout
        assert again == lines

    def test_env_knows_where_the_folders_server_listens(self, shell: Shell) -> None:
        assert f"export AWS_ENDPOINT_URL={shell.url}\n" in shell.run("env").stdout
        assert "export AWS_ENDPOINT_URL=http://127.0.0.1:4321\n" in shell.run("env", "--port", "4321").stdout
        assert (
            "export AWS_ENDPOINT_URL='http://[::1]:4321'\n"
            in shell.run("env", "--host", "::1", "--port", "4321").stdout
        )

    def test_secrets_are_for_the_owner_alone(self, tmp_path: Path) -> None:
        command = [sys.executable, "-m", "fourfold", "env", "--data-dir", str(tmp_path / "data")]
        lines = subprocess.run(command, capture_output=True, text=True, check=True, env=clean_environment()).stdout
        secret = dict(word.split("=", 1) for word in shlex.split(lines) if "=" in word)["AWS_SECRET_ACCESS_KEY"]
        holders = [path for path in (tmp_path / "data").rglob("*") if path.is_file() and secret in path.read_text()]
        assert [stat.S_IMODE(path.stat().st_mode) for path in holders] == [0o600]

    def test_create_list_delete(self, shell: Shell) -> None:
        made = shell.json("keys", "create")
        assert set(made) == {"access_key_id", "secret_access_key", "api_key"}
        assert made["access_key_id"] in [one["access_key_id"] for one in shell.json("keys", "list")]
        shell.run("keys", "delete", made["access_key_id"])
        assert made["access_key_id"] not in shell.run("keys", "list").stdout
        gone = shell.run("keys", "delete", made["access_key_id"], code=1)
        assert made["access_key_id"] in gone.stderr


class TestEndpoints:
    def test_deploy_call_look_and_delete(self, shell: Shell, halves: Path) -> None:
        deployed = shell.json("deploy", str(halves), "--name", "halves", "--max-batch", "8", "--env", "A=b")
        assert deployed["EndpointStatus"] == "InService"
        assert deployed["ModelDataUrl"].startswith("s3://fourfold-us-east-1-123456789012/models/halves/")

        answer = json.loads(shell.run("invoke", "halves", "--body", "[[1, 2, 3, 4]]").stdout)
        assert answer == {"predictions": [[0.5, 1.0, 1.5, 2.0]]}

        described = shell.json("describe", "halves")
        environment = described["Models"][0]["PrimaryContainer"]["Environment"]
        assert environment == {"FOURFOLD_MAX_BATCH": "8", "A": "b"}
        assert "InService" in shell.run("describe", "halves").stdout
        assert "halves" in [one["EndpointName"] for one in shell.json("list")]
        assert "halves" in shell.run("list").stdout

        assert shell.json("delete", "halves") == {"EndpointName": "halves", "EndpointStatus": "Deleted"}
        assert "halves" not in [one["EndpointName"] for one in shell.json("list")]

    def test_body_from_a_file_has_its_content_type(self, shell: Shell, halves: Path, tmp_path: Path) -> None:
        shell.run("deploy", str(halves), "--name", "files")
        np.save(tmp_path / "row.npy", np.array([[2, 4, 6, 8]], np.float32))
        (tmp_path / "row.csv").write_text("2,4,6,8\n")
        for file in ("row.npy", "row.csv"):
            answer = shell.run("invoke", "files", "--file", str(tmp_path / file), "--accept", "text/csv")
            assert [float(cell) for cell in answer.stdout.split(",")] == [1, 2, 3, 4]
        assert "either --body or --file" in shell.run("invoke", "files", code=2).stderr

    def test_deploying_again_replaces_the_model(self, shell: Shell, halves: Path, doubler: Path) -> None:
        first = shell.json("deploy", str(halves), "--name", "changing")
        second = shell.json("deploy", str(doubler), "--name", "changing")
        assert second["EndpointArn"] == first["EndpointArn"]
        assert second["EndpointConfigName"] != first["EndpointConfigName"]
        assert json.loads(shell.run("invoke", "changing", "--body", "[[1, 2]]").stdout) == [[2, 4]]
        assert "doubler loaded" in shell.json("logs", "changing")["Logs"]

    def test_a_model_that_does_not_load_is_told_with_its_reason(self, shell: Shell, doubler: Path) -> None:
        (doubler / "code" / "inference.py").write_text("def model_fn(model_dir):\n    raise ValueError('no weights')\n")
        failed = shell.run("deploy", str(doubler), "--name", "broken", code=1)
        assert "broken is not in service" in failed.stderr
        assert "no weights" in failed.stderr
        assert failed.stderr.count("Traceback") == 1
        assert "The whole log: fourfold logs broken" in failed.stderr
        (doubler / "code" / "inference.py").write_text(DOUBLER)
        assert shell.json("deploy", str(doubler), "--name", "broken")["EndpointStatus"] == "InService"

    def test_an_object_that_is_there_is_deployed_as_it_is(self, shell: Shell, halves: Path) -> None:
        bucket = shell.folder / ".fourfold" / "buckets" / "by-hand"
        bucket.mkdir()
        (bucket / "model.onnx").write_bytes(halves.read_bytes())
        deployed = shell.json("deploy", "s3://by-hand/model.onnx", "--name", "object", "--format", "onnx")
        assert deployed["ModelDataUrl"] == "s3://by-hand/model.onnx"

    def test_what_is_not_there_is_not_deployed(self, refused, tmp_path: Path) -> None:
        assert "no file or folder" in refused("deploy missing.onnx --name x")
        (tmp_path / "empty").mkdir()
        assert "empty" in refused(f"deploy {tmp_path / 'empty'} --name x")

    @pytest.mark.parametrize("command", ["list", "topics list"])
    def test_without_a_server(self, refused, command: str) -> None:
        told = refused(command, AWS_ENDPOINT_URL="http://127.0.0.1:9")
        assert told == "fourfold: no server answers at http://127.0.0.1:9: start it with fourfold serve\n"

    @pytest.mark.parametrize(
        ("command", "next_step"),
        [
            ("describe nothing", "fourfold list"),
            ("logs nothing", "fourfold list"),
            ("delete nothing", "fourfold list"),
            ("invoke nothing --body []", "`fourfold list`"),
            ("async list nothing", "fourfold list"),
            ("async cancel nothing id", "fourfold list"),
            ("batch errors nothing", "fourfold batch list"),
            ("batch stop nothing", "fourfold batch list"),
            ("batch run --model nothing --input s3://nowhere/x --output y", "does not exist: nowhere"),
            ("schedule enable nothing", "fourfold schedule list"),
            ("topics redrive nothing", "fourfold topics list"),
            ("topics dead-letters no/thing?", "no/thing?. What there is: fourfold topics list"),
            ("keys delete nothing", "fourfold keys list"),
            ("keys delete nothing --data-dir nowhere", "there is no folder nowhere"),
            ("verify --plan nothing", "nothing: No such file"),
        ],
    )
    def test_what_does_not_exist_is_told_with_the_next_step(self, refused, command: str, next_step: str) -> None:
        assert next_step in refused(command)

    def test_an_endpoint_that_takes_no_asynchronous_calls_has_no_list_of_them(
        self, shell: Shell, halves: Path, refused
    ) -> None:
        shell.run("deploy", str(halves), "--name", "direct")
        assert "takes no asynchronous calls" in refused("async list direct")

    @pytest.mark.parametrize("command", ["list", "async list x", "batch run --model x --input s3://b/c --output y"])
    def test_wrong_keys(self, refused, command: str) -> None:
        keys = {"AWS_ACCESS_KEY_ID": "AKIAWRONG", "AWS_SECRET_ACCESS_KEY": "wrong", "FOURFOLD_API_KEY": "wrong"}
        assert "fourfold keys list" in refused(command, **keys)

    @pytest.mark.parametrize("command", ["list", "topics list", "deploy FILE --name x", "run FILE"])
    def test_another_server_is_no_fourfold(self, refused, halves: Path, stranger: str, command: str) -> None:
        for scheme, expected in (("http", "is no Fourfold server"), ("https", "is its address http://")):
            assert expected in refused(command.replace("FILE", str(halves)), AWS_ENDPOINT_URL=f"{scheme}://{stranger}")

    def test_an_address_may_end_with_a_slash(self, shell: Shell) -> None:
        assert json.loads(shell.run("topics", "list", "--json", AWS_ENDPOINT_URL=f"{shell.url}/").stdout) == []

    def test_without_credentials(self, refused, tmp_path: Path) -> None:
        assert "fourfold env" in refused(f"list --data-dir {tmp_path}")


def test_version(shell: Shell) -> None:
    assert shell.run("--version").stdout.strip() == f"fourfold {__version__}"


def test_help_imports_nothing_heavy() -> None:
    program = "import sys, fourfold.cli; print([name for name in ('boto3', 'numpy', 'uvicorn') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("url", ["", "127.0.0.1:4004", "http://", "http://127.0.0.1:99999", "ftp://127.0.0.1"])
def test_an_address_that_is_none_is_told(url: str) -> None:
    with pytest.raises(CommandError, match=r"is no address of a server: write --endpoint-url http://127.0.0.1:4004"):
        Server(url)


@pytest.mark.parametrize(
    ("option", "value"),
    [("--account", "12"), ("--public-url", "here"), ("--sqs-endpoint", "queue"), ("--log-level", "loud")],
)
def test_the_server_does_not_start_with_an_option_that_makes_no_sense(option: str, value: str) -> None:
    refused = CliRunner().invoke(app, ["serve", option, value])
    assert refused.exit_code == 2
    assert option in refused.stderr


def test_a_data_folder_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert CliRunner().invoke(app, ["serve", "--data-dir", str(tmp_path / "file")]).exit_code == 2
    assert CliRunner().invoke(app, ["keys", "list", "--data-dir", str(tmp_path / "none")]).exit_code == 1


@pytest.mark.parametrize(
    ("text", "count"),
    [("6MiB", 6 * MIB), ("25", 25 * MIB), ("6291456", 6 * MIB), ("512KiB", 512 * 1024), ("10m", 10 * MIB)],
)
def test_sizes(text: str, count: int) -> None:
    assert size(text) == count


@given(st.text(max_size=12))
def test_any_text_is_a_size_in_bounds_or_refused(text: str) -> None:
    try:
        count = size(text)
    except typer.BadParameter:
        return
    assert 1024 <= count <= LARGEST_PAYLOAD


@given(st.text("ab\n", max_size=40), st.text("ab\n", max_size=40))
def test_following_a_log_prints_what_was_added(before: str, more: str) -> None:
    assert _added(before, before + more) == more


def test_following_a_log_whose_beginning_has_gone() -> None:
    lines = [f"line {number}\n" for number in range(300)]
    assert _added("".join(lines[:200]), "".join(lines[50:250])) == "".join(lines[200:250])


def test_a_folder_packs_to_the_same_bytes_each_time(doubler: Path) -> None:
    with packed(doubler) as first, tarfile.open(first.path) as archive:
        names = archive.getnames()
    (doubler / "code" / "inference.py").touch()
    with packed(doubler) as second:
        assert second.digest == first.digest
    assert names == ["code/inference.py"]


def test_nothing_to_pack(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="no file or folder"), packed(tmp_path / "missing"):
        pass


class TestSchedules:
    JOB: ClassVar[dict[str, Any]] = {
        "TransformJobName": "night",
        "ModelName": "segments",
        "TransformInput": {"DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": "s3://shop/in/"}}},
        "TransformOutput": {"S3OutputPath": "s3://shop/out/<aws.scheduler.scheduled-time>/"},
        "TransformResources": {"InstanceType": "ml.m5.large", "InstanceCount": 1},
    }

    def test_a_job_is_made_for_each_run(self, shell: Shell, tmp_path: Path) -> None:
        (tmp_path / "job.json").write_text(json.dumps(self.JOB))
        said = shell.run("schedule", "create", "night", "--rate", "1 days", "--batch", str(tmp_path / "job.json"))
        assert "night-<aws.scheduler.scheduled-time>" in said.stdout
        shell.run("schedule", "delete", "night")

    @pytest.mark.parametrize(
        ("options", "changes", "told"),
        [
            ("--rate 1days --batch FILE", {"ModelName": None}, 'Missing required parameter in input: "ModelName"'),
            ("--rate 1days --batch FILE", {"ModelNames": "x"}, 'Unknown parameter in input: "ModelNames"'),
            ("--rate 1days --batch FILE", {"BatchStrategy": "Many"}, "'batchStrategy' failed to satisfy constraint"),
            ("--rate 1days --batch FILE", {"ModelName": "a b"}, "'modelName' failed to satisfy constraint"),
            ("--rate 1days --target sagemaker:stopTransformJobs", {}, "is no operation"),
            ("--rate 1days --target sagemker:stopTransformJob", {}, "is no operation"),
            ("--rate 1days --batch FILE", {}, "Invalid Schedule Expression"),
            ("--cron 1 --batch FILE", {}, "--cron has 5 fields"),
        ],
    )
    def test_what_could_never_run_is_refused(
        self, refused, tmp_path: Path, options: str, changes: dict[str, Any], told: str
    ) -> None:
        job = {member: value for member, value in (self.JOB | changes).items() if value is not None}
        (tmp_path / "job.json").write_text(json.dumps(job))
        assert told in refused(f"schedule create never {options}".replace("FILE", str(tmp_path / "job.json")))


class TestServerless:
    def test_deploy_and_describe(self, shell: Shell, halves: Path) -> None:
        sizes = ("--memory", "3072", "--max-concurrency", "4", "--provisioned", "1", "--idle", "7")
        shell.run("deploy", str(halves), "--name", "shop", "--serverless", *sizes)
        shell.run("invoke", "shop", "--body", '{"instances": [[2, 4, 6, 8]]}')
        found = shell.json("describe", "shop")
        bounds = {"MemorySizeInMB": 3072, "MaxConcurrency": 4, "ProvisionedConcurrency": 1}
        assert found["EndpointConfig"]["ProductionVariants"][0]["ServerlessConfig"] == bounds
        serverless = found["Serverless"]
        assert serverless.items() >= (bounds | {"IdleSeconds": 7, "Workers": 1, "Invocations": 1}).items()
        assert serverless["GBSeconds"]["provisioned"] >= 0.003  # a call costs a millisecond at least
        lines = serverless["AWSCost"]["Lines"]
        assert sum(float(line["USD"]) for line in lines) == pytest.approx(float(serverless["AWSCost"]["USD"]))
        assert all(line["PriceDate"] and line["Source"] for line in lines)
        shown = shell.run("describe", "shop").stdout
        for words in ("workers now", "cold starts", "warm latency", "GB-seconds", "USD in us-east-1, by prices of 20"):
            assert words in shown
        shell.run("delete", "shop")

    @pytest.mark.parametrize(
        "options",
        [
            ("--memory", "2048"),
            ("--idle", "5"),
            ("--serverless", "--memory", "1500"),
            ("--serverless", "--provisioned", "6"),
            ("--serverless", "--instance-count", "2"),
            ("--serverless", "--max-concurrency", "201"),
        ],
    )
    def test_options_that_do_not_go_together(self, shell: Shell, halves: Path, options: tuple[str, ...]) -> None:
        refused = shell.run("deploy", str(halves), "--name", "never", *options, code=2)
        assert options[-2] in refused.stderr

    def test_an_endpoint_with_instances_says_why_it_cannot_become_serverless(self, shell: Shell, halves: Path) -> None:
        shell.run("deploy", str(halves), "--name", "fixed")
        refused = shell.run("deploy", str(halves), "--name", "fixed", "--serverless", code=1)
        assert "Create a new endpoint instead" in refused.stderr
        shell.run("delete", "fixed")


def test_a_mistake_is_told_and_leaves_nothing_behind(shell: Shell, halves: Path) -> None:
    wrong = shell.run("deploy", str(halves), "--name", "mistaken", "--instance-type", "ml.none", code=1)
    assert "instanceType" in wrong.stderr
    wrong = shell.run("deploy", str(halves), "--name", "crowded", "--instance-count", "999999999", code=1)
    assert "instances at most" in wrong.stderr
    wrong = shell.run("deploy", str(halves), "--name", "misspelt", "--format", "onxx", code=1)
    assert "There is no format 'onxx'" in wrong.stderr
    assert "onnx, " in wrong.stderr
    shell.run("delete", "misspelt")
    assert "Could not find endpoint" in shell.run("logs", "misspelt", code=1).stderr
    key = Keys(shell.folder / ".fourfold").first()
    sagemaker = boto3.client(
        "sagemaker", endpoint_url=shell.url, region_name="us-east-1", aws_access_key_id=key.access_key_id,
        aws_secret_access_key=key.secret_access_key,
    )  # fmt: skip
    for part in ("mistaken", "misspelt", "crowded"):
        assert sagemaker.list_models(NameContains=part)["Models"] == []
        assert sagemaker.list_endpoint_configs(NameContains=part)["EndpointConfigs"] == []
    sagemaker.close()
