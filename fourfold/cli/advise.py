"""`fourfold advise`: which mode, which configuration, what cost, and why the others lost. Needs no server."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from fourfold.cli import app
from fourfold.errors import FourfoldError, ValidationException

if TYPE_CHECKING:
    from fourfold.advisor.advise import Advice
    from fourfold.advisor.load import Entry
    from fourfold.advisor.prices import Prices
    from fourfold.advisor.scenario import Scenario

FIGURES = "Figures"
OUTPUT = "Output"
BAD_INPUT = 2
"""Exit code for input that cannot be used."""


class OptionalTree(TyperCommand):
    """Lets `--tree` stand alone for `--tree text`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        drawn = []
        for index, argument in enumerate(args):
            alone = argument == "--tree" and "".join(args[index + 1 : index + 2])[:1] in ("", "-")
            drawn.append("--tree=text" if alone else argument)
        return super().parse_args(ctx, drawn)


@app.command(rich_help_panel="Advisor", cls=OptionalTree)
def advise(
    text: Annotated[str | None, typer.Option(help="The scenario in English sentences.")] = None,
    file: Annotated[Path | None, typer.Option(help="Scenarios: .yaml, .json or .jsonl (one a line).")] = None,
    interactive: Annotated[bool, typer.Option("-i", "--interactive", help="Ask the tree's questions.")] = False,
    tree: Annotated[str | None, typer.Option(help="Print the decision tree: text, mermaid or svg.")] = None,
    latency_p99_ms: Annotated[
        float | None, typer.Option(rich_help_panel=FIGURES, help="99 of 100 answers within.")
    ] = None,
    payload_mb: Annotated[float | None, typer.Option(rich_help_panel=FIGURES, help="Size of a request.")] = None,
    response_mb: Annotated[float | None, typer.Option(rich_help_panel=FIGURES, help="Size of an answer.")] = None,
    processing_s: Annotated[
        float | None, typer.Option(rich_help_panel=FIGURES, help="Model time for one request.")
    ] = None,
    requests_per_day: Annotated[float | None, typer.Option(rich_help_panel=FIGURES, help="On average.")] = None,
    peak_rps: Annotated[
        float | None, typer.Option(rich_help_panel=FIGURES, help="Requests a second at the peak.")
    ] = None,
    pattern: Annotated[
        str | None, typer.Option(rich_help_panel=FIGURES, help="steady, diurnal, spiky, intermittent or scheduled.")
    ] = None,
    active_hours: Annotated[
        float | None, typer.Option(rich_help_panel=FIGURES, help="Hours a day with traffic.")
    ] = None,
    rows: Annotated[float | None, typer.Option(rich_help_panel=FIGURES, help="Records of a stored data set.")] = None,
    dataset_gb: Annotated[
        float | None, typer.Option(rich_help_panel=FIGURES, help="Size of a stored data set.")
    ] = None,
    runs_per_month: Annotated[float | None, typer.Option(rich_help_panel=FIGURES, help="How often it is run.")] = None,
    deadline: Annotated[
        str | None, typer.Option(rich_help_panel=FIGURES, help="Results within: 90s, 30m, 4h, 2d, or seconds.")
    ] = None,
    gpu: Annotated[
        bool | None, typer.Option("--gpu/--no-gpu", rich_help_panel=FIGURES, help="The model needs one.")
    ] = None,
    memory_gb: Annotated[
        float | None, typer.Option(rich_help_panel=FIGURES, help="Memory of the loaded model.")
    ] = None,
    stream: Annotated[
        bool | None, typer.Option("--stream/--no-stream", rich_help_panel=FIGURES, help="Answers arrive part by part.")
    ] = None,
    tolerates_cold_start: Annotated[
        bool | None,
        typer.Option(
            "--tolerates-cold-start/--no-cold-start", rich_help_panel=FIGURES, help="A first answer may take seconds."
        ),
    ] = None,
    budget: Annotated[float | None, typer.Option(rich_help_panel=FIGURES, help="US dollars a month.")] = None,
    region: Annotated[str | None, typer.Option(rich_help_panel=FIGURES, help="Default: us-east-1.")] = None,
    trace: Annotated[
        Path | None, typer.Option(rich_help_panel=FIGURES, help="CSV of arrival times in seconds.")
    ] = None,
    prices: Annotated[
        Path | None, typer.Option(rich_help_panel=FIGURES, help="Prices or machines of your own.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", rich_help_panel=OUTPUT, help="Print JSON, one object a scenario.")
    ] = False,
    export: Annotated[
        str | None, typer.Option(rich_help_panel=OUTPUT, help="cloudformation, boto3, terraform or diagram.")
    ] = None,
    out: Annotated[Path | None, typer.Option(rich_help_panel=OUTPUT, help="Folder for --export.")] = None,
    report: Annotated[
        Path | None, typer.Option(rich_help_panel=OUTPUT, help="Write one self-contained HTML page.")
    ] = None,
    plan_out: Annotated[
        Path | None, typer.Option(rich_help_panel=OUTPUT, help="Write the plan for fourfold verify.")
    ] = None,
) -> None:
    """Say which of the four modes fits, with its configuration, cost and latency, and why the others lost."""
    members: dict[str, Any] = {
        "latency_p99_ms": latency_p99_ms, "payload_mb": payload_mb, "response_mb": response_mb,
        "processing_s": processing_s, "requests_per_day": requests_per_day, "peak_requests_per_second": peak_rps,
        "pattern": pattern, "active_hours_per_day": active_hours, "rows": rows, "dataset_gb": dataset_gb,
        "runs_per_month": runs_per_month, "gpu": gpu, "memory_gb": memory_gb, "stream": stream,
        "tolerates_cold_start": tolerates_cold_start, "budget_usd": budget, "region": region,
    }  # fmt: skip
    try:
        if tree is not None:
            from fourfold.advisor.drawing import draw_tree

            print(draw_tree(tree))
            return
        members |= {"deadline_s": _seconds(deadline), "trace": _trace(trace)}
        _run(
            {k: v for k, v in members.items() if v is not None},
            text, file, interactive, prices, as_json, Outputs(export, out, report, plan_out),
        )  # fmt: skip
    except FourfoldError as error:
        print(f"fourfold advise: {error.message}", file=sys.stderr)
        raise typer.Exit(BAD_INPUT) from None


