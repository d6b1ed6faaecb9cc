"""Commands about schedules: `fourfold schedule create`, list, show, enable, disable, delete. Clients of the HTTP API.

A schedule made here calls any operation of this server; `--batch job.json` is the short way to CreateTransformJob.
"""

from __future__ import annotations

import json as json_
import re
import time
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from fourfold.cli import app
from fourfold.cli.client import DATA_DIR, URL, CommandError, DataDir, Json, Server, Url
from fourfold.cli.output import cell, print_json, print_table, without_metadata

schedule = typer.Typer(help="What runs when: EventBridge Scheduler's schedules.", no_args_is_help=True)
app.add_typer(schedule, name="schedule")

Document = dict[str, Any]
Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the schedule.")]
Group = Annotated[str, typer.Option(help="The schedule's group.")]

UNIVERSAL = "arn:aws:scheduler:::aws-sdk:"
TRANSFORM = f"{UNIVERSAL}sagemaker:createTransformJob"
TIME = "<aws.scheduler.scheduled-time>"
ROLE = "arn:aws:iam::123456789012:role/fourfold"
"""The API asks for one; this server has no roles."""
WEEKDAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN")
"""By crontab's numbers, which count from Sunday = 0 and know it as 7, too."""


@schedule.command()
def create(
    name: Name,
    cron: Annotated[
        str | None,
        typer.Option(metavar="FIELDS", help='As in a crontab: "0 2 * * *"; or EventBridge\'s 6 fields.'),
    ] = None,
    rate: Annotated[str | None, typer.Option(metavar="PERIOD", help='Such as "5 minutes" or "1 day".')] = None,
    at: Annotated[str | None, typer.Option(metavar="TIME", help="Once: 2026-12-24T18:00:00.")] = None,
    timezone: Annotated[str, typer.Option(help="Zone of --cron and --at.")] = "UTC",
    batch: Annotated[
        Path | None, typer.Option(metavar="FILE", help="JSON with the members of CreateTransformJob.")
    ] = None,
    target: Annotated[
        str | None, typer.Option(metavar="SERVICE:OPERATION", help="Any operation, as sagemaker:stopTransformJob.")
    ] = None,
    input: Annotated[Path | None, typer.Option(metavar="FILE", help="JSON with the members of that operation.")] = None,
    window: Annotated[
        int | None, typer.Option(metavar="MINUTES", help="Begin anywhere in so many minutes.", min=1, max=1440)
    ] = None,
    start: Annotated[datetime | None, typer.Option(help="Not before; UTC.")] = None,
    end: Annotated[datetime | None, typer.Option(help="Not after; UTC.")] = None,
    retries: Annotated[int | None, typer.Option(help="Tries after the first one.", min=0, max=185)] = None,
    max_age: Annotated[
        int | None, typer.Option(metavar="SECONDS", help="No try later than this.", min=60, max=86400)
    ] = None,
    dead_letter: Annotated[
        str | None, typer.Option(metavar="ARN", help="Queue for what could not be delivered.")
    ] = None,
    group: Group = "default",
    disabled: Annotated[bool, typer.Option("--disabled", help="Create it, but do not run it yet.")] = False,
    json: Json = False,
    url: Url = URL,
    data_dir: DataDir = DATA_DIR,
) -> None:
    """Create a schedule that runs a transform job (--batch) or calls another operation (--target).

    Placeholders in the JSON, <aws.scheduler.scheduled-time> and <aws.scheduler.execution-id>, make each run's own.
    """
    expression = _expression(cron, rate, at)
    policy = {"MaximumRetryAttempts": retries, "MaximumEventAgeInSeconds": max_age}
    policy = {member: value for member, value in policy.items() if value is not None}
    called = _target(batch, target, input)
    server = Server(url, data_dir)
    _check(server, called)
    called |= {"RetryPolicy": policy} if policy else {}
    called |= {"DeadLetterConfig": {"Arn": dead_letter}} if dead_letter else {}
    request: Document = {
        "Name": name,
        "GroupName": group,
        "ScheduleExpression": expression,
        "ScheduleExpressionTimezone": timezone,
        "FlexibleTimeWindow": {"Mode": "FLEXIBLE", "MaximumWindowInMinutes": window} if window else {"Mode": "OFF"},
        "State": "DISABLED" if disabled else "ENABLED",
        "Target": called,
    }
    request |= {member: value for member, value in (("StartDate", start), ("EndDate", end)) if value is not None}
    server.client("scheduler").create_schedule(**request)
    described = _described(server, group, name)
    if json:
        print_json(described)
        return
    print(f"{name} runs {described['ScheduleExpression']}, next at {_time(described['NextRun'])}")
    if batch is not None:
        print(f"its jobs are called {json_.loads(called['Input'])['TransformJobName']}")


