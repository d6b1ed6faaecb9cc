"""Measures the advisor: simulated arrivals, an answer from a sentence, predicted against measured. Writes its section.

python bench/advisor.py            # about three minutes
python bench/advisor.py --short    # a look; writes nothing
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import report

from fourfold.advisor import arrivals, queueing
from fourfold.advisor.advise import advise
from fourfold.advisor.load import from_text
from fourfold.advisor.simulate.outcome import Outcome
from fourfold.advisor.simulate.policies import track_invocations
from fourfold.advisor.simulate.queue import Batching, queue
from fourfold.advisor.simulate.serverless import serverless

FOURFOLD = [sys.executable, "-m", "fourfold"]
PLANS = {
    "real-time, steady, 20 ms of work": (
        "--requests-per-day 4e6 --processing-s 0.02 --latency-p99-ms 400 --pattern steady"
    ),
    "real-time, steady, 100 ms of work": (
        "--requests-per-day 8e5 --processing-s 0.1 --latency-p99-ms 2000 --pattern steady"
    ),
    "serverless, 400 a day in 4 hours, 0.3 s of work": (
        "--requests-per-day 400 --payload-mb 0.2 --processing-s 0.3 --pattern intermittent --tolerates-cold-start"
    ),
    "asynchronous, 200 a day in 4 hours, a minute of work": (
        "--requests-per-day 200 --payload-mb 100 --processing-s 60 --pattern intermittent"
    ),
    "asynchronous, never at zero, 90 s of work": (
        "--requests-per-day 3000 --payload-mb 100 --processing-s 90 --pattern steady --deadline 120"
    ),
    "batch, a million rows of 50 ms": "--rows 1e6 --processing-s 0.05 --deadline 4h",
}
"""Plans by what they are, each in figures that the advisor answers with that mode."""
SENTENCES = (
    "A card issuer scores 250 payments per second within 100 ms, day and night.",
    "Each night 3 million customers are scored; the list is needed at 6 in the morning.",
    "Users upload videos of 300 MB, a GPU needs four minutes, and they get a message when it is done.",
    "A small shop's chatbot gets 20 questions a day and nothing should be paid in between.",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="a tenth of everything; the page stays as it is")
    short = parser.parse_args().short
    simulated = report.table(("one million arrivals", "seconds", "against the closed form"), list(runs(short)))
    answers = report.table(("an answer from a sentence", "ms, median"), list(sentences()))
    checked = report.table(("plan", "figure", "predicted", "measured", "error"), list(verified(4 if short else 20)))
    print("\n\n".join((simulated, answers, checked)))
    if not short:
        about = f"Measured on {os.cpu_count()} cores; `fourfold verify` ran with the load on the same cores."
        report.write_section("advisor", "\n\n".join((about, simulated, answers, checked)))


def runs(short: bool) -> Iterator[tuple[str, str, str]]:
    count = 100_000 if short else 1_000_000
    work = np.random.default_rng(1).exponential(1.0, count)
    half, eight = arrivals.poisson(0.7, count, 2), arrivals.poisson(6.4, count, 2)
    batching = Batching(most=16, fixed_s=0.5, each_s=0.05)
    follow = track_invocations(per_instance_minute=40, floor=1, top=20)
    cases: dict[str, tuple[Callable[[], Outcome], float | None]] = {
        "one worker, times that vary (M/M/1)": (lambda: queue(half, work, 1), queueing.mean_wait(0.7, 1.0)),
        "one worker, times that do not (M/D/1)": (
            lambda: queue(half, 1.0, 1), queueing.mg1_mean_wait(0.7, 1.0, 0.0),
        ),
        "eight workers (M/M/8)": (lambda: queue(eight, work, 8), queueing.mean_wait(6.4, 1.0, 8)),
        "one worker that batches": (lambda: queue(eight, 0.0, 1, batching=batching), None),
        "instances that follow the load": (lambda: queue(eight, work, 1, policy=follow, start_s=120), None),
        "serverless, ten at most": (
            lambda: serverless(eight, work, max_concurrency=10, cold_s=3.0), None,
        ),
    }  # fmt: skip
    for name, (run, expected) in cases.items():
        began = time.perf_counter()
        outcome = run()
        seconds = time.perf_counter() - began
        error = "" if expected is None else f"{abs(float(outcome.wait_s.mean()) / expected - 1):.1%} off the mean wait"
        yield name, f"{seconds:.2f}", error


def sentences() -> Iterator[tuple[str, str]]:
    for text in SENTENCES:
        took = []
        for _ in range(5):
            began = time.perf_counter()
            mode = advise(from_text(text)).mode
            took.append(1000 * (time.perf_counter() - began))
        yield f"{text[:60]}…: {mode}", f"{statistics.median(took):.0f}"


def verified(seconds: int) -> Iterator[tuple[str, ...]]:
    with served() as (url, data_dir):
        for name, figures in PLANS.items():
            plan = data_dir / "plan.json"
            command = [*FOURFOLD, "advise", *figures.split(), "--plan-out", str(plan)]
            subprocess.run(command, check=True, capture_output=True)
            command = [*FOURFOLD, "verify", "--plan", str(plan), "--seconds", str(seconds), "--json"]
            where = ["--endpoint-url", url, "--data-dir", str(data_dir)]
            found = json.loads(subprocess.run([*command, *where], check=True, capture_output=True, text=True).stdout)
            if found["pace"] > 1:
                name += f", {found['pace']:,.3g} times as fast"
            for one in found["figures"]:
                sides = (f"{one[side]:,.4g} {one['unit']}" for side in ("predicted", "measured"))
                yield name, one["name"], *sides, f"{one['error']:.1%}"


@contextmanager
def served() -> Iterator[tuple[str, Path]]:
    with tempfile.TemporaryDirectory(prefix="fourfold-") as folder:
        command = [*FOURFOLD, "serve", "--port", "0", "--data-dir", folder, "--log-level", "error"]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert server.stdout is not None
        try:
            yield server.stdout.readline().split()[1], Path(folder)
        finally:
            server.terminate()
            server.wait(40)


if __name__ == "__main__":
    main()
