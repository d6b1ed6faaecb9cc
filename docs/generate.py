"""Writes the pages of docs/reference that the code itself knows best; `--check` says which are out of date.

    python docs/generate.py            # or: make docs
    python docs/generate.py --check    # in: make check

Each page is a function without arguments that returns its Markdown, listed in `PAGES`.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import typer

from fourfold import config
from fourfold.advisor import usage
from fourfold.advisor.drawing import draw_tree
from fourfold.advisor.limits import limits
from fourfold.advisor.prices import shipped
from fourfold.api import compatibility, s3
from fourfold.api.contract import Contract
from fourfold.api.protocol import Operation
from fourfold.cli import app
from fourfold.config import Limits, Settings

REFERENCE = Path(__file__).parent / "reference"
MADE = "<!-- Made by docs/generate.py from the code: change that. -->"

FLAGS = {
    "data_dir": "--data-dir",
    "host": "--host",
    "port": "--port",
    "log_level": "--log-level",
    "grace_seconds": "--grace",
    "trusted_only": "--trusted-only",
    "public_url": "--public-url",
    "sqs_endpoint": "--sqs-endpoint",
    "partition": "--account",
    "payload_bytes": "--max-payload",
    "max_backlog": "--max-backlog",
    "async_retention_seconds": "--async-retention",
    "metrics_seconds": "--metrics-seconds",
    "capture_seconds": "--capture-seconds",
    "warm_workers": "--warm-workers",
}
"""The option of `fourfold serve` that sets a field."""


def main() -> None:
    """Write the pages, or with --check exit with 1 where one differs from what would be written."""
    stale = [name for name, page in PAGES.items() if _differs(REFERENCE / name, page())]
    if "--check" not in sys.argv[1:]:
        for name in stale:
            (REFERENCE / name).write_text(PAGES[name]())
            print(f"wrote docs/reference/{name}")
    elif stale:
        sys.exit(f"out of date: {', '.join(f'docs/reference/{name}' for name in stale)}. Run: make docs")


def commands() -> str:
    """The command line: every command with its arguments and options."""
    root = typer.main.get_command(app)
    parts = [MADE, "# Command line", _paragraphs(root.help), _EXIT]
    for path, command in _walk(root, ["fourfold"]):
        usage = [*path, "[OPTIONS]", *(_metavar(one) for one in command.params if _is_argument(one))]
        parts += [f"## {' '.join(path)}", f"```text\n{' '.join(usage)}\n```", _paragraphs(command.help)]
        rows = [_parameter(one) for one in command.params if one.name != "help"]
        if rows:
            parts.append(_table(("", "default", "meaning"), rows))
    return "\n\n".join(parts) + "\n"


_EXIT = (
    "A command that fails prints one line on standard error and exits with 1; a wrong command line exits with 2. "
    "Commands other than `serve`, `env` and `keys` call the server at `AWS_ENDPOINT_URL`, with the keys of the "
    "environment or else of the data folder."
)


def settings() -> str:
    """The server's settings: each field of Settings and Limits."""
    parts = [MADE, "# Settings", _SETTINGS]
    for group, heading in ((Settings, "Server"), (Limits, "Limits")):
        meanings = _meanings(group)
        rows = [
            (f"`{field.name}`", _flag(field.name), _default(field), meanings.get(field.name) or _help(field.name))
            for field in dataclasses.fields(group)
            if field.name != "limits"
        ]
        parts += [f"## {heading}", _table(("setting", "option of `serve`", "default", "meaning"), rows)]
    return "\n\n".join(parts) + "\n"


_SETTINGS = (
    "`fourfold serve` fills them from its options; a program that starts the server itself passes "
    "`fourfold.config.Settings`. The region is `AWS_DEFAULT_REGION`, or us-east-1."
)


def prices() -> str:
    """What a usage may hold, and every price of the table with its source."""
    rows = [(f"`{member}`", _listed(sorted(types, key=usage.TYPES.index))) for member, types in usage.NUMBERS.items()]
    services = [(f"`{member}`", shipped().find(key)[0].item) for member, key in usage.SERVICES.items()]
    single = {m: text for m, text in usage.OVERRIDES.items() if not m.startswith("usd_per_million_")}
    overrides = [(f"`{member}`", text) for member, text in single.items()]
    overrides.append(("`usd_per_million_` and a member above", "a million of it, where it is charged by number"))
    free = [
        (f"`{a.key}`", f"{a.quantity:,f}", " ".join(sorted(a.instance_types)), f"<{a.source.split(';')[0]}>")
        for a in shipped().allowances
    ]
    parts = [MADE, "# Prices", _PRICES, "## Members of a usage"]
    parts += [_USAGE, _table(("member", "of type"), rows), _table(("member, of any type", "what it counts"), services)]
    parts += ["`price_overrides` holds:", _table(("member", "replaces the price of"), overrides)]
    parts += ["## Free amounts", _FREE, _table(("price", "a month", "instance types", "source"), free)]
    parts += ["## The table", *_price_tables()]
    return "\n\n".join(parts) + "\n"


