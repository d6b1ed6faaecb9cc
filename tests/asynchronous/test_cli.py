"""`fourfold deploy --asynchronous` and `fourfold async`, typed as a user types them."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.asynchronous.conftest import ECHO


def fourfold(server, *words: str, status: int = 0) -> str:
    """Run a command beside the server; its standard output."""
    options = ["--endpoint-url", server.url, "--data-dir", str(server.folder)]
    done = subprocess.run(
        [sys.executable, "-m", "fourfold", *words, *options], capture_output=True, text=True, check=False
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_files_are_sent_and_their_answers_brought_back(server, handler, tmp_path):
    fourfold(
        server, "deploy", str(handler(ECHO)), "--name", "later", "--asynchronous",
        "--concurrency", "4", "--output", "s3://results/later",
    )  # fmt: skip
    (tmp_path / "small.txt").write_text("small")
    (tmp_path / "large.txt").write_text("l" * 200_000)
    (tmp_path / "bad.txt").write_text("fail")
    files = [str(tmp_path / name) for name in ("small.txt", "large.txt", "bad.txt")]

    sent = json.loads(fourfold(server, "async", "submit", "later", *files[:2], "--save", str(tmp_path), "--json"))
    assert [one["status"] for one in sent] == ["completed", "completed"]
    assert sent[0]["output_location"].startswith("s3://results/later/")
    assert (tmp_path / "small.txt.out").read_text() == "SMALL"
    assert (tmp_path / "large.txt.out").read_text() == "L" * 200_000

    (failed,) = json.loads(fourfold(server, "async", "submit", "later", files[2], "--json", status=1))
    assert "asked to fail" in failed["reason"]
    listed = json.loads(fourfold(server, "async", "list", "later", "--status", "failed", "--json"))
    assert [one["inference_id"] for one in listed["calls"]] == [failed["inference_id"]]
    assert listed["counts"] | {"completed": 2, "failed": 1} == listed["counts"]

    id = failed["inference_id"]
    assert "is queued" in fourfold(server, "async", "retry", "later", id)
    assert json.loads(fourfold(server, "async", "wait", "later", id, "--json", status=1))[0]["attempts"] == 2
    assert "asked to fail" in fourfold(server, "async", "show", "later", id)
    assert "nothing is left to cancel" in fourfold(server, "async", "cancel", "later", id, status=1)
    assert "has no call with the inference id" in fourfold(server, "async", "show", "later", "none", status=1)
    (sent_only,) = json.loads(fourfold(server, "async", "submit", "later", files[0], "--no-wait", "--json"))
    assert "completed" in fourfold(server, "async", "wait", "later", sent_only["inference_id"])


def test_options_that_do_not_go_together_are_refused(server, tmp_path):
    assert "goes with --asynchronous only" in fourfold(
        server, "deploy", str(tmp_path), "--name", "x", "--output", "s3://b/c", status=2
    )
    assert "a serverless endpoint" in fourfold(
        server, "deploy", str(tmp_path), "--name", "x", "--asynchronous", "--serverless", status=2
    )
    assert "there is no file" in fourfold(server, "async", "submit", "x", str(tmp_path / "none"), status=1)
