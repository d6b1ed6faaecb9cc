"""`fourfold serve` as an operator meets it: start, stop, crash, restart, bad clients."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from botocore.exceptions import ClientError

from tests.server import LiveServer, alive

ROW = json.dumps({"instances": [[0.1, 0.2, 0.3, 0.4]]}).encode()

SLEEPY = """
import os, time

def model_fn(model_dir):
    return None

def input_fn(data, content_type):
    return data.decode()

def predict_fn(data, model):
    if data.startswith("sleep"):
        time.sleep(float(data.split()[1]))
    if data == "die":
        os._exit(9)
    return data + " " + str(os.getpid())

def output_fn(prediction, accept):
    return prediction
"""

HELD = """
import time
from pathlib import Path

def model_fn(model_dir):
    return Path({folder!r})

def transform_fn(folder, data, content_type, accept):
    (folder / "called").touch()
    while not (folder / "release").exists():
        time.sleep(0.01)
    return "released"
"""
"""Says that it was called, and answers when it is let."""


def invoke(server: LiveServer, name: str, body: bytes = ROW, content_type: str = "application/json") -> bytes:
    runtime = server.client("sagemaker-runtime")
    return runtime.invoke_endpoint(EndpointName=name, ContentType=content_type, Body=body)["Body"].read()


def eventually(condition, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def raw(server: LiveServer, name: str, body: bytes = ROW, *, connection: str = "keep-alive", extra: str = "") -> bytes:
    """An invocation as bytes."""
    return (
        f"POST /endpoints/{name}/invocations HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {server.keys['api_key']}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: {connection}\r\n{extra}\r\n"
    ).encode() + body


def connect(server: LiveServer) -> socket.socket:
    host, port = server.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=20)


def listens(server: LiveServer) -> bool:
    try:
        connect(server).close()
    except ConnectionError:
        return False
    return True


def read_all(connection: socket.socket) -> bytes:
    parts = []
    while part := connection.recv(65536):
        parts.append(part)
    return b"".join(parts)


def test_health_needs_no_credentials_and_everything_else_does(server):
    import urllib.error
    import urllib.request

    def status(path: str) -> int:
        try:
            with urllib.request.urlopen(server.url + path) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            with error:
                return error.code

    assert status("/healthz") == 200
    eventually(lambda: status("/readyz") == 200)  # another test's endpoint may be starting a worker again
    for path in ("/metrics", "/fourfold/endpoints/x/logs", "/", "/bucket/key"):
        assert status(path) == 403, path


def test_a_second_server_on_the_same_folder_is_refused(server):
    second = subprocess.run(
        [sys.executable, "-m", "fourfold", "serve", "--port", "0", "--data-dir", str(server.folder)],
        capture_output=True, text=True, timeout=20,
    )  # fmt: skip
    assert second.returncode != 0
    assert f"belongs to another server (process {server.process.pid})" in second.stderr
    assert "Traceback" not in second.stderr


def test_sigterm_refuses_new_connections_finishes_what_is_in_flight_and_exits_with_0(own_server, handler, tmp_path):
    own_server.deploy("slow", handler(HELD.format(folder=str(tmp_path))))
    pids = own_server.descendants()
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(invoke, own_server, "slow", b"x", "text/plain")
        eventually((tmp_path / "called").exists)
        own_server.process.send_signal(signal.SIGTERM)
        eventually(lambda: not listens(own_server))
        (tmp_path / "release").touch()
        assert answer.result() == b"released"
    assert own_server.stop() == 0
    eventually(lambda: not any(map(alive, pids)))


def test_grace_bounds_how_long_a_call_in_flight_may_hold_the_end_up(tmp_path, handler):
    server = LiveServer(tmp_path / "data", "--grace", "1")
    server.deploy("stuck", handler(HELD.format(folder=str(tmp_path))))
    pids = server.descendants()
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(invoke, server, "stuck", b"x", "text/plain")
        eventually((tmp_path / "called").exists)
        assert server.stop() == 0
        with pytest.raises(ClientError, match="server stopped before the model had answered"):
            answer.result()
    eventually(lambda: not any(map(alive, pids)))
    assert "worker lost" not in (tmp_path / "data.log").read_text()


def test_after_kill_9_no_process_is_left_and_a_restart_serves_again(own_server, onnx_model, handler):
    own_server.deploy("trees", onnx_model)
    own_server.deploy("slow", handler(SLEEPY), count=2)
    before = invoke(own_server, "trees")
    pids = own_server.descendants()
    assert len(own_server.worker_pids()) == 3
    with ThreadPoolExecutor() as pool:
        pool.submit(invoke, own_server, "slow", b"sleep 30", "text/plain")  # its failure is part of the kill
        time.sleep(0.3)
        own_server.kill()
    eventually(lambda: not any(map(alive, pids)))
    own_server.start()
    own_server.wait("slow")
    own_server.wait("trees")
    assert invoke(own_server, "trees") == before


def test_an_endpoint_that_cannot_be_brought_back_is_tried_until_it_can(own_server, handler, tmp_path):
    code = f"""
