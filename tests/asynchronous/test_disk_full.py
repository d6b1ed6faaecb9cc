"""A disk that is really full: a small file system of its own, where the tests may mount one."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from tests.asynchronous.conftest import ECHO, create, object_at, submit, wait_for
from tests.server import LiveServer


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 32 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no file system can be mounted here: {error}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def cramped(small_disk):
    """A server whose data folder is on it."""
    server = LiveServer(small_disk / "data")
    yield server
    if server.process.poll() is None:
        server.kill()


def test_on_a_full_disk_calls_are_refused_and_those_that_were_accepted_go_on(cramped, small_disk, handler):
    cramped.client("s3").create_bucket(Bucket="answers")
    cramped.deploy("echo", handler(ECHO), endpoint=False)
    create(cramped, "echo", {"OutputConfig": {"S3OutputPath": "s3://answers/out"}})
    accepted = [submit(cramped, "echo", b"sleep 0.3"), *(submit(cramped, "echo", b"repeat 500000") for _ in range(4))]
    filler = small_disk / "filler"
    fill(filler)
    with pytest.raises(ClientError, match="The disk is full") as refusal:
        submit(cramped, "echo", b"one more")
    answer = refusal.value.response
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 503
    assert int(answer["ResponseMetadata"]["HTTPHeaders"]["retry-after"]) > 0
    filler.unlink()
    for each in accepted:
        wait_for(cramped, "echo", each)
    assert [object_at(cramped, each["OutputLocation"]) for each in accepted[1:]] == [b"x" * 500_000] * 4
    later = submit(cramped, "echo", b"later")
    wait_for(cramped, "echo", later)
    assert object_at(cramped, later["OutputLocation"]) == b"LATER"


def fill(path: Path) -> None:
    """Write until nothing more fits."""
    with path.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue
