"""`fourfold run`: a script's calls come to the server, those of STS included, in whatever interpreter it runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.server import LiveServer

WHO = """
import os, sys
import boto3, botocore.session

fixed = boto3.client("sts", endpoint_url="https://sts.us-east-1.amazonaws.com")
plain = boto3.session.Session().client("sts")
print(fixed.get_caller_identity()["Arn"], plain.get_caller_identity()["Account"], *sys.argv[1:])
other = boto3.client("sts", endpoint_url="http://127.0.0.1:9")
print(other.meta.endpoint_url, boto3.client("s3").list_buckets()["Buckets"], os.environ.get("AWS_PROFILE"))
"""


def run(server: LiveServer, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "FOURFOLD_"))}
    where = ["--endpoint-url", server.url, "--data-dir", str(server.folder)]
    command = [sys.executable, "-m", "fourfold", "run", *where, *arguments]
    return subprocess.run(command, env=kept | environment, capture_output=True, text=True, check=False)


def test_every_call_comes_here_whatever_the_environment_said_before(server: LiveServer, tmp_path: Path) -> None:
    script = tmp_path / "who.py"
    script.write_text(WHO)
    elsewhere = {
        "AWS_PROFILE": "production",
        "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
        "AWS_SECRET_ACCESS_KEY": "x",
        "AWS_SESSION_TOKEN": "y",
        "AWS_ENDPOINT_URL_STS": "http://127.0.0.1:9",
    }
    done = run(server, str(script), "--flag", "value", **elsewhere)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "arn:aws:sts::123456789012:assumed-role/FourfoldRole/fourfold 123456789012 --flag value",
        "http://127.0.0.1:9 [] None",
    ]


def test_a_sitecustomize_of_the_machine_still_runs(server: LiveServer, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import builtins\nbuiltins.theirs = 'theirs'\n")
    (tmp_path / "script.py").write_text("import sys\nprint(theirs)\nsys.exit(7)\n")
    done = run(server, str(tmp_path / "script.py"), PYTHONPATH=str(tmp_path))
    assert (done.returncode, done.stdout.split()) == (7, ["theirs"])


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["nowhere.py"], "there is no script nowhere.py"),
        (["--endpoint-url", "http://127.0.0.1:9", "SCRIPT"], "no server answers at http://127.0.0.1:9"),
        (["--python", "no-such-python", "SCRIPT"], "there is no interpreter no-such-python"),
        (["--data-dir", "nowhere", "SCRIPT"], "no credentials: nowhere is not the data folder of a server"),
    ],
)
def test_what_is_wrong_is_one_line(server: LiveServer, tmp_path: Path, arguments: list[str], expected: str) -> None:
    (tmp_path / "script.py").write_text("")
    done = run(server, *[str(tmp_path / "script.py") if one == "SCRIPT" else one for one in arguments])
    assert done.returncode == 1
    assert expected in done.stderr
    assert len(done.stderr.splitlines()) == 1
