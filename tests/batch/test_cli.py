"""`fourfold batch` and `fourfold schedule` against a real server: files of this machine in, answers back."""

from __future__ import annotations

import gzip
import json
import os
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fourfold.cli import main
from fourfold.cli.client import CommandError
from fourfold.cli.schedule import eventbridge
from tests.server import LiveServer


class Shell:
    """Runs commands in a folder, beside the server; in this process, because starting one takes so long."""

    def __init__(self, folder: Path, capture: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self._capture = capture

    def run(self, *arguments: str, code: int = 0) -> Said:
        sys.argv = ["fourfold", *arguments]
        self._capture.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        said = Said(*self._capture.readouterr())
        assert (end.value.code or 0) == code, f"{arguments}: {said}"
        return said

    def json(self, *arguments: str) -> Any:
        return json.loads(self.run(*arguments, "--json").stdout)


class Said(NamedTuple):
    stdout: str
    stderr: str


@pytest.fixture(scope="module")
def model(server: LiveServer, sum_model: Path) -> str:
    server.deploy("sum", sum_model / "model.onnx", endpoint=False)
    return "sum"


@pytest.fixture
def shell(
    server: LiveServer,
    model: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Shell:
    for name in [name for name in os.environ if name.startswith(("AWS_", "FOURFOLD_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    monkeypatch.setenv("FOURFOLD_DATA_DIR", str(server.folder))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", sys.argv)  # so that it is put back
    return Shell(tmp_path, capsys)


def test_a_file_of_this_machine_goes_in_and_its_answers_come_back(shell: Shell, server: LiveServer) -> None:
    (shell.folder / "rows.csv").write_text("1,2,3\n4,5,6\n")
    done = shell.run("batch", "run", "--model", "sum", "--input", "rows.csv", "--output", "answers", "--name", "one")
    assert "one has completed: 2 rows of 1 objects" in done.stdout
    assert (shell.folder / "answers" / "rows.csv.out").read_text() == "6.0\n15.0\n"
    bucket = server.folder / "buckets" / "fourfold-us-east-1-123456789012" / "batch"
    assert [path for path in bucket.rglob("*") if path.is_file()] == []


def test_a_folder_with_every_option(shell: Shell) -> None:
    (shell.folder / "in" / "deep").mkdir(parents=True)
    for name in ("a.csv.gz", "deep/b.csv.gz"):
        (shell.folder / "in" / name).write_bytes(gzip.compress(b"id,a,b,c\nx,1,2,3\ny,4,5,6\n"))
    for mark in ("_SUCCESS", "deep/.b.crc"):
        (shell.folder / "in" / mark).write_bytes(b"no data")
    options = ["--header", "--filter", "$[1:]", "--join", "input", "--output-filter", "$[0,-1]", "--workers", "20"]
    options += ["--strategy", "single", "--split", "line", "--env", "A=B", "--name", "every"]
    job = shell.json("batch", "run", "--model", "sum", "--input", "in", "--output", "out", *options)
    assert job["TransformJobStatus"] == "Completed"
    assert job["TransformInput"]["CompressionType"] == "Gzip"
    assert job["MaxConcurrentTransforms"] * job["MaxPayloadInMB"] <= 100
    assert job["BatchStrategy"] == "SingleRecord"
    assert job["Environment"] == {"A": "B"}
    assert job["Progress"]["Records"] == 4
    answers = {"a.csv.gz.out": "x,6.0\ny,15.0\n", "deep/b.csv.gz.out": "x,6.0\ny,15.0\n"}
    out = shell.folder / "out"
    assert {str(one.relative_to(out)): one.read_text() for one in out.rglob("*") if one.is_file()} == answers


def test_columns_in_and_out(shell: Shell) -> None:
    source = pa.table({"a": [1.0, 4.0], "b": [2.0, 5.0], "c": [3.0, 6.0], "id": ["x", "y"]})
    pq.write_table(source, shell.folder / "t.parquet")
    shell.run(
        "batch", "run", "--model", "sum", "--input", "t.parquet", "--output", "out",
        "--filter", "$['a','b','c']", "--join", "input",
    )  # fmt: skip
    found = pq.read_table(shell.folder / "out" / "t.parquet.out").to_pydict()
    assert found == source.to_pydict() | {"sum": [6.0, 15.0]}
    (shell.folder / "rows.csv").write_text("1,2,3\n")
    shell.run("batch", "run", "--model", "sum", "--input", "rows.csv", "--output", "out", "--format", "parquet")
    assert pq.read_table(shell.folder / "out" / "rows.csv.out").to_pydict() == {"sum": [6.0]}


def test_an_artifact_of_this_machine_and_bad_records(shell: Shell, sum_model: Path) -> None:
    (shell.folder / "rows.csv").write_text("1,2,3\noops\n4,5,6\n")
    model = str(sum_model / "model.onnx")
    job = ["batch", "run", "--model", model, "--input", "rows.csv", "--output", "out", "--name"]
    failed = shell.run(*job, "strict", code=1)
    assert "strict is Failed" in failed.stderr
    assert "fourfold batch resume strict" in failed.stderr
    assert "oops" in shell.run("batch", "errors", "strict").stdout
    done = shell.run(*job, "lenient", "--on-error", "skip")
    assert "1 bad records were left out" in done.stdout
    assert (shell.folder / "out" / "rows.csv.out").read_text() == "6.0\n15.0\n"
    [entry] = shell.json("batch", "errors", "lenient")
    assert [(one["line"], one["input"]) for one in entry["Records"]] == [(2, "oops")]
    assert "oops" in shell.run("batch", "errors", "lenient").stdout
    again = shell.run("batch", "resume", "strict", code=1)
    assert "strict is Failed" in again.stderr


def test_list_show_and_stop(shell: Shell) -> None:
    (shell.folder / "rows.csv").write_text("1,2,3\n")
    refused = shell.run("batch", "run", "--model", "sum", "--input", "rows.csv", "--output", "x", "--no-wait", code=2)
    assert "--no-wait" in refused.stderr
    shell.run("batch", "run", "--model", "sum", "--input", "rows.csv", "--output", "x", "--name", "shown")
    assert "shown" in shell.run("batch", "list").stdout
    assert "shown" in [job["TransformJobName"] for job in shell.json("batch", "list", "--status", "Completed")]
    described = shell.json("batch", "show", "shown")
    assert described["Progress"]["ObjectsDone"] == described["Progress"]["Objects"] == 1
    assert "1 of 1 objects" in shell.run("batch", "show", "shown").stdout
    assert "shown is Completed" in shell.run("batch", "stop", "shown").stdout
    assert "only" in shell.run("batch", "resume", "shown", code=1).stderr.lower()


def test_mistakes_are_one_line(shell: Shell) -> None:
    (shell.folder / "rows.xyz").write_text("1,2,3\n")
    (shell.folder / "rows.csv").write_text("1,2,3\n")
    (shell.folder / "nothing").mkdir()
    job = ["batch", "run", "--output", "out"]
    for arguments, words in (
        ([*job, "--model", "nobody", "--input", "rows.csv"], "neither a model, nor an endpoint, nor a file"),
        ([*job, "--model", "sum", "--input", "none.csv"], "there is no file or folder"),
        ([*job, "--model", "sum", "--input", "rows.xyz"], "suffixes: .xyz"),
        ([*job, "--model", "sum", "--input", "rows.csv", "--filter", "nonsense"], "is not a filter"),
        ([*job, "--model", "sum", "--input", "nothing"], "there is nothing in"),
        (["batch", "resume", "nobody"], "fourfold: Could not find requested job"),
        (["batch", "show", "nobody"], "Could not find requested job"),
        (["batch", "errors", "nobody"], "Could not find requested job"),
        (["schedule", "show", "nobody"], "does not exist"),
    ):
        failed = shell.run(*arguments, code=1)
        assert words in failed.stderr
        assert len(failed.stderr.splitlines()) == 1
        assert "Traceback" not in failed.stderr
    for options, words in (
        (["--input", "rows.csv", "--output", "rows.csv"], "is a file"),
        (["--input", "rows.csv", "--output", "out", "--manifest"], "s3://"),
        (["--input", "rows.csv", "--output", "out", "--no-wait"], "s3://"),
    ):
        assert words in shell.run("batch", "run", "--model", "sum", *options, code=2).stderr


def test_a_schedule_runs_a_job_and_tells_of_it(shell: Shell, server: LiveServer) -> None:
    server.client("s3").create_bucket(Bucket="night")
    server.client("s3").put_object(Bucket="night", Key="in/a.csv", Body=b"1,2,3\n")
    source = {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": "s3://night/in/"}}
    job = {
        "TransformJobName": "nightly",
        "ModelName": "sum",
        "TransformInput": {"DataSource": source, "ContentType": "text/csv", "SplitType": "Line"},
        "TransformOutput": {"S3OutputPath": "s3://night/out/<aws.scheduler.execution-id>/", "AssembleWith": "Line"},
        "TransformResources": {"InstanceType": "ml.m5.large", "InstanceCount": 1},
    }
    (shell.folder / "job.json").write_text(json.dumps(job))
    created = shell.run("schedule", "create", "nightly", "--cron", "0 2 * * *", "--batch", "job.json")
    assert "cron(0 2 * * ? *)" in created.stdout
    assert "nightly-<aws.scheduler.scheduled-time>" in created.stdout
    soon = (datetime.now(UTC) + timedelta(seconds=1)).strftime("%Y-%m-%dT%H:%M:%S")
    shell.run("schedule", "create", "once", "--at", soon, "--batch", "job.json", "--window", "1", "--retries", "2")
    shell.run("schedule", "disable", "nightly")
    assert [one["State"] for one in shell.json("schedule", "list")] == ["DISABLED", "ENABLED"]
    assert "never" in shell.run("schedule", "show", "nightly").stdout
    shell.run("schedule", "enable", "nightly")
    assert shell.json("schedule", "show", "nightly")["NextRun"].endswith("T02:00:00Z")
    assert shell.json("schedule", "show", "once")["FlexibleTimeWindow"]["MaximumWindowInMinutes"] == 1
    shell.run("schedule", "delete", "nightly")
    shell.run("schedule", "show", "nightly", code=1)


@pytest.mark.parametrize(
    ("crontab", "expected"),
    [
        ("0 2 * * *", "0 2 * * ? *"),
        ("*/15 8-18 1,15 * *", "*/15 8-18 1,15 * ? *"),
        ("0 2 * * 1-5", "0 2 ? * MON-FRI *"),
        ("0 2 * * 0,6", "0 2 ? * SUN,SAT *"),
        ("0 2 * * 1-5/2", "0 2 ? * MON-FRI/2 *"),
        ("0 2 * * 7", "0 2 ? * SUN *"),
        ("0 2 * JAN MON", "0 2 ? JAN MON *"),
        ("0 2 ? * 6L *", "0 2 ? * 6L *"),
    ],
)
def test_crontab_lines_become_eventbridge_s_fields(crontab: str, expected: str) -> None:
    assert eventbridge(crontab) == expected


@pytest.mark.parametrize("crontab", ["0 2 * *", "0 2 1 * 1", ""])
def test_what_eventbridge_cannot_say_is_refused(crontab: str) -> None:
    with pytest.raises(CommandError):
        eventbridge(crontab)
