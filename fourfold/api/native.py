"""Native routes: what the SageMaker API has no operation for. `GET /fourfold/endpoints/{name}/logs` and its like."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from pathlib import Path

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from fourfold.config import Settings
from fourfold.errors import ValidationException

Handler = Callable[[Request], Awaitable[Response]]

MOST_LOG_BYTES = 1024 * 1024
"""The most of one worker's log that one request gets, from its end."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,62}")


def endpoint_routes(settings: Settings) -> dict[str, Handler]:
    """`GET /fourfold/endpoints/{name}/logs?tail=N`: the last N lines (200) of each worker, newest worker last."""

    async def logs(request: Request) -> Response:
        _, _, name, what = (*request.url.path.strip("/").split("/"), "", "")[:4]
        if what != "logs" or not _NAME.fullmatch(name):
            raise ValidationException("The native route of endpoints is /fourfold/endpoints/{name}/logs.")
        tail = request.query_params.get("tail", "200")
        if not tail.isdigit():
            raise ValidationException(f"tail must be a number of lines, not {tail!r}.")
        folder = settings.logs / "endpoints" / name
        return PlainTextResponse(await asyncio.to_thread(_tail_all, folder, int(tail)))

    return {"GET endpoints": logs}


def _tail_all(folder: Path, lines: int) -> str:
    found = sorted(folder.glob("*/*.log"), key=lambda path: path.stat().st_mtime)
    return "\n".join(f"==> {path.parent.name}/{path.stem} <==\n{_tail(path, lines)}" for path in found)


def _tail(path: Path, lines: int) -> str:
    with path.open("rb") as log:
        size = log.seek(0, 2)
        log.seek(max(0, size - MOST_LOG_BYTES))
        text = log.read().decode("utf-8", "replace")
    return "".join(text.splitlines(keepends=True)[-lines:])
