"""`fourfold advise`: the contract of its JSON, files and flags, the walk by hand, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from fourfold.advisor.advise import EDGE, advise
from fourfold.advisor.drawing import draw_tree
from fourfold.advisor.load import check, from_file, from_members, from_text, trace_file
from fourfold.advisor.rules import TREE, Node, Question
from fourfold.advisor.scenario import MODES, Scenario
from fourfold.cli import app
from fourfold.errors import ValidationException

EXAMPLES = Path(__file__).parents[2] / "examples" / "scenarios"
FRAUD = "A shop terminal waits while 40 payments per second are scored within 80 ms, day and night."


def run(*args: str, input: str | None = None) -> Result:
    return CliRunner().invoke(app, ["advise", *args], input=input)


def answer(*args: str) -> dict[str, Any]:
    done = run(*args, "--json")
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def after_the_echo(done: Result) -> dict[str, Any]:
    """The JSON behind what the runner echoes of its input."""
    found: dict[str, Any] = json.loads(done.stdout[done.stdout.index("{") :])
    return found


def test_the_answer_has_the_members_of_the_contract() -> None:
    found = answer("--text", FRAUD)
    assert found["recommendation"] == "real-time"
    assert found["feasible"] is True
    assert found["configuration"]["CreateEndpointConfig"]["ProductionVariants"][0]["InstanceType"].startswith("ml.")
    assert set(found["latency_ms"]) == {"p50", "p95", "p99"}
    assert found["latency_ms"]["p99"] <= 80
    for line in found["cost_lines"]:
        assert set(line) == {"item", "quantity", "unit", "price_usd", "cost_usd", "source"}
        assert line["cost_usd"] == pytest.approx(line["quantity"] * line["price_usd"], rel=1e-6, abs=1e-8)
    assert sum(line["cost_usd"] for line in found["cost_lines"]) == pytest.approx(found["monthly_cost_usd"])
    assert {a["type"] for a in found["alternatives"]} == set(MODES) - {"real-time"}
    for other in found["alternatives"]:
        assert set(other) == {"type", "feasible", "monthly_cost_usd", "reasons"}
        assert other["reasons"]
        assert all(set(r) == {"code", "text", "limit", "value", "source"} for r in other["reasons"])
        assert all(r["code"] and r["text"] and r["source"] for r in other["reasons"])
    assert all(set(step) == {"question", "answer", "because"} for step in found["path"])
    assert all(isinstance(one, str) for one in [*found["assumptions"], *found["questions"]])
    assert {"member": "latency_p99_ms", "value": 80.0, "from": "80 ms"} in found["facts"]


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("credit-card-fraud", "real-time"), ("customer-segmentation", "batch"), ("video-frames", "asynchronous"),
        ("shop-chatbot", "serverless"), ("self-driving", "real-time"),
    ],
)  # fmt: skip
def test_the_five_examples_of_the_field(name: str, mode: str) -> None:
    found = answer("--file", str(EXAMPLES / f"{name}.yaml"))
    assert found["id"] == name
    assert found["recommendation"] == mode
    assert (EDGE in found["assumptions"]) is (name == "self-driving")


def test_the_cheaper_mode_is_taken_where_guidance_leaves_two_open() -> None:
    few, many = (advise(Scenario(requests_per_day=n, processing_s=0.5, memory_gb=5)) for n in (2_000, 80_000))
    assert (few.mode, many.mode) == ("serverless", "real-time")
    for advice in (few, many):
        assert advice.decision.path[-1].question.startswith("Which of the modes")
        others = [a for a in advice.alternatives if a.type in ("real-time", "serverless") and a.feasible]
        assert all(a.monthly_cost_usd >= advice.plan.cost.total for a in others if a.monthly_cost_usd is not None)


def test_a_budget_that_is_too_small_makes_the_answer_infeasible() -> None:
    found = answer("--text", FRAUD, "--budget", "1")
    assert found["recommendation"] == "real-time"
    assert found["feasible"] is False
    assert "budget" in {reason["code"] for reason in found["reasons"]}


def test_a_mixed_plan_is_told_where_it_is_cheaper_than_either_part() -> None:
    bursts = ("--processing-s", "0.1", "--payload-mb", "0.05", "--memory-gb", "2", "--latency-p99-ms", "500")
    found = answer(*bursts, "--requests-per-day", "5e6", "--pattern", "spiky")
    mixed = found["mixed"]
    assert mixed["monthly_cost_usd"] == pytest.approx(sum(line["cost_usd"] for line in mixed["cost_lines"]), abs=1e-6)
    assert mixed["monthly_cost_usd"] < found["monthly_cost_usd"]
    assert set(mixed["configuration"]) == {"base", "overflow"}
    assert "A mixed plan would be cheaper" in run(*bursts, "--requests-per-day", "5e6", "--pattern", "spiky").stdout
    assert answer(*bursts, "--requests-per-day", "100", "--pattern", "steady")["mixed"] is None


def test_both_parts_of_a_mixed_plan_are_exported(tmp_path: Path) -> None:
    done = run(
        "--processing-s", "0.1", "--payload-mb", "0.05", "--memory-gb", "2", "--latency-p99-ms", "500",
        "--requests-per-day", "5e6", "--pattern", "spiky", "--export", "boto3", "--out", str(tmp_path),
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    base, overflow = ((tmp_path / "mixed" / part / "deploy.py").read_text() for part in ("base", "overflow"))
    assert "model-base" in base
    assert "ServerlessConfig" not in base
    assert "model-overflow" in overflow
    assert "ServerlessConfig" in overflow


def test_flags_win_over_the_text() -> None:
    found = answer("--text", "Users upload files of 300 MB at any time.", "--payload-mb", "2", "--stream")
    values = {fact["member"]: (fact["value"], fact["from"]) for fact in found["facts"]}
    assert values["payload_mb"] == (2.0, "flag: payload_mb")
    assert found["recommendation"] == "real-time"


@pytest.mark.parametrize(
    ("flags", "mode"),
    [
        (("--rows", "30e6", "--deadline", "6h"), "batch"),
        (("--payload-mb", "400", "--processing-s", "600", "--requests-per-day", "30"), "asynchronous"),
        (("--pattern", "intermittent", "--payload-mb", "0.1", "--processing-s", "1"), "serverless"),
        (("--pattern", "intermittent", "--processing-s", "1", "--gpu"), "asynchronous"),
        (("--latency-p99-ms", "50", "--requests-per-day", "2e6", "--pattern", "diurnal"), "real-time"),
        (("--requests-per-day", "500", "--tolerates-cold-start", "--memory-gb", "3"), "serverless"),
        (("--requests-per-day", "500", "--no-cold-start"), "real-time"),
    ],
)
def test_figures_alone_are_enough(flags: tuple[str, ...], mode: str) -> None:
    assert answer(*flags)["recommendation"] == mode


def test_json_lines_get_one_answer_a_line_with_their_ids(tmp_path: Path) -> None:
    path = tmp_path / "scenarios.jsonl"
    lines = [
        {"id": "a", "text": "Each night 3 million rows are scored.", "expected": "batch", "facts": {"traffic": "?"}},
        {"id": 7, "payload_mb": 300},
        {"text": FRAUD},
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = run("--file", str(path), "--json")
    assert done.exit_code == 0
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one.get("id") for one in found] == ["a", 7, None]
    assert [one["recommendation"] for one in found] == ["batch", "asynchronous", "real-time"]
    assert "id" not in found[2]


def test_a_bad_line_is_answered_with_its_error_and_the_rest_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "scenarios.jsonl"
    path.write_text(
        '{"id": "a", "rows": 5000000}\n{broken\n{"id": "c", "payload_mb": -1}\n[]\n{"id": "e", "paylod_mb": 1}\n'
    )
    done = run("--file", str(path), "--json")
    assert done.exit_code == 2
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert found[0]["recommendation"] == "batch"
    assert found[1]["error"].startswith("line 2: is not JSON")
    assert found[2] == {"id": "c", "error": "line 3: payload_mb: is -1; it must be greater than 0"}
    assert "not a JSON object" in found[3]["error"]
    assert "did you mean payload_mb" in found[4]["error"]
    assert "line 3" in done.stderr


@pytest.mark.parametrize("suffix", [".yaml", ".json"])
def test_a_file_may_hold_one_scenario_or_several(tmp_path: Path, suffix: str) -> None:
    one, several = tmp_path / f"one{suffix}", tmp_path / f"several{suffix}"
    one.write_text(json.dumps({"id": "x", "rows": 1e6}))
    several.write_text(json.dumps([{"id": "x", "rows": 1e6}, {"id": "y", "payload_mb": 90}]))
    assert [entry.id for entry in from_file(one)] == ["x"]
    assert [entry.id for entry in from_file(several)] == ["x", "y"]


def test_the_walk_asks_the_questions_of_the_tree_one_by_one() -> None:
    done = run("-i", "--json", input="n\nn\nn\nn\ny\ny\n")
    assert done.exit_code == 0, done.output
    found = after_the_echo(done)
    assert found["recommendation"] == "serverless"
    assert [step["answer"] for step in found["path"]] == ["no", "no", "no", "no", "yes", "yes"]
    assert done.stderr.count("[y/n/?]") == 6


def ways_down(node: Node, said: str = "") -> Iterator[tuple[str, str]]:
    """Every way through the tree: its answers as letters, and the mode at its end."""
    if isinstance(node, Question):
        yield from ways_down(node.yes, said + "y")
        yield from ways_down(node.no, said + "n")
    else:
        yield said, node.mode


@pytest.mark.parametrize(("said", "mode"), list(ways_down(TREE)))
def test_every_way_down_by_hand_ends_where_the_tree_does(said: str, mode: str) -> None:
    """A question that an earlier answer has settled is not asked again; the rest is."""
    done = run("-i", "--json", input="\n".join(said) + "\n")
    assert done.exit_code == 0, done.stderr
    found = after_the_echo(done)
    asked = done.stderr.count("[y/n/?]")
    taken = "".join(step["answer"][0] for step in found["path"])
    assert taken[:asked] == said[:asked]
    assert found["recommendation"] == dict(ways_down(TREE))[taken]
    assert asked >= len(said) - 1
    if taken == said:
        assert found["recommendation"] == mode


def test_the_walk_asks_again_after_nonsense_and_leaves_unknowns_open() -> None:
    done = run("-i", "--json", input="perhaps\ny\n")
    assert after_the_echo(done)["recommendation"] == "batch"
    assert "Answer y, n, or ?" in done.stderr


def test_the_walk_does_not_ask_what_a_flag_has_answered() -> None:
    done = run("-i", "--json", "--payload-mb", "300", "--processing-s", "90", input="n\n")
    assert after_the_echo(done)["recommendation"] == "asynchronous"
    assert done.stderr.count("[y/n/?]") == 1


@pytest.mark.parametrize("form", ["text", "mermaid", "svg"])
def test_the_tree_is_printed_in_three_forms(form: str) -> None:
    assert run("--tree", form).stdout.strip() == draw_tree(form).strip()


def test_the_tree_is_text_unless_said_otherwise() -> None:
    assert run("--tree").stdout.strip() == draw_tree("text").strip()


def test_a_person_reads_the_mode_first() -> None:
    first = run("--text", FRAUD).stdout.splitlines()[0]
    assert first.startswith("real-time")


def test_answers_can_be_taken_along(tmp_path: Path) -> None:
    report, plan, out = tmp_path / "report.html", tmp_path / "plan.json", tmp_path / "out"
    done = run(
        "--rows", "3e6", "--report", str(report), "--plan-out", str(plan), "--export", "boto3", "--out", str(out)
    )
    assert done.exit_code == 0, done.output
    assert "<html" in report.read_text()
    saved = json.loads(plan.read_text())
    assert saved["recommendation"] == "batch"
    assert saved["scenario"] == {"rows": 3e6}
    assert list(out.iterdir())


@pytest.mark.parametrize(
    ("written", "read"),
    [("0100", 100), ("1_000", 1000), ("1e3", 1000), ("2.5E-1", 0.25), (".5", 0.5), ("5.", 5), ("'1e3'", None)]
    + [(text, None) for text in ("1:30", "190:20:30", "0x10", "0b1", "0o17", ".inf", "-.INF", ".nan", "1,000")],
)
def test_numbers_of_a_file_are_read_as_people_mean_them(tmp_path: Path, written: str, read: float | None) -> None:
    file = tmp_path / "one.yaml"
    file.write_text(f"latency_p99_ms: {written}\n")
    if read is None:
        with pytest.raises(ValidationException, match=r"one.yaml: latency_p99_ms: is .*(not a|a finite) number"):
            next(from_file(file))
    else:
        scenario = next(from_file(file)).scenario
        assert scenario is not None
        assert scenario.latency_p99_ms == read


def test_a_member_that_is_given_twice_is_refused(tmp_path: Path) -> None:
    for name, text in (("one.yaml", "rows: 1\nrows: 2\n"), ("one.json", '{"rows": 1,\n\t"rows": 2}')):
        (tmp_path / name).write_text(text)
        with pytest.raises(ValidationException, match=f"file: {name} .*rows is given twice"):
            next(from_file(tmp_path / name))


def test_a_file_of_one_scenario_is_exported_and_one_of_several_is_not(tmp_path: Path) -> None:
    one, two = tmp_path / "one.yaml", tmp_path / "two.json"
    one.write_text("{id: nightly, rows: 3e6, processing_s: 0.01}")
    two.write_text('[{"rows": 3}, {"rows": 5}]')
    ran = run("--file", str(one), "--export", "cloudformation", "--out", str(tmp_path / "out"))
    assert ran.exit_code == 0, ran.output
    assert "nightly" in (tmp_path / "out" / "template.yaml").read_text()
    ran = run("--file", str(two), "--export", "boto3", "--out", str(tmp_path / "out"))
    assert (ran.exit_code, ran.stdout) == (2, "")
    assert "holds 2 scenarios" in ran.stderr


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ((), "nothing was given"),
        (("--text", "  "), "text: is empty"),
        (("--text", "The quick brown fox jumps over the lazy dog."), "text: nothing in it says"),
        (("--text", "Kunden laden Videos hoch und warten nicht auf das Ergebnis"), "text: only English"),
        (("--text", "word " * 20_000), "text: has 100,000 characters, at most 10,000"),
        (("--text", "We need 50 ms for a 2 GB payload"), "latency_p99_ms: 50 ms contradicts payload_mb"),
        (("--latency-p99-ms", "50", "--processing-s", "2"), "latency_p99_ms: 50 ms is less than processing_s"),
        (("--payload-mb", "2000", "--latency-p99-ms", "50"), "send at most 25 MB"),
        (("--payload-mb", "-4"), "payload_mb: is -4; it must be greater than 0"),
        (("--rows", "nan"), "rows: is nan; give a finite number"),
        (("--active-hours", "25"), "active_hours_per_day: is 25; at most 24"),
        (("--requests-per-day", "1e6", "--peak-rps", "1"), "peak_requests_per_second: 1 is below the average"),
        (("--processing-s", "90", "--deadline", "30s"), "deadline_s: 30 s is less than processing_s"),
        (("--deadline", "tomorrow"), "deadline: is 'tomorrow'"),
        (("--region", "eu-west-9", "--rows", "5"), "region: 'eu-west-9' is no region; did you mean"),
        (("--pattern", "spikey"), "did you mean spiky"),
        (("--file", "missing.yaml"), "file: missing.yaml cannot be read"),
        (("--file", "notes.txt"), "file: notes.txt is not .yaml"),
        (("--trace", "missing.csv"), "trace: missing.csv cannot be read"),
        (("--region", "US-EAST-1", "--rows", "5"), "did you mean us-east-1"),
        (("--rows", "5", "--export", "boto3"), "out: --export needs a folder"),
        (("--rows", "5", "--out", "x"), "out: is the folder of an export"),
        (("--rows", "5", "--export", "cobol", "--out", "x"), "export: 'cobol' is unknown"),
        (("--text", "Rows are scored.", "--file", "x.yaml"), "text: give either --text or --file"),
    ],
)
def test_bad_input_is_refused_with_the_name_of_the_member(args: tuple[str, ...], words: str, tmp_path: Path) -> None:
    done = run(*args)
    assert done.exit_code == 2
    assert words in done.stderr
    assert not done.stdout


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"payload_mb": "big"}, "payload_mb: is 'big', not a number"),
        ({"payload_mb": True}, "payload_mb: is True, not a number"),
        ({"gpu": "yes"}, "gpu: is 'yes'; use true or false"),
        ({"instance": 1}, "instance: is no member"),
        ({"trace": []}, "trace: is not a list"),
        ({"trace": [1, "x"]}, "trace: holds something that is no number"),
        ({"text": 5}, "text: is int, not a string"),
        ({"id": "only"}, "scenario: says nothing"),
        ({"latency_p99_ms": 1e12}, "Check the unit"),
    ],
)
def test_a_file_with_wrong_members_is_refused(members: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationException, match=words.replace("(", r"\(")):
        from_members(members)


def test_a_file_that_is_nested_without_end_is_refused_and_such_a_line_does_not_stop_the_others(tmp_path: Path) -> None:
    deep = tmp_path / "deep.yaml"
    deep.write_text("[" * 3000)
    assert "nested too deeply" in run("--file", str(deep)).stderr
    lines = tmp_path / "deep.jsonl"
    lines.write_text("[" * 100_000 + '\n{"id": 2, "rows": 5}\n')
    answers = [json.loads(line) for line in run("--file", str(lines), "--json").stdout.splitlines()]
    assert "nested too deeply" in answers[0]["error"]
    assert answers[1]["id"] == 2


def test_arrival_times_are_read_from_a_csv_file(tmp_path: Path) -> None:
    path = tmp_path / "arrivals.csv"
    path.write_text("arrived,what\n12.5,a\n10,b\n2026-01-01T00:00:00,c\n")
    assert trace_file(path)[:2] == (0.0, 2.5)
    path.write_text("arrived\nlater\n")
    with pytest.raises(ValidationException, match="line 2"):
        trace_file(path)


@given(
    st.dictionaries(
        st.sampled_from(
            ["payload_mb", "processing_s", "latency_p99_ms", "requests_per_day", "rows", "memory_gb", "gpu"]
        ),
        st.one_of(st.floats(), st.integers(), st.booleans(), st.text(max_size=5)),
        min_size=1,
    )
)
@settings(max_examples=150, deadline=None)
def test_any_members_are_advised_on_or_refused_with_a_message(members: dict[str, Any]) -> None:
    with suppress(ValidationException):
        scenario = from_members(members)
        check(scenario)
        assert advise(scenario).mode in MODES


def test_advice_is_deterministic() -> None:
    assert advise(from_text(FRAUD)).plain() == advise(from_text(FRAUD)).plain()
