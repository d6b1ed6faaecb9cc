"""`fourfold verify`: a plan deployed on the server, its arrivals replayed, predicted against measured."""

from __future__ import annotations

import json as jsonlib
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fourfold.cli import app
from fourfold.cli.client import DATA_DIR, URL, DataDir, Json, Server, Url
from fourfold.cli.output import print_json, print_table, progress
from fourfold.errors import ValidationException

if TYPE_CHECKING:
    from fourfold.advisor.profile import Profile
    from fourfold.advisor.replay import Replay
    from fourfold.advisor.search import Plan
    from fourfold.advisor.verify import Trial
    from fourfold.cli.rehearse import Subject


@app.command(rich_help_panel="Advisor")
def verify(
    plan: Annotated[Path, typer.Option(help="What `fourfold advise --plan-out` wrote.")],
    model: Annotated[
        Path | None, typer.Option(help="Model to serve. Default: a stand-in that takes the plan's time.")
    ] = None,
    seconds: Annotated[float, typer.Option(help="How long arrivals are replayed.", min=1.0)] = 20.0,
    workers: Annotated[int, typer.Option(help="Most workers to start here; the load is scaled to them.", min=1)] = 4,
    json: Json = False,
    url: Url = URL,
    data_dir: DataDir = DATA_DIR,
) -> None:
    """Deploy a plan here, replay its arrivals, and print predicted against measured latency, throughput and cost."""
    from fourfold.advisor import verify as checking
    from fourfold.cli.rehearse import rehearse

    load = os.getloadavg()[0]
    server = Server(url, data_dir)
    with tempfile.TemporaryDirectory(prefix="fourfold-") as scratch, progress("deploying the plan") as line:
        measured = _measured(model) if model else None
        wanted = _plan(plan, measured)
        test = checking.trial(wanted, seconds, workers, measured.each_s(wanted.mode) if measured else None)
        seen = rehearse(server, test, _subject(test, model, measured, Path(scratch)), line.update)
    predicted = checking.predict(test, seen.alone, measured.batching if measured else None)
    _print(test, list(checking.compare(test, predicted, seen.replay, seen.used)), seen.replay, json)
    cores = os.cpu_count() or 1
    if load > cores:
        typer.echo(
            f"This machine was busy before the test began ({load:.1f} processes wanted its {cores} cores): expect "
            "longer times than predicted, and try again when it is quiet.",
            err=True,
        )


def _plan(path: Path, measured: Profile | None) -> Plan:
    """The plan of a saved answer: the same mode, searched again from the figures saved with it.

    What was measured of a model stands in for what the scenario says of it.
    """
    from fourfold.advisor import search
    from fourfold.advisor.load import from_members
    from fourfold.advisor.prices import shipped
    from fourfold.advisor.scenario import MODES

    try:
        saved = jsonlib.loads(path.read_text(encoding="utf-8"))
        members, mode = dict(saved["scenario"]), MODES[MODES.index(saved["recommendation"])]
    except (ValueError, KeyError, TypeError):
        raise ValidationException(
            f"plan: {path} is not what `fourfold advise --plan-out` writes: make one with it"
        ) from None
    members.pop("text", None)  # its facts are among the members
    scenario = from_members(members, "plan")
    return search.plan(measured.applied(scenario) if measured else scenario, mode, shipped())


def _measured(model: Path) -> Profile:
    import asyncio

    from fourfold.advisor import profile

    return asyncio.run(profile.profile(model, seconds=0.5))


def _subject(test: Trial, model: Path | None, measured: Profile | None, scratch: Path) -> Subject:
    """What to serve: the model, or a stand-in for it."""
    from fourfold.advisor.verify import BATCH_STAND_IN, STAND_IN
    from fourfold.cli.rehearse import Subject

    if model is not None and measured is not None:
        return Subject(model, *measured.request)
    code = scratch / "code"
    code.mkdir()
    stand_in = BATCH_STAND_IN if test.plan.mode == "batch" else STAND_IN
    (code / "inference.py").write_text(stand_in.format(service_s=test.service_s))
    return Subject(scratch, b"[1]", "application/json")


def _print(test: Trial, figures: list[Any], seen: Replay, json: bool) -> None:
    refused = sum(seen.statuses.values()) - seen.answered
    if json:
        print_json(
            {
                "mode": test.plan.mode,
                "workers": test.workers,
                "share_of_the_plan": test.share,
                "pace": test.pace,
                "service_s": test.service_s,
                "requests": test.rows or len(test.arrivals),
                "not_answered": refused,
                "figures": [
                    {
                        "name": f.name,
                        "unit": f.unit,
                        "predicted": f.predicted,
                        "measured": f.measured,
                        "error": f.error,
                        "within_goal": f.within,
                    }
                    for f in figures
                ],
            }
        )
        return
    rows = [(f.name, f"{f.predicted:,.4g} {f.unit}", f"{f.measured:,.4g} {f.unit}", f"{f.error:.1%}") for f in figures]
    print_table(("", "predicted", "measured", "error"), rows)
    what = f"{test.rows:,} rows" if test.rows else f"{len(test.arrivals):,} requests"
    faster = f", {test.pace:,.3g} times as fast as in it" if test.pace > 1 else ""
    workers = "1 worker" if test.workers == 1 else f"{test.workers} workers"
    print(f"{what} on {workers}, {test.share:.0%} of the plan{faster}; {refused:,} were not answered")