from pathlib import Path
def model_fn(folder):
    assert not Path({str(tmp_path / "broken")!r}).exists(), "the disk is away"
def predict_fn(data, model):
    return data
"""
    own_server.deploy("patient", handler(code))
    own_server.kill()
    (tmp_path / "broken").touch()
    own_server.start()
    while "the disk is away" not in (found := own_server.wait("patient", "SystemUpdating")).get("FailureReason", ""):
        time.sleep(0.05)
    assert found["EndpointStatus"] == "SystemUpdating"
    runtime = own_server.client("sagemaker-runtime")
    for name, refusal in (("patient", "ServiceUnavailable"), ("nobody", "ValidationError")):
        with pytest.raises(ClientError) as refused:
            runtime.invoke_endpoint(EndpointName=name, Body=b"1")
        assert refused.value.response["Error"]["Code"] == refusal
    (tmp_path / "broken").unlink()
    assert "FailureReason" not in own_server.wait("patient")


def test_an_endpoint_outlives_its_model_config_and_artifact_even_over_a_restart(own_server, onnx_model):
    own_server.deploy("trees", onnx_model)
    sagemaker = own_server.client("sagemaker")
    sagemaker.delete_endpoint_config(EndpointConfigName="trees")
    sagemaker.delete_model(ModelName="trees")
    own_server.client("s3").delete_object(Bucket="test-models", Key="models/trees/model.onnx")
    assert invoke(own_server, "trees")
    own_server.kill()
    own_server.start()
    own_server.wait("trees")
    assert invoke(own_server, "trees")


def test_kill_9_of_a_worker_costs_only_what_it_had(server, handler):
    server.deploy("victim", handler(SLEEPY))
    pid = int(invoke(server, "victim", b"x", "text/plain").split()[1])
    assert pid in server.worker_pids()
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not alive(pid))
    answer = invoke(server, "victim", b"x", "text/plain")
    assert int(answer.split()[1]) != pid


def test_kill_9_under_load_fails_only_what_was_in_flight_on_that_worker(server, handler):
    server.deploy("crowd", handler(SLEEPY), count=2)
    clients, seconds = 8, 3.0
    end = time.monotonic() + seconds
    failed: list[ClientError] = []
    answered: list[tuple[float, bytes]] = []

    def load() -> None:
        runtime = server.client("sagemaker-runtime")
        while time.monotonic() < end:
            try:
                answer = runtime.invoke_endpoint(EndpointName="crowd", ContentType="text/plain", Body=b"sleep 0.01")
                answered.append((time.monotonic(), answer["Body"].read().split()[2]))
            except ClientError as error:
                failed.append(error)

    threads = [threading.Thread(target=load) for _ in range(clients)]
    for thread in threads:
        thread.start()
    eventually(lambda: len({pid for _, pid in list(answered)}) == 2)
    victim = int(answered[-1][1])
    os.kill(victim, signal.SIGKILL)
    killed = time.monotonic()
    for thread in threads:
        thread.join()
    assert len(failed) <= 1, "a handler takes one call at a time, so one can have been in flight"
    assert all(error.response["Error"]["Code"] == "ModelError" for error in failed)
    after = [(at, pid) for at, pid in answered if at > killed + 0.1]
    assert after[0][0] - killed < 1.5
    assert str(victim).encode() not in {pid for _, pid in after}
    assert len({pid for _, pid in after}) == 2, "the worker has been replaced"


def test_cycles_of_create_update_and_delete_leave_nothing_behind(own_server, onnx_model):
    """A thousand of them are in bench/cycles.py."""
    own_server.deploy("model", onnx_model, endpoint=False)
    sagemaker, runtime = own_server.client("sagemaker"), own_server.client("sagemaker-runtime")

    def settled(name: str) -> None:
        eventually(lambda: sagemaker.describe_endpoint(EndpointName=name)["EndpointStatus"] == "InService")

    def cycle(number: int) -> None:
        for side in ("a", "b"):
            variant = {"VariantName": side, "ModelName": "model", "InstanceType": "ml.m5.large"}
            sagemaker.create_endpoint_config(
                EndpointConfigName=f"{number}-{side}", ProductionVariants=[variant | {"InitialInstanceCount": 1}]
            )
        name = f"cycle-{number}"
        sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=f"{number}-a")
        settled(name)
        sagemaker.update_endpoint(EndpointName=name, EndpointConfigName=f"{number}-b")
        settled(name)
        assert runtime.invoke_endpoint(EndpointName=name, ContentType="application/json", Body=ROW)["Body"].read()
        sagemaker.delete_endpoint(EndpointName=name)
        sagemaker.get_waiter("endpoint_deleted").wait(EndpointName=name, WaiterConfig={"Delay": 0.05})
        for side in ("a", "b"):
            sagemaker.delete_endpoint_config(EndpointConfigName=f"{number}-{side}")

    def held() -> dict[str, int]:
        files = [path for path in own_server.folder.rglob("*") if path.is_file()]
        return {"processes": len(own_server.descendants()), "files": len(files), "open": own_server.open_files()}

    for number in range(5):
        cycle(number)
    before = held()
    memory = own_server.resident_mb()
    for number in range(5, 20):
        cycle(number)
    with contextlib.suppress(AssertionError):  # then the next line tells what there is more of
        eventually(lambda: held() == before)
    assert held() == before
    assert own_server.worker_pids() == []
    assert own_server.resident_mb() < memory + 10


def test_a_model_that_dies_while_answering_is_a_model_error(server, handler):
    server.deploy("dying", handler(SLEEPY))
    with pytest.raises(ClientError) as error:
        invoke(server, "dying", b"die", "text/plain")
    assert error.value.response["Error"]["Code"] == "ModelError"
    assert error.value.response["ResponseMetadata"]["HTTPStatusCode"] == 424
    assert invoke(server, "dying", b"x", "text/plain").startswith(b"x ")


def test_a_model_that_hangs_meets_its_deadline_and_its_worker_is_replaced(server, handler):
    server.deploy("hanging", handler(SLEEPY), SAGEMAKER_MODEL_SERVER_TIMEOUT="1")
    pid = invoke(server, "hanging", b"x", "text/plain").split()[1]
    with pytest.raises(ClientError, match="did not answer within 1 s"):
        invoke(server, "hanging", b"sleep 600", "text/plain")
    assert invoke(server, "hanging", b"x", "text/plain").split()[1] != pid


def test_a_model_that_cannot_load_fails_its_endpoint_with_the_reason(server, handler):
    code = "def model_fn(model_dir):\n    print('about to fail')\n    raise RuntimeError('no weights here')\n"
    broken = handler(code)
    server.deploy("broken", broken, wait=False)
    description = server.wait("broken", "Failed")
    reason = description["FailureReason"].splitlines()
    assert reason[0].startswith("model_fn failed: RuntimeError: no weights here")
    assert reason[1:4] == ["Last lines of its log:", "about to fail", "Traceback (most recent call last):"]
    assert "raise RuntimeError" in reason[-1]
    assert "worker.py" not in description["FailureReason"]  # how the server came there tells nobody anything
    assert "no weights here" in server.get("/fourfold/endpoints/broken/logs").decode()


def test_model_code_finds_the_region_unless_its_model_names_another(server, handler):
    code = (
        "import os\n"
        "def model_fn(model_dir): return os.environ['AWS_REGION'], os.environ['AWS_DEFAULT_REGION']\n"
        "def transform_fn(model, data, content_type, accept): return ' '.join(model)\n"
    )
    server.deploy("region", handler(code), AWS_REGION="eu-west-1")
    answer = server.client("sagemaker-runtime").invoke_endpoint(EndpointName="region", Body=b"x")
    assert answer["Body"].read() == b"eu-west-1 us-east-1"


def test_trusted_only_refuses_code(tmp_path, handler, onnx_model):
    server = LiveServer(tmp_path / "data", "--trusted-only")
    try:
        server.deploy("code", handler(SLEEPY), wait=False)
        assert "--trusted-only" in server.wait("code", "Failed")["FailureReason"]
        server.deploy("trees", onnx_model)
    finally:
        server.stop()


def test_a_body_over_the_limit_is_413_and_the_server_lives(server, onnx_model):
    server.deploy("limits", onnx_model)
    with connect(server) as connection:
        connection.sendall(raw(server, "limits", b"x" * (6 * 1024 * 1024 + 1)))
        answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"InvokeEndpointAsync" in answer
    assert invoke(server, "limits")


def test_max_payload_moves_the_limit(tmp_path, onnx_model):
    server = LiveServer(tmp_path / "data", "--max-payload", "25MiB")
    try:
        server.deploy("large", onnx_model)
        body = b"[[0.1,0.2,0.3,0.4" + b" " * 7_000_000 + b"]]"
        with connect(server) as connection:
            connection.sendall(raw(server, "large", body, connection="close"))
            assert read_all(connection).startswith(b"HTTP/1.1 200 ")
        with connect(server) as connection:
            connection.sendall(raw(server, "large", b" " * (25 * 1024 * 1024 + 1)))
            assert read_all(connection).startswith(b"HTTP/1.1 413 ")
    finally:
        server.stop()


def test_pipelined_requests_are_answered_in_order(server, onnx_model, handler):
    server.deploy("ordered", handler(SLEEPY))
    bodies = [f"sleep {0.2 if n == 0 else 0} {n}".encode() for n in range(20)]
    with connect(server) as connection:
        requests = [raw(server, "ordered", body, extra="Accept: text/plain\r\n") for body in bodies[:-1]]
        requests.insert(10, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        requests.append(raw(server, "ordered", bodies[-1], connection="close"))
        connection.sendall(b"".join(requests).replace(b"application/json", b"text/plain"))
        answer = read_all(connection)
    found = [answer.find(body + b" ") for body in bodies]
    assert -1 not in found
    assert found == sorted(found)
    assert found[9] < answer.find(b"ok\n") < found[10]


def test_a_client_that_has_said_all_may_close_its_half_and_still_reads_the_answer(server, handler):
    server.deploy("half", handler(SLEEPY))
    with connect(server) as connection:
        connection.sendall(raw(server, "half", b"sleep 0.2").replace(b"application/json", b"text/plain"))
        connection.shutdown(socket.SHUT_WR)
        assert b"sleep 0.2 " in read_all(connection)


def test_chunked_bodies_and_expect_100_continue(server, onnx_model):
    server.deploy("chunked", onnx_model)
    head = (
        "POST /endpoints/chunked/invocations HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        f"Authorization: Bearer {server.keys['api_key']}\r\nContent-Type: application/json\r\n"
    )
    with connect(server) as connection:
        connection.sendall((head + "Transfer-Encoding: chunked\r\n\r\n").encode())
        for start in range(0, len(ROW), 7):
            part = ROW[start : start + 7]
            connection.sendall(b"%x\r\n%b\r\n" % (len(part), part))
        connection.sendall(b"0\r\n\r\n")
        assert b"predictions" in read_all(connection)
    with connect(server) as connection:
        connection.sendall((head + f"Content-Length: {len(ROW)}\r\nExpect: 100-continue\r\n\r\n").encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 100 Continue")
        connection.sendall(ROW)
        assert b"predictions" in read_all(connection)


@pytest.mark.parametrize(
    "garbage",
    [b"\0\xff\xfe" * 50, b"GET\r\n\r\n", b"POST /endpoints/x/invocations HTTP/1.1\r\nContent-Length: -5\r\n\r\n"],
)
def test_garbage_is_answered_400_and_harms_nobody(server, garbage):
    with connect(server) as connection:
        connection.sendall(garbage)
        assert read_all(connection).startswith(b"HTTP/1.1 400 ")


def test_a_thousand_idle_connections_do_no_harm(server, onnx_model):
    server.deploy("crowded", onnx_model)
    idle = [connect(server) for _ in range(1000)]
    try:
        assert invoke(server, "crowded")
    finally:
        for connection in idle:
            connection.close()


def test_too_many_waiting_calls_are_throttled_at_once(server, handler):
    server.deploy("full", handler(SLEEPY), FOURFOLD_QUEUE_LENGTH="2")
    codes = []

    def call() -> None:
        try:
            invoke(server, "full", b"sleep 1", "text/plain")
            codes.append(200)
        except ClientError as error:
            codes.append(error.response["ResponseMetadata"]["HTTPStatusCode"])

    threads = [threading.Thread(target=call) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes.count(429) >= 4
    assert codes.count(200) >= 3


def test_an_update_under_load_fails_no_request(server, onnx_model):
    server.deploy("live", onnx_model)
    sagemaker = server.client("sagemaker")
    stop = threading.Event()
    failures: list[Exception] = []
    answered = []

    def load() -> None:
        runtime = server.client("sagemaker-runtime")
        while not stop.is_set():
            try:
                runtime.invoke_endpoint(EndpointName="live", ContentType="application/json", Body=ROW)["Body"].read()
                answered.append(1)
            except Exception as error:
                failures.append(error)

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(3):
        variant = {"VariantName": f"v{number}", "ModelName": "live", "InstanceType": "ml.m5.large"}
        variant["InitialInstanceCount"] = 1
        sagemaker.create_endpoint_config(EndpointConfigName=f"live-{number}", ProductionVariants=[variant])
        sagemaker.update_endpoint(EndpointName="live", EndpointConfigName=f"live-{number}")
        server.wait("live")
    stop.set()
    for thread in threads:
        thread.join()
    assert failures == []
    assert answered
    assert sagemaker.describe_endpoint(EndpointName="live")["EndpointConfigName"] == "live-2"


def test_an_update_that_cannot_load_leaves_the_old_workers_answering(server, onnx_model, handler):
    server.deploy("safe", onnx_model)
    server.deploy("unsafe", handler("def model_fn(model_dir):\n    raise RuntimeError('bad release')\n"), wait=False)
    server.wait("unsafe", "Failed")
    sagemaker = server.client("sagemaker")
    sagemaker.update_endpoint(EndpointName="safe", EndpointConfigName="unsafe")
    description = server.wait("safe")
    assert "bad release" in description["FailureReason"]
    assert description["EndpointConfigName"] == "safe"
    assert invoke(server, "safe")


def test_a_stream_comes_part_by_part_and_ends_with_the_models_error(server, handler):
    code = """
