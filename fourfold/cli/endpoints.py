"""Commands about endpoints: deploy, invoke, list, describe, logs, delete. Clients of the HTTP API, nothing private."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from fourfold.cli import app
from fourfold.cli.client import DATA_DIR, URL, CommandError, DataDir, Json, Server, Url
from fourfold.cli.deployment import (
    async_config,
    clear_away,
    config_or_empty,
    create_config,
    delete_endpoint,
    endpoint_or_none,
    environment_of,
    model_or_name,
    point_endpoint_at,
    wait_until_served,
)
from fourfold.cli.files import CONTENT_TYPES, upload_model
from fourfold.cli.output import cell, print_json, print_table, progress, without_metadata
from fourfold.cli.serverless import serverless_options, serverless_rows, serverless_state

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the endpoint.")]


@app.command()
def deploy(
    source: Annotated[
        str,
        typer.Argument(
            metavar="PATH|s3://…|hf://…", help="A file, a folder, a model.tar.gz, an object, or a model of a hub."
        ),
    ],
    name: Annotated[str, typer.Option(help="Name of the endpoint.")],
    format: Annotated[str | None, typer.Option(help="onnx, sklearn, handler, …; detected where not given.")] = None,
    instance_count: Annotated[int | None, typer.Option(help="Workers that share the load; 1.", min=1)] = None,
    instance_type: Annotated[
        str | None, typer.Option(help="SageMaker instance type, as in a config; ml.m5.large.")
    ] = None,
    serverless: Annotated[bool, typer.Option("--serverless", help="No worker while nobody calls.")] = False,
    memory: Annotated[
        int | None,
        typer.Option(help="Serverless: MB that a worker may use, a multiple of 1024; 2048.", min=1024, max=6144),
    ] = None,
    max_concurrency: Annotated[
        int | None, typer.Option(help="Serverless: most calls at once, each in a worker of its own; 5.", min=1, max=200)
    ] = None,
    provisioned: Annotated[int | None, typer.Option(help="Serverless: workers kept warm; 0.", min=0, max=200)] = None,
    idle: Annotated[
        float | None, typer.Option(help="Serverless: seconds until an idle worker goes, 0 at once; 60.", min=0)
    ] = None,
    asynchronous: Annotated[
        bool, typer.Option("--asynchronous", help="Calls are queued, and answered into a bucket.")
    ] = False,
    concurrency: Annotated[
        int | None, typer.Option(help="Asynchronous: calls at once in one worker.", min=1, max=1000)
    ] = None,
    output: Annotated[
        str | None, typer.Option(metavar="s3://…", help="Asynchronous: where answers go; the account's bucket.")
    ] = None,
    max_batch: Annotated[int | None, typer.Option(help="Most calls that go to the model at once.", min=1)] = None,
    max_delay_ms: Annotated[
        float | None, typer.Option(help="Wait so long for a batch to fill; 0 takes what is there.", min=0)
    ] = None,
    env: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="The model's Environment; repeat.")] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until the endpoint is in service.")] = True,
    json: Json = False,
    url: Url = URL,
    data_dir: DataDir = DATA_DIR,
) -> None:
    """Put a trained model behind an endpoint, or update the endpoint to it.

    Uploads the artifact, creates a model and an endpoint config, creates or updates the endpoint, and waits.
    """
    began = time.monotonic()
    chosen = serverless_options(serverless, memory, max_concurrency, provisioned, idle, instance_count, instance_type)
    environment = environment_of(env or [], max_batch, max_delay_ms) | (chosen.environment() if chosen else {})
    compute: dict[str, Any] = (
        {"ServerlessConfig": chosen.config()}
        if chosen
        else {"InitialInstanceCount": instance_count or 1, "InstanceType": instance_type or "ml.m5.large"}
    )
    server = Server(url, data_dir)
    sagemaker = server.client("sagemaker")
    queued = async_config(server, asynchronous, concurrency, output, serverless)
    with progress(f"deploying {name}") as line:
        local = not source.startswith(("s3://", "https://", "hf://"))
        location = upload_model(server, Path(source), name) if local else source
        line.update(f"deploying {name}: creating the model from {location}")
        before = endpoint_or_none(sagemaker, name)
        config = create_config(sagemaker, name, location, format, environment, compute, queued)
        point_endpoint_at(sagemaker, name, config, before)
        endpoint = wait_until_served(sagemaker, name, config, line) if wait else endpoint_or_none(sagemaker, name)
    if wait and before is not None:
        clear_away(sagemaker, name, before["EndpointConfigName"])
    seconds = time.monotonic() - began
    if json:
        print_json({**(endpoint or {}), "ModelDataUrl": location, "Seconds": round(seconds, 3)})
    elif wait:
        print(f"{name} is in service after {seconds:.1f} s. Call it:\n\n{_how_to_call(name, url, asynchronous)}")
    else:
        print(f"{name} is on its way. Look at it: fourfold describe {name}")


@app.command()
def invoke(
    name: Name,
    body: Annotated[str | None, typer.Option(help="The request body.")] = None,
    file: Annotated[Path | None, typer.Option(help="A file that holds the body; - reads standard input.")] = None,
    content_type: Annotated[str | None, typer.Option(help="By the file's suffix, or application/json.")] = None,
    accept: Annotated[
        str | None, typer.Option(help="Content type of the answer; the model's choice if not given.")
    ] = None,
    target_variant: Annotated[str | None, typer.Option(help="The production variant that shall answer.")] = None,
    stream: Annotated[bool, typer.Option("--stream", help="Print the answer part by part as it comes.")] = False,
    json: Json = False,
    url: Url = URL,
    data_dir: DataDir = DATA_DIR,
) -> None:
    """Call an endpoint and print its answer."""
    payload, found_type = _payload(body, file)
    request = {"EndpointName": name, "Body": payload, "ContentType": content_type or found_type}
    request |= {"Accept": accept} if accept else {}
    request |= {"TargetVariant": target_variant} if target_variant else {}
    runtime = Server(url, data_dir).client("sagemaker-runtime")
    if stream:
        _print_stream(runtime.invoke_endpoint_with_response_stream(**request), json)
        return
    answer = runtime.invoke_endpoint(**request)
    content = answer["Body"].read()
    if json:
        print_json({**without_metadata(answer), "Body": content.decode("utf-8", "replace")})
    else:
        _write(content)


@app.command("list")
def list_endpoints(json: Json = False, url: Url = URL, data_dir: DataDir = DATA_DIR) -> None:
    """List the endpoints, the newest first."""
    sagemaker = Server(url, data_dir).client("sagemaker")
    endpoints = [one for page in sagemaker.get_paginator("list_endpoints").paginate() for one in page["Endpoints"]]
    if json:
        print_json(endpoints)
    else:
        print_table(
            ("NAME", "STATUS", "CREATED", "CHANGED"),
            [
                (one["EndpointName"], one["EndpointStatus"], one["CreationTime"], one["LastModifiedTime"])
                for one in endpoints
            ],
        )


@app.command()
def describe(name: Name, json: Json = False, url: Url = URL, data_dir: DataDir = DATA_DIR) -> None:
    """Show an endpoint with its variants and their models."""
    server = Server(url, data_dir)
    sagemaker = server.client("sagemaker")
    endpoint = without_metadata(sagemaker.describe_endpoint(EndpointName=name))
    config = config_or_empty(sagemaker, endpoint["EndpointConfigName"])
    names = [one["ModelName"] for one in config.get("ProductionVariants", []) if "ModelName" in one]
    models = {model: model_or_name(sagemaker, model) for model in names}
    serverless = (
        serverless_state(server, name) if any(map(_is_serverless, endpoint.get("ProductionVariants", []))) else None
    )
    if json:
        more = {"Serverless": serverless} if serverless else {}
        print_json({**endpoint, "EndpointConfig": config, "Models": list(models.values()), **more})
        return
    print_table(("", name), _endpoint_rows(endpoint))
    for variant in config.get("ProductionVariants", []):
        running: dict[str, Any] = next(
            (one for one in endpoint.get("ProductionVariants", []) if one["VariantName"] == variant["VariantName"]), {}
        )
        print_table(
            ("", variant["VariantName"]), _variant_rows(variant, running, models.get(variant.get("ModelName", "")))
        )
    if serverless:
        print_table(("", "serverless"), serverless_rows(serverless))


@app.command()
def logs(
    name: Name,
    tail: Annotated[int, typer.Option(help="Lines of each worker, from its last.", min=1)] = 200,
    json: Json = False,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on printing until interrupted.")] = False,
    url: Url = URL,
    data_dir: DataDir = DATA_DIR,
) -> None:
    """Print what the endpoint's workers wrote to standard output and error."""
    server = Server(url, data_dir)
    text = server.get("endpoints", name, "logs", tail=tail)
    if not text:
        server.client("sagemaker").describe_endpoint(EndpointName=name)  # says so where there is no such endpoint
    if json:
        print_json({"EndpointName": name, "Logs": text})
        return
    if not text:
        print(f"no worker of {name} has printed anything", file=sys.stderr)
    _write(text.encode())
    while follow:
        time.sleep(1)
        newer = server.get("endpoints", name, "logs", tail=tail)
        _write(_added(text, newer).encode())
        text = newer


