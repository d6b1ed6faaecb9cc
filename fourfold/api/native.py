"""Native routes: what the SageMaker API has no operation for.

GET /fourfold/endpoints/{name}            workers now; of serverless variants also cold starts and usage
GET /fourfold/endpoints/{name}/logs       what the workers printed
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from fourfold.config import Settings
from fourfold.errors import ValidationException
from fourfold.pool.coldstarts import median_ms
from fourfold.pool.elastic import ElasticFleet
from fourfold.pool.fleet import Fleet
from fourfold.pool.routes import Routes, Variant

Handler = Callable[[Request], Awaitable[Response]]

MOST_LOG_BYTES = 1024 * 1024
"""The most of one worker's log that one request gets, from its end."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,62}")


def endpoint_routes(settings: Settings, routes: Routes) -> dict[str, Handler]:
    """Routes below /fourfold/endpoints/. `logs?tail=N`: the last N lines (200) of each worker, newest worker last."""

    async def endpoint(request: Request) -> Response:
        name, what = (*parts(request), "", "")[:2]
        if what not in ("", "logs") or not _NAME.fullmatch(name):
            raise ValidationException(
                "The native routes of endpoints are /fourfold/endpoints/{name} and /fourfold/endpoints/{name}/logs."
            )
        return await logs(request, name) if what else JSONResponse(_state(routes, name))

    async def logs(request: Request, name: str) -> Response:
        tail = request.query_params.get("tail", "200")
        if not tail.isdigit():
            raise ValidationException(f"tail must be a number of lines, not {tail!r}.")
        folder = settings.logs / "endpoints" / name
        return PlainTextResponse(await asyncio.to_thread(_tail_all, folder, int(tail)))

    return {"GET endpoints": endpoint}


def parts(request: Request) -> list[str]:
    """What follows /fourfold/KIND/ in a path, part by part; a name may hold encoded slashes."""
    raw: bytes = request.scope["raw_path"]
    return [unquote(part) for part in raw.decode("ascii", "replace").split("/")[3:] if part]


def _state(routes: Routes, name: str) -> dict[str, Any]:
    route = routes.get(name.encode())
    if route is None:
        raise ValidationException(f"Endpoint {name} is not in service.")
    return {"EndpointName": name, "Kind": route.kind, "Variants": [_variant_state(one) for one in route.variants]}


def _variant_state(variant: Variant) -> dict[str, Any]:
    fleet = variant.backend
    state: dict[str, Any] = {"VariantName": variant.name}
    if isinstance(fleet, Fleet | ElasticFleet):
        state |= {"Workers": len(fleet.ready), "Waiting": len(fleet.batcher)}
    if isinstance(fleet, ElasticFleet):
        state["Serverless"] = _serverless_state(fleet)
    return state


def _serverless_state(fleet: ElasticFleet) -> dict[str, Any]:
    starts, bounds = fleet.cold_starts, fleet.elasticity
    left = fleet.idle_seconds_left()
    newest = [start.parts() for start in starts.newest]
    parts = {part: median_ms(one[part] for one in newest) for part in starts.sums.parts()}
    return {
        "MemorySizeInMB": bounds.memory_mb,
        "MaxConcurrency": bounds.max_concurrency,
        "ProvisionedConcurrency": bounds.provisioned,
        "IdleSeconds": bounds.idle_seconds,
        "IdleSecondsLeft": None if left is None else round(left, 3),
        "Workers": len(fleet.ready),
        "Busy": fleet.busy,
        "Starting": fleet.starting,
        "Throttled": fleet.batcher.rejected,
        "ColdStarts": starts.count,
        "ColdStartsWithoutLoad": starts.from_template,
        "ColdMilliseconds": median_ms(start.total for start in starts.newest),
        "ColdMillisecondsByPart": parts,
        "WarmMilliseconds": median_ms(fleet.warm_seconds),
        "Failure": None if fleet.failure is None else fleet.failure.message,
        "Invocations": fleet.used.calls,
        "GBSeconds": {kind: round(value, 6) for kind, value in fleet.used.gb_seconds.items()},
    }


def _tail_all(folder: Path, lines: int) -> str:
    found = sorted(folder.rglob("*.log"), key=lambda path: path.stat().st_mtime)
    return "\n".join(f"==> {path.relative_to(folder).with_suffix('')} <==\n{_tail(path, lines)}" for path in found)


def _tail(path: Path, lines: int) -> str:
    with path.open("rb") as log:
        size = log.seek(0, 2)
        log.seek(max(0, size - MOST_LOG_BYTES))
        text = log.read().decode("utf-8", "replace")
    return "".join(text.splitlines(keepends=True)[-lines:])