def model_fn(model_dir):
    return None

def transform_fn(model, data, content_type, accept):
    for n in range(int(data)):
        if n == 3:
            raise ValueError("three is too many")
        yield f"part {n}"
"""
    server.deploy("talker", handler(code))
    runtime = server.client("sagemaker-runtime")

    def parts(count: bytes) -> list[bytes]:
        answer = runtime.invoke_endpoint_with_response_stream(
            EndpointName="talker", ContentType="text/plain", Body=count
        )
        with contextlib.closing(answer["Body"]) as events:
            return [event["PayloadPart"]["Bytes"] for event in events]

    assert parts(b"2") == [b"part 0", b"part 1"]
    with pytest.raises(Exception, match="three is too many"):
        parts(b"5")


def test_a_stream_whose_client_leaves_stops_the_model(server, handler, tmp_path):
    mark = tmp_path / "closed"
    code = f"""
import time
from pathlib import Path

def model_fn(model_dir):
    return None

def transform_fn(model, data, content_type, accept):
    try:
        while True:
            yield "more"
            time.sleep(0.01)
    finally:
        Path({str(mark)!r}).touch()
"""
    server.deploy("endless", handler(code))
    runtime = server.client("sagemaker-runtime")
    answer = runtime.invoke_endpoint_with_response_stream(EndpointName="endless", Body=b"x")
    assert next(iter(answer["Body"]))["PayloadPart"]["Bytes"] == b"more"
    answer["Body"].close()
    eventually(mark.exists)
