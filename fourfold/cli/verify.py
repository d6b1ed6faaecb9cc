"""`fourfold verify`: a plan deployed on the server, its arrivals replayed, predicted against measured."""

from __future__ import annotations

import json as jsonlib
import os
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fourfold.cli import app
from fourfold.cli.client import DATA_DIR, URL, DataDir, Json, Server, Url
from fourfold.cli.output import print_json, print_table, progress
from fourfold.errors import ValidationException

if TYPE_CHECKING:
    from fourfold.advisor.replay import Replay
    from fourfold.advisor.search import Plan
    from fourfold.advisor.simulate import Batching
    from fourfold.advisor.verify import Trial

NAME = "fourfold-verify"


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

    test = checking.trial(_plan(plan), seconds, workers)
    load = os.getloadavg()[0]
    server = Server(url, data_dir)
    with tempfile.TemporaryDirectory(prefix="fourfold-") as scratch, progress("deploying the plan") as line:
        source, body, content_type, service_s, batching = _subject(model, test, Path(scratch))
        with _deployed(server, source, test.workers):
            target = f"{url}/endpoints/{NAME}/invocations"
            headers = {"Authorization": f"Bearer {server.api_key()}", "Content-Type": content_type}
            line.update("measuring one request at a time")
            alone = _alone(target, headers, body, service_s)
            line.update(f"replaying {len(test.arrivals):,} requests")
            seen = _replay(target, headers, body, test.arrivals)
    predicted = checking.predict(test, service_s, max(alone - service_s, 0.0), batching)
    _print(test, list(checking.compare(test, predicted, seen)), seen, json)
    cores = os.cpu_count() or 1
    if load > cores:
        typer.echo(
            f"This machine was busy before the test began ({load:.1f} processes wanted its {cores} cores): expect "
            "longer times than predicted, and try again when it is quiet.",
            err=True,
        )


def _plan(path: Path) -> Plan:
    """The plan of a saved answer: the same mode, searched again from the figures saved with it."""
    from fourfold.advisor import search
    from fourfold.advisor.load import from_members
    from fourfold.advisor.prices import shipped

    try:
        saved = jsonlib.loads(path.read_text(encoding="utf-8"))
        members, mode = dict(saved["scenario"]), saved["recommendation"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValidationException(
            f"plan: {path} is not what `fourfold advise --plan-out` writes ({type(error).__name__}: {error})"
        ) from error
    members.pop("text", None)  # its facts are among the members
    return search.plan(from_members(members, "plan"), mode, shipped())


def _subject(
    model: Path | None, test: Trial, scratch: Path
) -> tuple[Path, bytes, str, float, Batching | None]:  # fmt: skip
    """What to serve, a request for it, its content type, and how long the model takes for it."""
    import asyncio

    from fourfold.advisor import profile, workload
    from fourfold.advisor.verify import STAND_IN

    if model is None:
        service_s = workload.of(test.plan.scenario).service_s
        code = scratch / "code"
        code.mkdir()
        (code / "inference.py").write_text(STAND_IN.format(service_s=service_s))
        return scratch, b"[1]", "application/json", service_s, None
    measured = asyncio.run(profile.profile(model, seconds=0.5))
    body, content_type = measured.request
    return model, body, content_type, measured.service_s[1], measured.batching


@contextmanager
def _deployed(server: Server, source: Path, workers: int) -> Iterator[None]:
    """An endpoint that serves a model on so many workers, for as long as the block lasts."""
    from fourfold.cli.artifact import packed

    sagemaker, s3 = server.client("sagemaker"), server.client("s3")
    if all(bucket["Name"] != NAME for bucket in s3.list_buckets()["Buckets"]):
        s3.create_bucket(Bucket=NAME)
    with packed(source) as artifact:
        key = f"{artifact.digest[:16]}/{artifact.name}"
        s3.upload_file(str(artifact.path), NAME, key)
    variant = {"VariantName": "AllTraffic", "ModelName": NAME, "InstanceType": "ml.m5.large"}
    try:
        sagemaker.create_model(
            ModelName=NAME,
            ExecutionRoleArn="arn:aws:iam::123456789012:role/fourfold",
            PrimaryContainer={"ModelDataUrl": f"s3://{NAME}/{key}"},
        )
        sagemaker.create_endpoint_config(
            EndpointConfigName=NAME, ProductionVariants=[variant | {"InitialInstanceCount": workers}]
        )
        sagemaker.create_endpoint(EndpointName=NAME, EndpointConfigName=NAME)
        waiter = sagemaker.get_waiter("endpoint_in_service")
        waiter.wait(EndpointName=NAME, WaiterConfig={"Delay": 1, "MaxAttempts": 600})
        yield
    finally:
        _clear(sagemaker, s3, key)


def _clear(sagemaker: Any, s3: Any, key: str) -> None:
    from botocore.exceptions import ClientError

    for call, member in (
        (sagemaker.delete_endpoint, "EndpointName"),
        (sagemaker.delete_endpoint_config, "EndpointConfigName"),
        (sagemaker.delete_model, "ModelName"),
    ):
        try:
            call(**{member: NAME})
        except ClientError as error:
            if error.response["Error"]["Code"] != "ValidationException":
                raise
    s3.delete_object(Bucket=NAME, Key=key)
    s3.delete_bucket(Bucket=NAME)


def _alone(target: str, headers: dict[str, str], body: bytes, service_s: float) -> float:
    """Median seconds of requests that never meet each other."""
    import numpy as np

    apart = 2 * service_s + 0.02
    seen = _replay(target, headers, body, np.arange(25) * apart)
    answered = [float(s) for s in seen.latency_s if s == s]
    if not answered:
        raise ValidationException(f"model: no request was answered; statuses {seen.statuses}")
    return statistics.median(answered)


def _replay(target: str, headers: dict[str, str], body: bytes, times: Any) -> Replay:
    import asyncio

    from fourfold.advisor.replay import replay

    return asyncio.run(replay(target, headers, body, times))


def _print(test: Trial, figures: list[Any], seen: Replay, json: bool) -> None:
    refused = sum(count for status, count in seen.statuses.items() if status != 200)
    if json:
        print_json(
            {
                "workers": test.workers,
                "share_of_the_plan": test.share,
                "requests": len(test.arrivals),
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
    print(
        f"{len(test.arrivals):,} requests on {test.workers} workers, {test.share:.0%} of the plan; "
        f"{refused:,} were not answered"
    )
