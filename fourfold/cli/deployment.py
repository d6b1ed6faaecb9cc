"""What `fourfold deploy` makes: a model, a config, an endpoint that serves it.

Models and configs are named after the endpoint and the moment, so that every deploy has its own, and tagged with the
endpoint's name, so that the next deploy and `delete` can clear them away.
"""

from __future__ import annotations

import time
from typing import Any

import typer

from fourfold.cli.client import CommandError, Server, is_missing
from fourfold.cli.files import make_bucket
from fourfold.cli.output import without_metadata
from fourfold.cli.values import key_values, stamped

MOVING = ("Creating", "Updating", "SystemUpdating", "RollingBack", "Deleting")
"""Statuses that an endpoint does not stay in."""

DEPLOYED_FOR = "fourfold:endpoint"
"""Tag on models and configs that `deploy` made; its value is the endpoint's name."""


def environment_of(pairs: list[str], max_batch: int | None, max_delay_ms: float | None) -> dict[str, str]:
    """The model's Environment. Raises BadParameter for what is no pair."""
    environment = key_values(pairs, "--env")
    if max_batch is not None:
        environment["FOURFOLD_MAX_BATCH"] = str(max_batch)
    if max_delay_ms is not None:
        environment["FOURFOLD_MAX_DELAY_MS"] = f"{max_delay_ms:g}"
    return environment


def create_config(
    sagemaker: Any,
    name: str,
    location: str,
    format: str | None,
    environment: dict[str, str],
    compute: dict[str, Any],
    queued: dict[str, Any],
) -> str:
    """Create a model and an endpoint config of the same name, and return it."""
    made = stamped(name)
    tags = [{"Key": DEPLOYED_FOR, "Value": name}]
    container = {"ModelDataUrl": location, "Environment": environment}
    if format is not None:
        container["Image"] = f"fourfold/{format}:latest"
    sagemaker.create_model(ModelName=made, PrimaryContainer=container, Tags=tags)
    variant = {
        "VariantName": "AllTraffic",
        "ModelName": made,
        "InitialVariantWeight": 1.0,
        **compute,
    }
    try:
        sagemaker.create_endpoint_config(EndpointConfigName=made, ProductionVariants=[variant], Tags=tags, **queued)
    except Exception:
        sagemaker.delete_model(ModelName=made)
        raise
    return made


def async_config(
    server: Server, asynchronous: bool, concurrency: int | None, output: str | None, serverless: bool
) -> dict[str, Any]:
    """AsyncInferenceConfig of an endpoint config, where it is wanted. Raises BadParameter for options that clash."""
    if not asynchronous:
        for option, value in (("--concurrency", concurrency), ("--output", output)):
            if value is not None:
                raise typer.BadParameter("goes with --asynchronous only", param_hint=option)
        return {}
    if serverless:
        raise typer.BadParameter("a serverless endpoint cannot be asynchronous", param_hint="--asynchronous")
    if output is not None:
        bucket = output.removeprefix("s3://").partition("/")[0]
        if not output.startswith("s3://") or not bucket:
            raise typer.BadParameter(
                f"{output!r} is no place in a bucket: write s3://bucket/prefix", param_hint="--output"
            )
        make_bucket(server.client("s3"), bucket)
    config: dict[str, Any] = {"OutputConfig": {"S3OutputPath": output} if output else {}}
    if concurrency is not None:
        config["ClientConfig"] = {"MaxConcurrentInvocationsPerInstance": concurrency}
    return {"AsyncInferenceConfig": config}


def point_endpoint_at(sagemaker: Any, name: str, config: str, before: dict[str, Any] | None) -> None:
    """Create the endpoint, or update it. What was made for it goes again where the server refuses."""
    from botocore.exceptions import ClientError

    if before is not None and before["EndpointStatus"] == "Failed":  # deleting is all that AWS lets one do with it
        delete_endpoint(sagemaker, name, wait=True)
        before = None
    point = sagemaker.create_endpoint if before is None else sagemaker.update_endpoint
    try:
        point(EndpointName=name, EndpointConfigName=config)
    except ClientError:
        clear_away(sagemaker, name, config)
        raise


def wait_until_served(sagemaker: Any, name: str, config: str, line: Any) -> dict[str, Any]:
    """Look until the endpoint rests. Raises CommandError where it does not serve the config that it was given."""
    pause = 0.05
    while True:
        endpoint = endpoint_or_none(sagemaker, name)
        if endpoint is None:
            raise CommandError(f"somebody deleted {name} while it was being deployed")
        if endpoint["EndpointStatus"] not in MOVING:
            break
        line.update(f"deploying {name}: {endpoint['EndpointStatus']}")
        time.sleep(pause)
        pause = min(pause * 1.5, 1.0)
    if endpoint["EndpointStatus"] != "InService" or endpoint["EndpointConfigName"] != config:
        reason = endpoint.get("FailureReason") or f"it is {endpoint['EndpointStatus']}"
        stays = (
            f"{name} goes on as it was" if endpoint["EndpointStatus"] == "InService" else f"{name} is not in service"
        )
        raise CommandError(f"{stays}, for the new model failed: {reason}\nThe whole log: fourfold logs {name}")
    return endpoint


def endpoint_or_none(sagemaker: Any, name: str) -> dict[str, Any] | None:
    """The endpoint, or None where there is none."""
    from botocore.exceptions import ClientError

    try:
        return without_metadata(sagemaker.describe_endpoint(EndpointName=name))
    except ClientError as error:
        if is_missing(error):
            return None
        raise


def delete_endpoint(sagemaker: Any, name: str, wait: bool) -> None:
    """Delete an endpoint; with `wait`, until it is gone."""
    sagemaker.delete_endpoint(EndpointName=name)
    while wait and endpoint_or_none(sagemaker, name) is not None:
        time.sleep(0.05)


def clear_away(sagemaker: Any, name: str, config_name: str) -> None:
    """Delete a config and its models where `deploy` made them for this endpoint."""
    config = config_or_empty(sagemaker, config_name)
    if "EndpointConfigArn" not in config or not _is_ours(sagemaker, config["EndpointConfigArn"], name):
        return
    sagemaker.delete_endpoint_config(EndpointConfigName=config_name)
    for made in {variant["ModelName"] for variant in config["ProductionVariants"] if "ModelName" in variant}:
        model = model_or_name(sagemaker, made)
        if "ModelArn" in model and _is_ours(sagemaker, model["ModelArn"], name):
            sagemaker.delete_model(ModelName=made)


def _is_ours(sagemaker: Any, arn: str, name: str) -> bool:
    return {"Key": DEPLOYED_FOR, "Value": name} in sagemaker.list_tags(ResourceArn=arn)["Tags"]


def config_or_empty(sagemaker: Any, name: str) -> dict[str, Any]:
    """The endpoint config; empty where it was deleted, which does not disturb its endpoint."""
    from botocore.exceptions import ClientError

    try:
        return without_metadata(sagemaker.describe_endpoint_config(EndpointConfigName=name))
    except ClientError:
        return {}


def model_or_name(sagemaker: Any, name: str) -> dict[str, Any]:
    """The model; its name alone where it was deleted, which does not disturb its endpoint."""
    from botocore.exceptions import ClientError

    try:
        return without_metadata(sagemaker.describe_model(ModelName=name))
    except ClientError:
        return {"ModelName": name}