@app.command()
def delete(
    name: Name,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until it is gone.")] = True,
    json: Json = False,
    url: Url = URL,
    data_dir: DataDir = DATA_DIR,
) -> None:
    """Delete an endpoint, and the model and config that `deploy` made for it."""
    sagemaker = Server(url, data_dir).client("sagemaker")
    endpoint = sagemaker.describe_endpoint(EndpointName=name)
    delete_endpoint(sagemaker, name, wait)
    clear_away(sagemaker, name, endpoint["EndpointConfigName"])
    if json:
        print_json({"EndpointName": name, "EndpointStatus": "Deleted" if wait else "Deleting"})
    else:
        print(f"deleted {name}")


def _endpoint_rows(endpoint: dict[str, Any]) -> list[tuple[str, str]]:
    rows = [
        ("status", endpoint["EndpointStatus"]),
        ("reason", endpoint.get("FailureReason")),
        ("ARN", endpoint["EndpointArn"]),
        ("config", endpoint["EndpointConfigName"]),
        ("created", endpoint["CreationTime"]),
        ("changed", endpoint["LastModifiedTime"]),
    ]
    return [(label, cell(value)) for label, value in rows if value is not None]


def _is_serverless(variant: dict[str, Any]) -> bool:
    return "CurrentServerlessConfig" in variant