@dataclass(frozen=True)
class Outputs:
    """Files to write beside the answer."""

    export: str | None
    out: Path | None
    report: Path | None
    plan: Path | None

    def __bool__(self) -> bool:
        return any((self.export, self.report, self.plan))


def _run(
    members: dict[str, Any],
    text: str | None,
    file: Path | None,
    interactive: bool,
    prices: Path | None,
    as_json: bool,
    outputs: Outputs,
) -> None:
    from fourfold.advisor.prices import shipped

    table = shipped().over(prices) if prices else shipped()
    if outputs.export and not outputs.out:
        raise ValidationException("out: --export needs a folder to write to; add --out DIR")
    if outputs.out and not outputs.export:
        raise ValidationException("out: is the folder of an export; say of which kind, with --export cloudformation")
    if file is None:
        advice = _advise(_scenario(members, text, interactive), table)
        _write(advice, outputs, table)
        _print(advice, as_json)
        return
    if text is not None or interactive:
        member, other = ("text", "--text") if text is not None else ("file", "-i")
        raise ValidationException(f"{member}: give either {other} or --file, not both")
    _run_file(file, members, table, as_json, outputs)


def _scenario(members: dict[str, Any], text: str | None, interactive: bool) -> Scenario:
    from fourfold.advisor.load import from_members
    from fourfold.advisor.scenario import Scenario

    if text is not None:
        members = {"text": text, **members}
    if interactive:
        return _walk(from_members(members, "flag") if members else Scenario())
    if not members:
        raise ValidationException(
            "scenario: nothing was given; use --text, --file, -i, or figures such as --payload-mb 2"
        )
    return from_members(members, "flag")


def _run_file(file: Path, members: dict[str, Any], table: Prices, as_json: bool, outputs: Outputs) -> None:
    """One answer a scenario, in order. A bad line of JSON Lines gets its error as its answer; the exit code is 2."""
    from fourfold.advisor.load import from_file, from_members

    failed = 0
    entries = list(from_file(file))
    if outputs and len(entries) > 1:
        raise ValidationException(
            f"file: {file} holds {len(entries)} scenarios, and --export, --report and --plan-out are for one; "
            "give each a file of its own"
        )
    for entry in entries:
        try:
            if entry.scenario is None:
                raise ValidationException(entry.error or "")
            flags = from_members(members, "flag") if members else None
            advice = _advise(_over(entry.scenario, flags, members), table, entry.where)
            _write(advice, outputs, table)
            _print(advice, as_json, entry)
        except FourfoldError as error:
            failed += 1
            print(f"fourfold advise: {error.message}", file=sys.stderr)
            if as_json:
                print(_json({"id": entry.id, "error": error.message}), flush=True)
    if failed:
        raise typer.Exit(BAD_INPUT)


