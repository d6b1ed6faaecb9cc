"""A plan is deployed on a live server, its arrivals replayed, and the figures put side by side."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from dataclasses import replace
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
    seen = verify.predict(test, verify.Alone(0.021))
    assert float(np.median(seen.latency_s)) >= 0.021


def test_a_trace_is_thinned_and_cut() -> None:
    traced = Scenario(**{**SCENARIO.__dict__, "trace": tuple(i / 100 for i in range(10_000))})
    test = verify.trial(plan(traced), seconds=50, most_workers=1)
    assert test.arrivals.max() <= 50
    assert len(test.arrivals) == pytest.approx(5000 * test.share, rel=0.3)


def test_figures_are_compared() -> None:
    test = verify.trial(plan(), seconds=5, most_workers=2)
    predicted = verify.predict(test, verify.Alone(0.02))

    def seen(factor: float) -> dict[str, verify.Comparison]:
        span = predicted.span_s * factor
        replayed = Replay(predicted.latency_s * factor, {200: len(test.arrivals)}, span)
        return {f.name: f for f in verify.compare(test, predicted, replayed, verify.Used(span))}

    assert seen(1.1)["p99"].error == pytest.approx(1 - 1 / 1.1)
    assert all(f.within for f in seen(1.1).values())
    assert not any(f.within for f in seen(2).values())


RARE = Scenario(
    requests_per_day=400, payload_mb=0.2, processing_s=0.3, pattern="intermittent", tolerates_cold_start=True
)
LONG = Scenario(requests_per_day=200, payload_mb=100, processing_s=60, pattern="intermittent")
ROWS = Scenario(rows=1e6, processing_s=0.05, deadline_s=4 * 3600)


def test_cold_starts_are_predicted_as_the_server_keeps_workers() -> None:
    test = verify.trial(plan(RARE, "serverless"), seconds=20, most_workers=4)
    alone = verify.Alone(warm_s=test.service_s + 0.002, cold_s=0.01)
    gone = alone.warm_s + alone.cold_s + test.kept_s + verify.LOOK_S / 2
    """After the first request, which starts a worker, one is idle and then looked at, in the middle of two looks."""
    for gap, starts in ((gone - 0.001, 1), (gone + 0.001, 2)):
        predicted = verify.predict(replace(test, arrivals=np.array([5.0, 5.0 + gap])), alone)
        assert predicted.cold_starts == starts
        assert predicted.latency_s[0] == pytest.approx(alone.warm_s + alone.cold_s)
        assert predicted.span_s == pytest.approx(gap + predicted.latency_s[1])


@pytest.mark.parametrize(("scenario", "mode"), [(RARE, "serverless"), (LONG, "asynchronous")])
def test_time_runs_faster_where_little_arrives(scenario: Scenario, mode: search.Mode) -> None:
    test = verify.trial(plan(scenario, mode), seconds=20, most_workers=4)
    assert test.pace > 100
    assert test.kept_s >= verify.SHORTEST_KEPT_S
    assert test.arrivals.max() == pytest.approx(20, rel=0.2)
    assert test.service_s >= verify.SHORTEST_S
    busy = test.service_s * len(test.arrivals) / 20 / test.workers
    assert busy <= verify.BUSIEST * 1.3
    assert test.to_zero
    model = verify.trial(plan(scenario, mode), seconds=20, most_workers=4, service_s=0.01)
    assert model.service_s == 0.01


def test_cold_starts_are_predicted_with_what_single_requests_took() -> None:
    for scenario, mode in ((RARE, "serverless"), (LONG, "asynchronous")):
        test = verify.trial(plan(scenario, mode), seconds=20, most_workers=1)
        alone = verify.Alone(warm_s=test.service_s + 0.002, cold_s=0.5)
        seen = verify.predict(test, alone)
        assert seen.cold_starts >= 1
        first = float(seen.latency_s[0])
        assert first == pytest.approx(test.service_s + 0.502)
        assert float(np.nanmin(seen.latency_s)) >= test.service_s + 0.002 - 1e-9


def test_a_batch_is_predicted_from_a_job_of_one_row() -> None:
    test = verify.trial(plan(ROWS, "batch"), seconds=10, most_workers=1)
    assert test.workers == 1
    assert test.rows * test.service_s == pytest.approx(10, rel=0.05)
    seen = verify.predict(test, verify.Alone(test.service_s + 0.4))
    assert seen.span_s == pytest.approx(0.4 + test.rows * test.service_s)
    assert seen.throughput == pytest.approx(test.rows / seen.span_s)


@pytest.mark.parametrize(
    ("scenario", "mode"), [(RARE, "serverless"), (LONG, "asynchronous"), (ROWS, "batch"), (SCENARIO, "real-time")]
)
def test_a_trial_costs_what_the_plans_work_costs(scenario: Scenario, mode: search.Mode) -> None:
    """A second of the trial stands for more of the plan's where the stand-in's work is shorter."""
    given = plan(scenario, mode)
    test = verify.trial(given, seconds=20, most_workers=2)
    size = given.sizing
    assert size is not None
    stretched = scenario.processing_s / test.service_s  # type: ignore[operator]
    if size.instance is None:
        an_hour = size.memory_mb / 1024 * 0.00002 * 3600
    else:
        an_hour = float(size.instance.usd_per_hour) * test.workers / size.concurrency
    assert verify.usd_per_second(test) * 3600 == pytest.approx(an_hour * stretched)


def test_what_cannot_be_verified_is_said() -> None:
    with pytest.raises(ValidationException, match="no serverless configuration"):
        verify.trial(plan(Scenario(gpu=True, processing_s=1), "serverless"), seconds=5, most_workers=2)
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


LATENCIES = ["p50", "p95", "p99"]
MODES = {
    "real-time": (
        "--processing-s 0.01 --payload-mb 0.001 --peak-rps 100 --requests-per-day 5e6 --latency-p99-ms 200 "
        "--pattern steady"
    ),
    "serverless": "--requests-per-day 4000 --processing-s 0.02 --pattern intermittent --tolerates-cold-start",
    "asynchronous": "--requests-per-day 500 --payload-mb 100 --processing-s 5 --pattern intermittent",
    "batch": "--rows 1e5 --processing-s 0.01 --deadline 4h",
}


@pytest.mark.parametrize("mode", MODES)
def test_the_command_deploys_replays_and_clears_away(mode: str, tmp_path: Path) -> None:
    server = LiveServer(tmp_path / "data")
    try:
        environment = os.environ | {"AWS_ENDPOINT_URL": server.url, "FOURFOLD_DATA_DIR": str(server.folder)}
        saved = tmp_path / "plan.json"
        assert server.keys  # the server's own first key is what the command finds
        assert fourfold(environment, "advise", *MODES[mode].split(), "--plan-out", str(saved)).returncode == 0
        ran = fourfold(environment, "verify", "--plan", str(saved), "--seconds", "2", "--workers", "2", "--json")
        assert ran.returncode == 0, ran.stderr
        answer = json.loads(ran.stdout)
        assert answer["mode"] == mode
        names = [f["name"] for f in answer["figures"]]
        assert names[:3] == (["duration", "throughput", "cost of a million rows"] if mode == "batch" else LATENCIES)
        assert all(f["measured"] > 0 for f in answer["figures"] if f["name"] != "cold starts")
        if mode != "batch":
            assert all(f["measured"] >= 1000 * answer["service_s"] for f in answer["figures"][:3])
        assert answer["not_answered"] < answer["requests"] / 2
        assert server.client("sagemaker").list_models()["Models"] == []
        assert server.client("s3").list_buckets()["Buckets"] == []
    finally:
        server.stop()


def test_a_file_that_is_no_plan_is_refused(tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_text("[]")
    assert "--plan-out" in fourfold(dict(os.environ), "verify", "--plan", str(tmp_path / "broken.json")).stderr


def fourfold(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fourfold", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