def _variant_rows(
    variant: dict[str, Any], running: dict[str, Any], model: dict[str, Any] | None
) -> list[tuple[str, str]]:
    """What a variant is; without a model of its own it hosts inference components."""
    model = model or {"ModelName": "inference components", "Containers": [{}]}
    container: dict[str, Any] = model.get("PrimaryContainer") or next(iter(model.get("Containers", [])), {})
    count = f"{running.get('CurrentInstanceCount', '?')} of {running.get('DesiredInstanceCount', '?')}"
    rows = [
        ("model", model["ModelName"] if "Containers" in model or container else f"{model['ModelName']} (deleted)"),
        ("artifact", container.get("ModelDataUrl")),
        ("image", container.get("Image")),
        ("environment", " ".join(f"{key}={value}" for key, value in container.get("Environment", {}).items()) or None),
        ("instances", None if _is_serverless(running) else f"{count} {variant.get('InstanceType', '')}".strip()),
        ("weight", running.get("CurrentWeight", variant.get("InitialVariantWeight"))),
    ]
    return [(label, cell(value)) for label, value in rows if value is not None]


def _payload(body: str | None, file: Path | None) -> tuple[bytes, str]:
    """The body's bytes and the content type that they have if nothing else is said."""
    if (body is None) == (file is None):
        raise typer.BadParameter("give either --body or --file")
    if body is not None:
        return body.encode(), "application/json"
    assert file is not None
    if str(file) == "-":
        return sys.stdin.buffer.read(), "application/json"
    if not file.is_file():
        raise CommandError(f"there is no file {file}")
    return file.read_bytes(), CONTENT_TYPES.get(file.suffix, "application/octet-stream")


def _print_stream(answer: dict[str, Any], json: bool) -> None:
    for event in answer["Body"]:
        match event:
            case {"PayloadPart": {"Bytes": part}}:
                if json:
                    print_json({"PayloadPart": part.decode("utf-8", "replace")})
                else:
                    sys.stdout.buffer.write(part)
                    sys.stdout.buffer.flush()
    if not json:
        _end_line()


def _added(before: str, now: str) -> str:
    """What a log has got since it was read, where its beginning may have moved out of sight."""
    if now.startswith(before):
        return now[len(before) :]
    end = before[-500:]
    at = now.rfind(end)
    return now if at < 0 else now[at + len(end) :]


def _write(content: bytes) -> None:
    sys.stdout.buffer.write(content)
    sys.stdout.buffer.flush()
    if content and not content.endswith(b"\n"):
        _end_line()


def _end_line() -> None:
    """On a terminal the prompt begins on a line of its own; a file gets the answer's bytes and nothing else."""
    if sys.stdout.isatty():
        print(flush=True)


def _how_to_call(name: str, url: str, asynchronous: bool) -> str:
    if asynchronous:
        return f"""\
  fourfold async submit {name} FILE…

  import boto3                             # after: eval "$(fourfold env)"; here: {url}
  runtime = boto3.client("sagemaker-runtime")
  runtime.invoke_endpoint_async(EndpointName="{name}", ContentType="text/csv", Body="...")["OutputLocation"]"""
    return f"""\
  fourfold invoke {name} --body '[[...]]'

  import boto3                             # after: eval "$(fourfold env)"; here: {url}
  runtime = boto3.client("sagemaker-runtime")
  runtime.invoke_endpoint(EndpointName="{name}", ContentType="text/csv", Body="...")["Body"].read()"""
