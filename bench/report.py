"""Turns the records of `realtime.py` into its section of docs/reference/performance.md, and a text for the terminal.

The page has one section per benchmark, between `<!-- NAME -->` and `<!-- /NAME -->`; `write_section` replaces one and
leaves the others, so that each benchmark writes its own.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from servers import SERVERS

PAGE = Path(__file__).parent.parent / "docs" / "reference" / "performance.md"
EARLIER = Path(__file__).parent / "earlier.md"
Record = dict[str, Any]


def text(records: list[Record]) -> str:
    """Medians and how many times Fourfold's they are, one line a stretch."""
    lines = []
    for model, kind, connections in _stretches(records):
        own = _median(records, "fourfold", model, kind, connections, "per_second")
        for server in _servers(records):
            rate = _median(records, server, model, kind, connections, "per_second")
            if rate is None:
                continue
            times = f"fourfold is {own / rate:5.2f}x" if own and server != "fourfold" else ""
            p50, p99 = (_median(records, server, model, kind, connections, which) for which in ("p50_ms", "p99_ms"))
            stretch = f"{model:6}{kind:8}c={connections:<4}{server:17}"
            lines.append(f"{stretch}{rate:9,.0f}/s  p50 {p50:7.2f}  p99 {p99:7.2f} ms  {times}")
    for record in (one for one in records if one["kind"] == "process"):
        more = "".join(f"  {name} {record[name]:.2f} s" for name in ("ready", "in service") if name in record)
        memory = f"RSS {record['rss_mb']:.0f} MB  PSS {record['pss_mb']:.0f} MB"
        lines.append(
            f"{record['model']:6}{record['server']:17}first answer {record['start_seconds']:.2f} s{more}  {memory}"
        )
    return "\n".join(lines)


def write(run: dict[str, Any]) -> None:
    """Write the section `realtime` from a complete run."""
    records, about, versions = run["records"], run["about"], run["versions"]
    parts = [
        f"Measured on {about['date']}: {about['machine']}, Python {about['python']}. Load: {about['generator']}, "
        f"closed loop, keep-alive, {about['seconds']:g} s a stretch, on the same cores as the servers. Medians of "
        f"{about['rounds']} rounds in which the servers took turns, least and most in brackets. One row a request, one "
        "worker, ONNX Runtime with one thread everywhere.",
        "### `fraud`: 100 boosted trees, 30 floats, JSON: successful requests/s",
        _rates(records, "fraud", "json"),
        "### How many times each server's rate Fourfold's is",
        _ratios(records, "fraud", "json"),
        "### Latency in ms",
        _latencies(records, "fraud"),
        "### `mlp`: 784-512-512-10, 6 kB JSON, 3 kB NPY: successful requests/s",
        _rates(records, "mlp", "json"),
        _rates(records, "mlp", "npy"),
        "### Start and memory, `fraud`",
        _processes(records),
        "RSS counts shared pages once a process, PSS once. "
        f"Fourfold says `ready` after {_note(records, 'ready')} s; an endpoint answers "
        f"{_note(records, 'in service')} s after CreateEndpoint returned.",
        "### What a signature costs",
        _signatures(records),
        "### Versions and settings",
        table(
            ("server", "versions", "settings"),
            [(SERVERS[name].title, found, SERVERS[name].settings) for name, found in versions.items()],
        ),
    ]
    write_section("realtime", "\n\n".join(parts) + "\n\n" + EARLIER.read_text().strip())


def write_section(name: str, markdown: str) -> None:
    """Replace what stands between the section's marks on the page. Raises ValueError where there are none."""
    page = PAGE.read_text()
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    replaced, count = re.subn(
        f"{re.escape(begin)}.*?{re.escape(end)}",
        lambda _: f"{begin}\n\n{markdown.strip()}\n\n{end}",
        page,
        flags=re.DOTALL,
    )
    if not count:
        raise ValueError(f"{PAGE} has no section {begin} … {end}")
    PAGE.write_text(replaced)