def _price_tables() -> Iterator[str]:
    """Instances by region, then everything else; sources are numbered."""
    table = shipped().every()
    sources = list(dict.fromkeys(price.cited for price in table))
    for region in shipped().regions:
        hourly = {(p.key, p.instance_type): p for p in table if p.region == region and p.instance_type}
        rows = []
        for name in dict.fromkeys(name for _, name in hourly):
            size = shipped().size(name)
            both = [hourly.get((key, name)) for key in ("hosting", "batch")]
            cells = [f"{p.usd} ({sources.index(p.cited) + 1})" if p else "" for p in both]
            rows.append((f"`{name}`", f"{size.vcpu}", f"{size.memory_gib:g}", f"{size.gpus or ''}", *cells))
        yield f"### Instances in {region}, USD an hour"
        yield _table(("type", "vCPU", "GiB", "GPUs", "endpoint", "batch transform"), rows)
    yield "### Everything else"
    rows = [
        (
            f"`{p.key}`", p.item + (f", above {p.above:,f}" if p.above else ""), p.region,
            f"{p.usd} a {p.unit}" if p.per == 1 else f"{p.usd} for {p.per:,f} {p.unit}s",
            f"({sources.index(p.cited) + 1})",
        )
        for p in table
        if not p.instance_type
    ]  # fmt: skip
    yield _table(("price", "of", "region", "USD", "source"), rows)
    yield "### Sources"
    yield "\n".join(f"{number}. {source}" for number, source in enumerate(sources, 1))


def _listed(words: Iterable[str]) -> str:
    return ", ".join(words)


_PRICES = (
    "The figures that `fourfold cost` and `fourfold advise` reckon with. They are read from public documents at the "
    "dates given, not from your bill: check them before you decide on money. Where two sources disagree on a price, "
    "the one that read it from the AWS price list, or the newest of those, is taken: a worked example on the AWS "
    "pricing page has 0.02 USD for a GB of data processed, the price list and a bill have 0.016, which is used. Lay "
    "prices of your own over the table with `--prices FILE` ([how](../how-to/price-a-workload.md))."
)
_USAGE = (
    "`type` is needed and is one of `real-time`, `asynchronous`, `batch`, `serverless`, `supporting`; `name` is "
    "free text, `region` us-east-1 unless said otherwise, `instance_type` for the first three types, `fifo` and "
    "`free_tier` are true or false (false). Instance-hours are `hours` × `instance_count`, or `hours_per_day` × "
    "`days` × `instance_count`, or `items` × `seconds_per_item` / (`instance_count` × `concurrency`) on each "
    "instance; `startup_minutes` are added for each instance, and all of it is multiplied by `runs_per_month`. "
    "Counts default to 1. `message_kb` splits SQS messages and SNS publishes of standard topics into requests of 64 "
    "KB; a FIFO topic is charged by publish and by GB."
)
_FREE = (
    "With `free_tier: true` these amounts cost nothing. They are an account's, so usages in one file share them, "
    "the dearest first. Those of real-time and serverless inference hold for an account's first two months. Without "
    "it (the default) everything is charged from the first unit."
)


def decision_tree() -> str:
    """How the advisor decides, and the limits that it decides by."""
    rows = [(one.type, one.limit, f"{one.value} {one.unit}".strip(), one.source, one.source_date) for one in limits()]
    parts = [
        MADE,
        "# Decision tree",
        _DECISION_TREE,
        f"```mermaid\n{draw_tree('mermaid')}\n```",
        "The same as text:",
        f"```text\n{draw_tree('text')}\n```",
        "## Limits",
        _LIMITS,
        _table(("mode", "limit", "value", "source", "as of"), rows),
    ]
    return "\n\n".join(parts) + "\n"


_DECISION_TREE = (
    "`fourfold advise` walks this tree from the top. The same object is printed by `fourfold advise --tree "
    "[text|mermaid|svg]` and asked question by question by `fourfold advise -i`. Where a rate is known but nothing is "
    "said of its shape, and both a real-time and a serverless endpoint would do, the cheaper one is taken."
)
_LIMITS = "What AWS documents of each mode; the advisor's reasons quote these rows."