def _over(scenario: Scenario, flags: Scenario | None, members: dict[str, Any]) -> Scenario:
    """The scenario with the flags laid over it."""
    if flags is None:
        return scenario
    kept = tuple(e for e in scenario.evidence if e.member not in members)
    return replace(scenario, **{m: getattr(flags, m) for m in members}, evidence=(*flags.evidence, *kept))


def _advise(scenario: Scenario, table: Prices, where: str = "") -> Advice:
    from fourfold.advisor.advise import advise as decide

    try:
        return decide(scenario, table)
    except FourfoldError as error:
        raise ValidationException(f"{where}: {error.message}" if where else error.message) from None


def _walk(scenario: Scenario) -> Scenario:
    """Asks the tree's questions from the top; those that the figures answer already are not asked."""
    from fourfold.advisor.rules import TREE, Question
    from fourfold.advisor.scenario import Evidence

    node = TREE
    while isinstance(node, Question):
        answer = node.judge(scenario)
        known = not answer.assumed and bool(answer.because)
        if known and any(getattr(scenario, member) is not None for member in node.reads):
            yes = answer.yes
            typer.echo(f"{node.text} {'yes' if yes else 'no'} ({answer.because})", err=True)
        else:
            said = _ask(node.text)
            yes = answer.yes if said is None else said
            if said is not None:
                facts = node.if_yes if yes else node.if_no
                said_so = tuple(Evidence(member, value, f"answer: {node.text}") for member, value in facts.items())
                scenario = replace(node.answered(scenario, yes), evidence=(*scenario.evidence, *said_so))
        node = node.yes if yes else node.no
    return scenario


def _ask(question: str) -> bool | None:
    """True, False, or None for "I do not know"."""
    while True:
        said = typer.prompt(f"{question} [y/n/?]", err=True, default="?", show_default=False).strip().lower()
        if said in ("y", "yes"):
            return True
        if said in ("n", "no"):
            return False
        if said in ("?", "", "unknown"):
            return None
        typer.echo("Answer y, n, or ? if you do not know.", err=True)


def _write(advice: Advice, outputs: Outputs, table: Prices) -> None:
    if outputs.export and outputs.out:
        from fourfold.advisor import export

        written = export.write(advice.plan, outputs.export, outputs.out)
        for name, part in (advice.mixed.parts if advice.mixed else {}).items():
            written += export.write(part, outputs.export, outputs.out / "mixed" / name)
        for path in written:
            typer.echo(f"wrote {path}", err=True)
    if outputs.report:
        from fourfold.advisor import report

        typer.echo(f"wrote {report.write(advice, table, outputs.report)}", err=True)
    if outputs.plan:
        try:
            outputs.plan.write_text(_json(advice.saved()) + "\n", encoding="utf-8")
        except OSError as error:
            raise ValidationException(f"plan-out: {outputs.plan} cannot be written: {error.strerror}") from None
        typer.echo(f"wrote {outputs.plan}", err=True)


def _print(advice: Advice, as_json: bool, entry: Entry | None = None) -> None:
    """As one line of JSON for an entry of a file, with its id as it was written there; else as a page."""
    if as_json and entry is not None:
        answer = advice.plain()
        print(_json(answer if entry.id is None else {**answer, "id": entry.id}), flush=True)
    elif as_json:
        from fourfold.cli.output import print_json

        print_json(advice.plain())
    else:
        from fourfold.cli.advice import show

        show(advice)


def _json(value: object) -> str:
    import msgspec

    return msgspec.json.encode(value).decode()


def _seconds(text: str | None) -> float | None:
    """`90`, `90s`, `30m`, `4h`, `2d` in seconds."""
    if text is None:
        return None
    units = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
    number, unit = (text[:-1], text[-1]) if text[-1:] in units else (text, "s")
    try:
        return float(number) * units[unit]
    except ValueError:
        raise ValidationException(f"deadline: is {text!r}; write seconds, or 30m, 4h, 2d") from None


def _trace(path: Path | None) -> tuple[float, ...] | None:
    if path is None:
        return None
    from fourfold.advisor.load import trace_file

    return trace_file(path)