@schedule.command("list")
def list_schedules(
    group: Annotated[str | None, typer.Option(help="Only those of a group.")] = None,
    state: Annotated[Literal["ENABLED", "DISABLED"] | None, typer.Option(help="Only those in this state.")] = None,
    json: Json = False,
    url: Url = URL,
    data_dir: DataDir = DATA_DIR,
) -> None:
    """List schedules by group and name."""
    server = Server(url, data_dir)
    wanted = ({"GroupName": group} if group else {}) | ({"State": state} if state else {})
    pages = server.client("scheduler").get_paginator("list_schedules").paginate(**wanted)
    found = [_described(server, one["GroupName"], one["Name"]) for page in pages for one in page["Schedules"]]
    if json:
        print_json(found)
        return
    rows = [
        (one["GroupName"], one["Name"], one["State"], one["ScheduleExpression"], _time(one["NextRun"]), _last(one))
        for one in found
    ]
    print_table(("GROUP", "NAME", "STATE", "WHEN", "NEXT", "LAST"), rows)


@schedule.command()
def show(
    name: Name, group: Group = "default", json: Json = False, url: Url = URL, data_dir: DataDir = DATA_DIR
) -> None:
    """Show a schedule: when it runs next, and what became of its last run."""
    described = _described(Server(url, data_dir), group, name)
    if json:
        print_json(described)
        return
    window = described["FlexibleTimeWindow"]
    rows = [
        ("state", described["State"]),
        ("when", f"{described['ScheduleExpression']} {described['ScheduleExpressionTimezone']}"),
        ("window", f"{window['MaximumWindowInMinutes']} minutes" if window["Mode"] == "FLEXIBLE" else None),
        ("from", described.get("StartDate")),
        ("until", described.get("EndDate")),
        ("next", _time(described["NextRun"])),
        ("last", _last(described)),
        ("missed", described["MissedRuns"] or None),
        ("target", described["Target"]["Arn"]),
        ("input", described["Target"].get("Input")),
        ("dead letters", described["Target"].get("DeadLetterConfig", {}).get("Arn")),
    ]
    print_table(("", f"{group}/{name}"), [(label, cell(value)) for label, value in rows if value is not None])


@schedule.command()
def enable(name: Name, group: Group = "default", url: Url = URL, data_dir: DataDir = DATA_DIR) -> None:
    """Let a schedule run again. What was due meanwhile is not run."""
    _set_state(Server(url, data_dir), group, name, "ENABLED")
    print(f"enabled {name}")


@schedule.command()
def disable(name: Name, group: Group = "default", url: Url = URL, data_dir: DataDir = DATA_DIR) -> None:
    """Keep a schedule from running."""
    _set_state(Server(url, data_dir), group, name, "DISABLED")
    print(f"disabled {name}")


@schedule.command()
def delete(name: Name, group: Group = "default", url: Url = URL, data_dir: DataDir = DATA_DIR) -> None:
    """Delete a schedule. Jobs that it has started go on."""
    Server(url, data_dir).client("scheduler").delete_schedule(GroupName=group, Name=name)
    print(f"deleted {name}")


# When


def _expression(cron: str | None, rate: str | None, at: str | None) -> str:
    given = [one for one in (cron, rate, at) if one is not None]
    if len(given) != 1:
        raise typer.BadParameter("give one of --cron, --rate and --at")
    if cron is not None:
        return f"cron({eventbridge(cron)})"
    return f"rate({rate})" if rate is not None else f"at({at})"