def _rates(records: list[Record], model: str, kind: str) -> str:
    def show(server: str, connections: int) -> str:
        return _spread(_values(records, server, model, kind, connections, "per_second"), "{:,.0f}")

    return _by_connections(records, model, kind, show)


def _ratios(records: list[Record], model: str, kind: str) -> str:
    def show(server: str, connections: int) -> str:
        own = _median(records, "fourfold", model, kind, connections, "per_second")
        other = _median(records, server, model, kind, connections, "per_second")
        return f"{own / other:.2f}" if own and other else "–"

    return _by_connections(records, model, kind, show)


def _latencies(records: list[Record], model: str) -> str:
    def show(server: str, connections: int) -> str:
        p50 = _median(records, server, model, "json", connections, "p50_ms")
        p99 = _median(records, server, model, "json", connections, "p99_ms")
        return "–" if p50 is None or p99 is None else f"p50 {p50:.2f}, p99 {p99:.2f}"

    return _by_connections(records, model, "json", show)


def _by_connections(records: list[Record], model: str, kind: str, show: Callable[[str, int], str]) -> str:
    columns = sorted({c for m, k, c in _stretches(records) if (m, k) == (model, kind)})
    servers = [
        name for name in _servers(records) if any(_values(records, name, model, kind, c, "p50_ms") for c in columns)
    ]
    unit = ("connection", "connections")
    headings = ["server" if kind == "json" else f"server ({kind})", *(f"{c} {unit[c > 1]}" for c in columns)]
    return table(headings, [(SERVERS[name].title, *(show(name, c) for c in columns)) for name in servers])


def _processes(records: list[Record]) -> str:
    def spread(server: str, field: str, form: str) -> str:
        found = [one[field] for one in records if one["kind"] == "process" and one["server"] == server]
        return _spread(found, form)

    return table(
        ("server", "first answer after, s", "RSS, MB", "PSS, MB"),
        [
            (SERVERS[name].title, spread(name, "start_seconds", "{:.2f}"), spread(name, "rss_mb", "{:.0f}"),
             spread(name, "pss_mb", "{:.0f}"))
            for name in _servers(records)
        ],
    )  # fmt: skip


def _signatures(records: list[Record]) -> str:
    titles = {"bearer": "bearer token", "sigv4": "SigV4"}
    rows = []
    for kind, title in titles.items():
        rate = _spread(_values(records, "fourfold", "fraud", kind, 64, "per_second"), "{:,.0f}")
        rows.append((title, rate, _spread(_values(records, "fourfold", "fraud", kind, 64, "p99_ms"), "{:.2f}")))
    return table(("credentials, 1,000 distinct rows, 64 connections", "successful requests/s", "p99, ms"), rows)


def _note(records: list[Record], name: str) -> str:
    return _spread([one[name] for one in records if name in one and one["model"] == "fraud"], "{:.2f}")


def _values(records: list[Record], server: str, model: str, kind: str, connections: int, field: str) -> list[float]:
    wanted = (server, model, kind, connections)
    return [
        one[field] for one in records if (one["server"], one["model"], one["kind"], one.get("connections")) == wanted
    ]


def _median(records: list[Record], server: str, model: str, kind: str, connections: int, field: str) -> float | None:
    values = _values(records, server, model, kind, connections, field)
    return statistics.median(values) if values else None


def _spread(values: list[float], form: str) -> str:
    if not values:
        return "–"
    middle = form.format(statistics.median(values))
    return middle if len(values) == 1 else f"{middle} ({form.format(min(values))}–{form.format(max(values))})"


def _stretches(records: list[Record]) -> list[tuple[str, str, int]]:
    return list(
        dict.fromkeys((one["model"], one["kind"], one["connections"]) for one in records if one["kind"] != "process")
    )


def _servers(records: list[Record]) -> list[str]:
    return list(dict.fromkeys(one["server"] for one in records))


def table(headings: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table whose columns but the first are numbers."""
    headings = list(headings)
    lines = [headings, ["---"] + ["---:"] * (len(headings) - 1), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