def compatible() -> str:
    """Which operations of AWS's API are here, and what becomes of each member."""
    services = {
        compatibility.RUNTIME: {name: Operation(name) for name in compatibility.runtime_operations()},
        **compatibility.implemented(),
        "s3": {name: Operation(name) for name in sorted(s3.OPERATIONS)},
    }
    order = sorted(services, key=lambda name: (not name.startswith("sagemaker"), name))
    parts = [MADE, "# Compatibility", _COMPATIBILITY]
    rows = [(f"[`{name}`](#{name})", f"{len(services[name])}", f"{len(_all_of(name))}") for name in order]
    parts.append(_table(("service", "operations here", "in AWS's model"), rows))
    for service in order:
        parts += [f"## {service}", *_operations(service, services[service])]
    return "\n\n".join(parts) + "\n"


_COMPATIBILITY = (
    "Requests are parsed and checked against botocore's own service models, so every member of these operations is "
    "accepted in the form that AWS accepts. What becomes of it: *works*: it has AWS's meaning. *Kept*: it is checked, "
    "stored and returned by Describe, and has no other effect, because nothing here stands for it (a VPC, a role, a "
    "KMS key). *Refused*: it is answered with an error that says why. Members of a kept structure are kept. An "
    "operation that is not listed answers `UnknownOperationException` and names itself."
)


def _all_of(service: str) -> list[str]:
    return list(Contract(service).model.operation_names)


def _operations(service: str, operations: dict[str, Operation]) -> Iterator[str]:
    """A table of a service's operations. S3's are told by their names alone."""
    if service == "s3":
        yield ", ".join(f"`{name}`" for name in operations)
        return
    contract = Contract(service)
    rows = []
    for name, operation in operations.items():
        members = compatibility.members(contract.operation(name), operation)
        by_status = (
            ", ".join(f"`{one.path}`" for one in members if one.status == status)
            for status in ("works", "kept", "refused")
        )
        rows.append((f"`{name}`", *by_status))
    yield _table(("operation", "works", "kept", "refused"), rows)


PAGES: dict[str, Callable[[], str]] = {
    "cli.md": commands,
    "compatibility.md": compatible,
    "decision-tree.md": decision_tree,
    "prices.md": prices,
    "settings.md": settings,
}


def _walk(command: Any, path: list[str]) -> Iterator[tuple[list[str], Any]]:
    """Each command that can be run, groups resolved, in the order of --help."""
    for name, child in getattr(command, "commands", {}).items():
        if hasattr(child, "commands"):
            yield from _walk(child, [*path, name])
        else:
            yield [*path, name], child


def _parameter(parameter: Any) -> tuple[str, str, str]:
    if _is_argument(parameter):
        shown = _metavar(parameter)
    else:
        value = "" if parameter.is_flag else f" {_metavar(parameter)}"
        shown = ", ".join([*parameter.opts, *parameter.secondary_opts]) + value
    return f"`{shown}`".replace("|", "\\|"), _shown_default(parameter), _with_variable(parameter)


def _is_argument(parameter: Any) -> bool:
    return str(parameter.param_type_name) == "argument"


def _metavar(parameter: Any) -> str:
    return str(parameter.metavar or parameter.name.upper())


def _shown_default(parameter: Any) -> str:
    if parameter.required:
        return "needed"
    if parameter.default in (None, False, []):
        return ""
    return f"`{parameter.opts[0] if parameter.default is True else parameter.default}`"


def _with_variable(parameter: Any) -> str:
    variable = f" Environment: `{parameter.envvar}`." if parameter.envvar else ""
    return f"{parameter.help or ''}{variable}"


def _paragraphs(text: str | None) -> str:
    return inspect.cleandoc(text or "")


def _flag(field: str) -> str:
    return f"`{FLAGS[field]}`" if field in FLAGS else ""


def _help(field: str) -> str:
    """What `serve --help` says about a field that its own line in the code says nothing about."""
    serve = typer.main.get_command(app).commands["serve"]  # type: ignore[attr-defined]
    return next((one.help for one in serve.params if FLAGS.get(field) in one.opts), "")


def _default(field: dataclasses.Field[Any]) -> str:
    value = field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default
    if field.name == "partition":
        return f"`{value.region}`, `{value.account}`"
    return f"`{value:,}`" if isinstance(value, int) and not isinstance(value, bool) and value > 9999 else f"`{value}`"


def _meanings(group: type) -> dict[str, str]:
    """The line under each field, by the field's name."""
    tree = next(one for one in ast.parse(inspect.getsource(config)).body if getattr(one, "name", "") == group.__name__)
    body = getattr(tree, "body", [])
    return {
        field.target.id: " ".join(note.value.value.split())
        for field, note in pairwise(body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(note, ast.Expr)
        and isinstance(note.value, ast.Constant)
        and isinstance(note.value.value, str)
    }


def _table(headings: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    headings = list(headings)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (headings, ["---"] * len(headings), *rows))


def _differs(path: Path, text: str) -> bool:
    return not path.exists() or path.read_text() != text


if __name__ == "__main__":
    main()