def eventbridge(cron: str) -> str:
    """The five fields of a crontab line as EventBridge's six; six fields stay as they are.

    >>> eventbridge("0 2 * * 1-5")
    '0 2 ? * MON-FRI *'

    Raises:
        CommandError: it has another number of fields, or both day fields say something: a crontab means "or" by that,
            which EventBridge cannot say.
    """
    fields = cron.split()
    if len(fields) == 6:
        return cron
    if len(fields) != 5:
        raise CommandError(f"--cron has 5 fields, or EventBridge's 6, not {len(fields)}: {cron!r}")
    minute, hour, day, month, weekday = fields
    if weekday == "*":
        return f"{minute} {hour} {day} {month} ? *"
    if day != "*":
        raise CommandError(
            f"{cron!r} names days of the month and of the week, and a crontab means either; make two schedules"
        )
    return f"{minute} {hour} ? {month} {_weekdays(weekday)} *"


def _weekdays(field: str) -> str:
    """A crontab's weekdays with names for numbers; the step after a slash stays a number."""
    parts = []
    for part in field.split(","):
        span, slash, step = part.partition("/")
        if slash and "-" not in span and span != "*":
            span = f"{span}-6"  # a crontab counts on from there to Saturday
        parts.append(re.sub(r"[0-7]", lambda match: WEEKDAYS[int(match[0])], span) + slash + step)
    return ",".join(parts)


# What


def _target(batch: Path | None, target: str | None, members: Path | None) -> Document:
    if (batch is None) == (target is None):
        raise typer.BadParameter("give either --batch or --target")
    if batch is not None:
        return {"Arn": TRANSFORM, "RoleArn": ROLE, "Input": json_.dumps(_with_name_of_its_own(_read(batch)))}
    arn = str(target) if str(target).startswith("arn:") else f"{UNIVERSAL}{target}"
    return {"Arn": arn, "RoleArn": ROLE} | ({"Input": json_.dumps(_read(members))} if members else {})


def _read(file: Path) -> Document:
    try:
        members = json_.loads(file.read_text())
    except ValueError as error:
        raise CommandError(f"{file} is no JSON: {error}") from None
    if not isinstance(members, dict):
        raise CommandError(f"{file} must hold a JSON object: the members of the operation")
    return members


def _with_name_of_its_own(job: Document) -> Document:
    """A job whose name is new at every run, because a name can be used once."""
    name = str(job.get("TransformJobName", "batch"))
    return job if "<aws.scheduler." in name else job | {"TransformJobName": f"{name}-{TIME}"}


def _check(server: Server, target: Document) -> None:
    """Check a call as it will be checked when it is due: what could never run is told now, not at night.

    Raises:
        CommandError: there is no such operation, or it has no such member.
        ValidationException: a member breaks a rule.
    """
    from botocore.exceptions import ParamValidationError, UnknownServiceError
    from botocore.model import OperationNotFoundError
    from botocore.validate import validate_parameters

    from fourfold.api.validation import validated
    from fourfold.control.schedules.targets import filled, operation_of

    called = operation_of(target["Arn"])
    if called is None:
        return  # of a kind that the server has a better word about
    service, name = called
    members, _ = filled(target.get("Input", "{}"), target["Arn"], time.time(), 1)
    try:
        operation = server.client(service).meta.service_model.operation_model(name)
        validate_parameters(members, operation.input_shape)
    except (UnknownServiceError, OperationNotFoundError):
        raise CommandError(
            f"{service}:{name} is no operation: write it as sagemaker:createTransformJob, by AWS's names"
        ) from None
    except ParamValidationError as error:
        raise CommandError(f"{service}:{name} could never run: {'; '.join(str(error).splitlines()[1:])}") from None
    validated(operation, members)


def _described(server: Server, group: str, name: str) -> Document:
    """GetSchedule's members, and what the server knows of its runs."""
    found = without_metadata(server.client("scheduler").get_schedule(GroupName=group, Name=name))
    runs: Document = json_.loads(server.get("schedules", group, name))
    return found | runs


def _set_state(server: Server, group: str, name: str, state: str) -> None:
    """UpdateSchedule replaces all members, so all of them are sent back."""
    scheduler = server.client("scheduler")
    found = without_metadata(scheduler.get_schedule(GroupName=group, Name=name))
    kept = {
        member: value
        for member, value in found.items()
        if member not in ("Arn", "CreationDate", "LastModificationDate")
    }
    scheduler.update_schedule(**kept | {"State": state})


def _time(iso: str | None) -> str:
    return iso.replace("T", " ").replace("Z", " UTC") if iso else "never"


def _last(described: Document) -> str | None:
    last = described["LastRun"]
    if last is None:
        return None
    return f"{_time(last['ScheduledTime'])}: {last['Error'] or 'ran'}"
