"""What `deploy --serverless` and `describe` know about serverless endpoints, their cost on AWS included."""

from __future__ import annotations

import json
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import typer

from fourfold.cli.client import CommandError, Server, region
from fourfold.cli.output import cell

CHARGES = {"processing": "serverless", "provisioned": "provisioned-duration", "kept": "provisioned-usage"}
"""Kinds of usage and the keys of their prices."""


@dataclass(frozen=True)
class Options:
    """What `deploy` was told about a serverless endpoint.

    Attributes:
        memory_mb: MemorySizeInMB.
        max_concurrency: MaxConcurrency.
        provisioned: ProvisionedConcurrency; 0 leaves it out.
        idle_seconds: FOURFOLD_IDLE_SECONDS. None: the server's default.
    """

    memory_mb: int
    max_concurrency: int
    provisioned: int
    idle_seconds: float | None

    def config(self) -> dict[str, int]:
        """ServerlessConfig of a production variant."""
        config = {"MemorySizeInMB": self.memory_mb, "MaxConcurrency": self.max_concurrency}
        return config | ({"ProvisionedConcurrency": self.provisioned} if self.provisioned else {})

    def environment(self) -> dict[str, str]:
        return {} if self.idle_seconds is None else {"FOURFOLD_IDLE_SECONDS": f"{self.idle_seconds:g}"}


def serverless_options(
    serverless: bool,
    memory: int | None,
    max_concurrency: int | None,
    provisioned: int | None,
    idle: float | None,
    instance_count: int | None,
    instance_type: str | None,
) -> Options | None:
    """Read the options of `deploy` that go together. Raises BadParameter where they do not; None: not serverless."""
    given = {"--memory": memory, "--max-concurrency": max_concurrency, "--provisioned": provisioned, "--idle": idle}
    if not serverless:
        for name, value in given.items():
            if value is not None:
                raise typer.BadParameter("goes with --serverless only", param_hint=name)
        return None
    for name, instances in (("--instance-count", instance_count), ("--instance-type", instance_type)):
        if instances is not None:
            raise typer.BadParameter("does not go with --serverless, which has no instances", param_hint=name)
    memory, max_concurrency, provisioned = memory or 2048, max_concurrency or 5, provisioned or 0
    if memory % 1024:
        raise typer.BadParameter(f"{memory} is none of 1024, 2048, 3072, 4096, 5120 and 6144", param_hint="--memory")
    if provisioned > max_concurrency:
        raise typer.BadParameter(
            f"{provisioned} is over --max-concurrency {max_concurrency}", param_hint="--provisioned"
        )
    return Options(memory, max_concurrency, provisioned, idle)


def serverless_state(server: Server, name: str) -> dict[str, Any] | None:
    """What a serverless endpoint does now and has used, with its cost on AWS; None where it is not in service."""
    try:
        answer = json.loads(server.get("endpoints", name))
    except CommandError:
        return None
    found: dict[str, Any] | None = next((one["Serverless"] for one in answer["Variants"] if "Serverless" in one), None)
    return None if found is None else found | {"AWSCost": cost(found["GBSeconds"])}


def cost(gb_seconds: dict[str, float]) -> dict[str, Any]:
    """What this much compute costs on AWS in the region, by the shipped prices; data transfer is not in it."""
    from fourfold.advisor import prices
    from fourfold.advisor.cost import plain

    table = prices.shipped()
    where = region() if region() in table.regions else prices.HOME_REGION
    filled = table.filled(where)
    lines: list[dict[str, Any]] = []
    total = Decimal(0)
    for kind, key in CHARGES.items():
        price = filled.find(key, where)[0]
        usd = (Decimal(str(gb_seconds[kind])) * price.usd / price.per).quantize(Decimal("1e-9"))
        total += usd
        lines.append(
            {
                "Item": price.item,
                "GBSeconds": gb_seconds[kind],
                "USDPerGBSecond": plain(price.usd / price.per),
                "USD": plain(usd),
                "PriceDate": price.source_date,
                "Source": price.source,
            }
        )
    return {"USD": plain(total, places=2), "Region": where, "PriceDate": max(one["PriceDate"] for one in lines)} | {
        "Lines": lines
    }


def serverless_rows(found: dict[str, Any]) -> list[tuple[str, str]]:
    """The state as a person reads it."""
    used, aws = found["GBSeconds"], found["AWSCost"]
    parts = [
        f"{name.replace('_', ' ')} {value:.1f}"
        for name, value in found["ColdMillisecondsByPart"].items()
        if value is not None
    ]
    without_load = found["ColdStartsWithoutLoad"]
    starting = f", {found['Starting']} starting" if found["Starting"] else ""
    kept = {"provisioned": "on provisioned workers", "kept": "for keeping workers warm"}
    more = "".join(f", {used[kind]:,.3f} {words}" for kind, words in kept.items() if used[kind])
    lines = [
        ("memory", f"{found['MemorySizeInMB']:,} MB"),
        ("concurrency", f"up to {found['MaxConcurrency']}, {found['ProvisionedConcurrency']} provisioned"),
        ("workers now", f"{found['Workers']}, {found['Busy']} busy{starting}"),
        ("idle", f"after {found['IdleSeconds']:g} s; {_left(found)}"),
        ("cold starts", f"{found['ColdStarts']}, {without_load} of them without loading the model"),
        ("cold latency", _milliseconds(found["ColdMilliseconds"]) + (f" ({', '.join(parts)})" if parts else "")),
        ("warm latency", _milliseconds(found["WarmMilliseconds"])),
        ("invocations", f"{found['Invocations']:,}, {found['Throttled']:,} throttled"),
        ("failure", found["Failure"]),
        ("billed", f"{used['processing']:,.3f} GB-seconds{more}"),
        ("on AWS", f"{aws['USD']} USD in {aws['Region']}, by prices of {aws['PriceDate']}"),
    ]
    return [(label, cell(value)) for label, value in lines if value is not None]


def _left(found: dict[str, Any]) -> str:
    left = found["IdleSecondsLeft"]
    return "none waits to go" if left is None else f"the last one goes in {left:.0f} s"


def _milliseconds(value: float | None) -> str:
    return "not yet measured" if value is None else f"{value:.1f} ms, median of the newest"
