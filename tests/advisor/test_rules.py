"""The decision tree and the table of limits."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fourfold.advisor.drawing import draw_tree
from fourfold.advisor.limits import limit, limits, violations
from fourfold.advisor.rules import GUIDANCE, TREE, Choice, Node, Question, decide, questions
from fourfold.advisor.scenario import MODES, Scenario
from fourfold.errors import ValidationException

sizes = st.one_of(st.none(), st.floats(0.001, 5000))
scenarios = st.builds(
    Scenario,
    payload_mb=sizes,
    processing_s=st.one_of(st.none(), st.floats(0.001, 10_000)),
    latency_p99_ms=st.one_of(st.none(), st.floats(5, 60_000)),
    requests_per_day=st.one_of(st.none(), st.floats(0.1, 1e7)),
    rows=st.one_of(st.none(), st.floats(1, 1e9)),
    pattern=st.sampled_from([None, "steady", "diurnal", "spiky", "intermittent", "scheduled"]),
    gpu=st.sampled_from([None, True, False]),
    interactive=st.sampled_from([None, True, False]),
    answer_later=st.sampled_from([None, True, False]),
    tolerates_cold_start=st.sampled_from([None, True, False]),
    idle_tolerated=st.sampled_from([None, True, False]),
)


def leaves(node: Node) -> list[Choice]:
    return [node] if isinstance(node, Choice) else [*leaves(node.yes), *leaves(node.no)]


def test_every_mode_is_a_leaf() -> None:
    assert {leaf.mode for leaf in leaves(TREE)} == set(MODES)


@pytest.mark.parametrize("question", list(questions(TREE)), ids=lambda q: q.key)
@pytest.mark.parametrize("yes", [True, False])
def test_a_plain_answer_leads_the_engine_down_the_same_branch(question: Question, yes: bool) -> None:
    assert question.judge(question.answered(Scenario(), yes)).yes is yes


@given(scenarios)
@settings(max_examples=300, deadline=None)
def test_every_scenario_ends_in_a_mode_with_a_reasoned_path(scenario: Scenario) -> None:
    decision = decide(scenario)
    assert decision.mode in MODES
    assert all(step.because for step in decision.path)
    assert decide(scenario) == decision


@given(scenarios)
@settings(max_examples=300, deadline=None)
def test_serverless_is_never_chosen_beyond_its_limits(scenario: Scenario) -> None:
    if decide(scenario).mode == "serverless":
        assert not violations(scenario, "serverless")


@given(scenarios, st.sampled_from(MODES), st.floats(0.001, 5000), st.floats(1, 100))
@settings(max_examples=200, deadline=None)
def test_a_larger_request_never_fits_where_a_smaller_did_not(
    scenario: Scenario, mode: str, size: float, factor: float
) -> None:
    small, large = replace(scenario, payload_mb=size), replace(scenario, payload_mb=size * factor)
    codes = {reason.code for reason in violations(small, mode)}  # type: ignore[arg-type]
    assert codes <= {reason.code for reason in violations(large, mode)}  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("mode", "member", "fits", "breaks", "code"),
    [
        ("serverless", "payload_mb", 4, 4.01, "serverless-payload"),
        ("serverless", "response_mb", 4, 4.01, "serverless-payload"),
        ("serverless", "processing_s", 60, 61, "serverless-processing"),
        ("serverless", "memory_gb", 6.144, 6.2, "serverless-memory"),
        ("serverless", "concurrency", 200, 201, "serverless-concurrency"),
        ("serverless", "image_gb", 10, 11, "serverless-image"),
        ("serverless", "gpu", False, True, "serverless-gpu"),
        ("serverless", "vpc", None, True, "serverless-vpc"),
        ("serverless", "multi_model", None, True, "serverless-multi-model"),
        ("serverless", "data_capture", None, True, "serverless-data-capture"),
        ("serverless", "marketplace", None, True, "serverless-marketplace"),
        ("serverless", "stream", None, True, "serverless-stream"),
        ("serverless", "tolerates_cold_start", True, False, "serverless-cold-start"),
        ("real-time", "payload_mb", 25, 25.1, "real-time-payload"),
        ("real-time", "processing_s", 60, 61, "real-time-processing"),
        ("asynchronous", "payload_mb", 1000, 1001, "asynchronous-payload"),
        ("asynchronous", "processing_s", 3600, 3601, "asynchronous-processing"),
        ("asynchronous", "strict_latency", False, True, "asynchronous-latency"),
        ("batch", "latency_p99_ms", None, 100, "batch-latency"),
    ],
)
def test_a_limit_holds_up_to_its_figure(mode: str, member: str, fits: object, breaks: object, code: str) -> None:
    def codes(value: object) -> list[str]:
        return [reason.code for reason in violations(Scenario(**{member: value}), mode)]  # type: ignore[arg-type]

    assert codes(fits) == []
    assert codes(breaks) == [code]


def test_a_streamed_answer_may_take_eight_minutes() -> None:
    assert not violations(Scenario(processing_s=300, stream=True), "real-time")
    assert violations(Scenario(processing_s=500, stream=True), "real-time")


def test_every_limit_has_a_source_and_a_date() -> None:
    assert all(row.source and row.source_date and row.type in MODES for row in limits())
    codes = [row.code for row in limits() if row.code]
    assert len(codes) == len(set(codes))
    assert limit("serverless-payload").greatest == 4
    assert limit("asynchronous-payload").greatest == 1000
    assert limit("real-time-payload-api").greatest == pytest.approx(6.291456)


def test_guidance_says_why_each_mode_loses_to_each_other() -> None:
    assert set(GUIDANCE) == {(a, b) for a in MODES for b in MODES if a != b}


@pytest.mark.parametrize("form", ["text", "mermaid", "svg"])
def test_a_drawing_shows_every_question_and_mode(form: str) -> None:
    drawing = draw_tree(form)
    shown = " ".join("".join(ET.fromstring(drawing).itertext()).split()) if form == "svg" else drawing
    words = "".join(shown.split())
    assert all("".join(question.text.split()) in words for question in questions(TREE))
    assert all(mode in shown for mode in MODES)


def test_another_form_is_refused() -> None:
    with pytest.raises(ValidationException, match="text, mermaid, svg"):
        draw_tree("pdf")
