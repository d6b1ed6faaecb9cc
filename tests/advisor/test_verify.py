"""A plan is deployed on a live server, its arrivals replayed, and the figures put side by side."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fourfold.advisor import search, verify
from fourfold.advisor.prices import shipped
from fourfold.advisor.replay import Replay, replay
from fourfold.advisor.scenario import Scenario
from fourfold.errors import ValidationException
from tests.server import LiveServer

SCENARIO = Scenario(
    latency_p99_ms=300, processing_s=0.02, payload_mb=0.001, requests_per_second=300, pattern="steady", memory_gb=1
)


def plan(scenario: Scenario = SCENARIO, mode: search.Mode = "real-time") -> search.Plan:
    return search.plan(scenario, mode, shipped())


def test_a_trial_scales_the_load_to_the_workers_that_are_here() -> None:
    test = verify.trial(plan(), seconds=10, most_workers=2)
    size = test.plan.sizing
    assert size is not None
    assert test.workers == 2
    assert test.share == 2 / (size.count * size.concurrency)
    assert len(test.arrivals) == pytest.approx(300 * 1.2 * test.share * 10, rel=0.05)
    seen = verify.predict(test, 0.02, 0.001)
    assert float(np.median(seen.latency_s)) >= 0.021


def test_a_trace_is_thinned_and_cut() -> None:
    traced = Scenario(**{**SCENARIO.__dict__, "trace": tuple(i / 100 for i in range(10_000))})
    test = verify.trial(plan(traced), seconds=50, most_workers=1)
    assert test.arrivals.max() <= 50
    assert len(test.arrivals) == pytest.approx(5000 * test.share, rel=0.3)


def test_figures_are_compared() -> None:
    test = verify.trial(plan(), seconds=5, most_workers=2)
    predicted = verify.predict(test, 0.02, 0.0)
    same = Replay(predicted.latency_s * 1.1, {200: len(test.arrivals)}, predicted.span_s)
    figures = {f.name: f for f in verify.compare(test, predicted, same)}
    assert figures["p99"].error == pytest.approx(1 - 1 / 1.1)
    assert all(f.within for f in figures.values())
    slow = Replay(predicted.latency_s * 2, {200: len(test.arrivals)}, predicted.span_s * 2)
    assert not any(f.within for f in verify.compare(test, predicted, slow))


def test_what_cannot_be_verified_is_said() -> None:
    with pytest.raises(ValidationException, match="real-time"):
        verify.trial(plan(mode="batch"), seconds=5, most_workers=2)
    with pytest.raises(ValidationException, match="more seconds"):
        verify.trial(plan(Scenario(requests_per_day=1, processing_s=1)), seconds=5, most_workers=2)


async def test_a_replay_counts_every_answer_and_every_broken_connection() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = 0
        while await reader.readuntil(b"\r\n\r\n"):
            await reader.readexactly(2)
            number += 1
            if number == 3:
                break
            status = b"200 OK" if number == 1 else b"429 Too Many"
            writer.write(b"HTTP/1.1 " + status + b"\r\nContent-Length: 3\r\n\r\nyes")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    seen = await replay(f"http://127.0.0.1:{port}/x", {"A": "b"}, b"hi", np.array([0.0, 0.1, 0.2]))
    server.close()
    await server.wait_closed()
    assert seen.statuses == {200: 1, 429: 1, 0: 1}
    assert np.isnan(seen.latency_s).tolist() == [False, True, True]


def test_the_command_deploys_replays_and_clears_away(tmp_path: Path) -> None:
    server = LiveServer(tmp_path / "data")
    try:
        environment = os.environ | {"AWS_ENDPOINT_URL": server.url, "FOURFOLD_DATA_DIR": str(server.folder)}

        def fourfold(*arguments: str) -> subprocess.CompletedProcess[str]:
            command = [sys.executable, "-m", "fourfold", *arguments]
            return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)

        assert server.keys  # the server's own first key is what the command finds
        figures = "--processing-s 0.01 --payload-mb 0.001 --peak-rps 100 --requests-per-day 5e6 --latency-p99-ms 200"
        saved = tmp_path / "plan.json"
        assert fourfold("advise", *figures.split(), "--pattern", "steady", "--plan-out", str(saved)).returncode == 0
        ran = fourfold("verify", "--plan", str(saved), "--seconds", "1", "--workers", "2", "--json")
        assert ran.returncode == 0, ran.stderr
        answer = json.loads(ran.stdout)
        assert answer["not_answered"] == 0
        assert [f["name"] for f in answer["figures"]][:3] == ["p50", "p95", "p99"]
        assert all(f["measured"] >= 10 for f in answer["figures"][:3])
        assert server.client("sagemaker").list_models()["Models"] == []
        assert server.client("s3").list_buckets()["Buckets"] == []
    finally:
        server.stop()
    (tmp_path / "broken.json").write_text("[]")
    assert "--plan-out" in fourfold("verify", "--plan", str(tmp_path / "broken.json")).stderr
