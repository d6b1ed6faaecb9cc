"""`fourfold profile`: how fast, how large and how quick to start a model is on this machine. Needs no server."""

from __future__ import annotations

import mimetypes
from pathlib import Path
from typing import Annotated

import typer

from fourfold.cli import app
from fourfold.cli.files import CONTENT_TYPES
from fourfold.cli.output import print_json, print_table, progress


@app.command(rich_help_panel="Advisor")
def profile(
    model: Annotated[Path, typer.Argument(help="A file, a folder or a model.tar.gz.")],
    request: Annotated[Path | None, typer.Option(help="Body of one request. Default: made from the inputs.")] = None,
    content_type: Annotated[str | None, typer.Option(help="Of --request; by default from its suffix.")] = None,
    seconds: Annotated[float, typer.Option(help="How long each batch size is measured.", min=0.0)] = 1.0,
    threads: Annotated[int, typer.Option(help="Threads of the framework in one worker.", min=1)] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure a model: time by batch size, memory, cold start. The figures to give to `fourfold advise`."""
    import asyncio

    from fourfold.advisor import profile as measuring

    sent = None
    if request is not None:
        guess = CONTENT_TYPES.get(request.suffix) or mimetypes.guess_type(request.name)[0]
        sent = (request.read_bytes(), content_type or guess or "application/octet-stream")
    with progress(f"measuring {model.name}"):
        found = asyncio.run(measuring.profile(model, sent, seconds, threads))
    if as_json:
        print_json(found.plain())
        return
    rows = [
        (size, f"{took * 1000:.2f} ms", f"{took / size * 1000:.3f} ms", f"{size / took:,.0f}")
        for size, took in found.service_s.items()
    ]
    print_table(("batch", "time", "each", "requests/s"), rows)
    memory = "unknown" if found.memory_mb is None else f"{found.memory_mb:,.0f} MB"
    print(f"cold start {found.cold_start_s * 1000:.0f} ms, memory {memory}, format {found.format}")
    flags = " ".join(f"--{m.replace('_', '-')} {v:.3g}" for m, v in found.plain()["scenario"].items())
    print(f"fourfold advise {flags}")
