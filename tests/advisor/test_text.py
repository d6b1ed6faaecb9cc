"""Scenarios from sentences: figures with their roles, negations, offered options, and the mode that they lead to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fourfold.advisor.load import from_text
from fourfold.advisor.rules import decide
from fourfold.advisor.scenario import Scenario
from fourfold.advisor.text import understand
from fourfold.advisor.text.cues import cues
from fourfold.advisor.text.numbers import value_of
from fourfold.advisor.text.prepare import looks_english, prepare
from fourfold.advisor.text.quantities import quantities
from fourfold.advisor.text.roles import role_of

OWN = Path(__file__).with_name("paraphrases.jsonl")
"""Sentences of our own; `split` tells in which round they were written. What each round scored when the rules first met
it stands in docs/decisions."""
GIVEN = Path(__file__).parents[3] / "shared" / "scenarios-dev.jsonl"
"""The development set, where it lies beside the checkout."""


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def right(scenario: dict[str, Any]) -> bool:
    return decide(from_text(scenario["text"])).mode in (scenario["expected"], *scenario["also_acceptable"])


@pytest.mark.parametrize("split", sorted({line["split"] for line in lines(OWN)}))
def test_our_own_sentences_lead_to_the_right_mode(split: str) -> None:
    assert not [line["id"] for line in lines(OWN) if line["split"] == split and not right(line)]


@pytest.mark.skipif(not GIVEN.exists(), reason="the development set is not part of the repository")
def test_the_development_set_is_understood() -> None:
    assert not [line["id"] for line in lines(GIVEN) if not right(line)]


@pytest.mark.parametrize(
    ("words", "value"),
    [
        ("1,100", 1100), ("2.2 million", 2.2e6), ("forty-five", 45), ("a couple of", 2), ("half an", 0.5),
        ("a quarter of an", 0.25), ("two hundred thousand", 200_000), ("10k", 10_000), ("a dozen", 12),
        ("25 000", 25_000), ("hundreds of thousands of", 300_000), ("2.9e3", 2900), (".6", 0.6), ("2.3 mil", 2.3e6),
    ],
)  # fmt: skip
def test_a_number_in_words(words: str, value: float) -> None:
    assert value_of(words) == pytest.approx(value)


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("within 80 ms", "duration", 0.08),
        ("a quarter of an hour", "duration", 900),
        ("hour-long recordings", "duration", 3600),
        ("files of 1.5 GB", "size", 1500),
        ("600 KB each", "size", 0.6),
        ("450 queries per second", "rate", 450),
        ("asked twice an hour", "rate", 2 / 3600),
        ("nine times per week", "rate", 9 / 604800),
        ("25 calls on busy days", "rate", 25 / 86400),
        ("in a good week six pictures arrive", "rate", 6 / 604800),
        ("12,000 daily requests", "rate", 12000 / 86400),
        ("500 requests/day", "rate", 500 / 86400),
        ("90 rps", "rate", 90),
        ("every 500 ms", "period", 0.5),
        ("24 hours a day", "hours a day", 86400),
        ("from 9 am to 6 pm", "hours a day", 9 * 3600),
        ("a budget of $120 per year", "money", 10),
        ("31 million subscribers", "count", 31e6),
        ("response < 0.1s", "duration", 0.1),
        ("requests of 200KB", "size", 0.2),
        ("a night takes 4min", "duration", 240),
        ("every 5min", "period", 300),
        ("every ~7 h", "period", 7 * 3600),
        ("450qps", "rate", 450),
        ("millions of auctions per hour", "rate", 3e6 / 3600),
        ("under 10 ms for 2 million auctions per hour", "rate", 2e6 / 3600),
        ("called once in three hours", "rate", 1 / 10800),
        ("31 invocations in 14 days", "rate", 31 / (14 * 86400)),
        ("14 uploads in the past month", "rate", 14 / (30 * 86400)),
        ("300 requests of 100 KB an hour", "rate", 300 / 3600),
        ("~1/d, when the lab is open", "rate", 1 / 86400),
        ("4e-4 req/s", "rate", 4e-4),
        ("open 10h a day", "hours a day", 36000),
    ],
)
def test_a_quantity_has_a_kind_and_a_value(text: str, kind: str, value: float) -> None:
    found = [q for q in quantities(prepare(text)) if q.kind == kind]
    assert [q.value for q in found] == pytest.approx([value])


@pytest.mark.parametrize(
    ("text", "figure", "role"),
    [
        ("answers have to come within 80 ms", "80 ms", "latency"),
        ("p99 no higher than 70 ms", "70 ms", "latency"),
        ("we need 50 ms for it", "50 ms", "latency"),
        ("it takes two minutes on a gpu", "two minutes", "processing"),
        ("70 s of checking each", "70 s", "processing"),
        ("runtimes below 60 seconds", "60 seconds", "processing"),
        ("a mark within three hours is fine", "three hours", "deadline"),
        ("there are three weeks for it", "three weeks", "deadline"),
        ("the result comes ten minutes later", "ten minutes", "deadline"),
        ("the run takes five hours", "five hours", "job"),
        ("the load lasts for a 2-hour period", "2-hour", "window"),
        ("three hours of silence in between", "three hours", "silence"),
        ("fifteen years of tick data", "fifteen years", "history"),
        ("interviews of up to 3 hours", "3 hours", "recording"),
        ("the model takes 5 minutes to load", "5 minutes", "none"),
        ("requests of up to 300 mb", "300 mb", "payload"),
        ("a model with 11 gb of weights", "11 gb", "model memory"),
        ("a 1 gb cpu model", "1 gb", "model memory"),
        ("a container image of 12 gb", "12 gb", "image"),
        ("a data set of 4 tb", "4 tb", "data set"),
        ("it ranks 31 million subscribers", "31 million", "records"),
        ("3,000 editors use it", "3,000", "people"),
        ("at most 150 requests at once", "150", "concurrency"),
        ("the 45 ms model is on an instance", "45 ms", "processing"),
        ("payment terminal, 90 ms", "90 ms", "latency"),
        ("svc time 400 ms", "400 ms", "processing"),
        ("the simulation needs 22 minutes", "22 minutes", "processing"),
        ("the request is a 70 mb model", "70 mb", "payload"),
        ("spikes lasting half an hour", "half an hour", "window"),
        ("it works 11 minutes a month", "11 minutes", "window"),
        ("users complain that it needs 12 seconds", "12 seconds", "none"),
        ("latency does not need to be under 100 ms", "100 ms", "none"),
        ("a timeout of 58 s", "58 s", "none"),
        ("a five-second clip", "five-second", "none"),
        ("an intent model, onnx 120 mb", "120 mb", "model memory"),
        ("a plain cpu with 1 gb will do", "1 gb", "model memory"),
        ("img 1.9 gb", "1.9 gb", "image"),
        ("checked at 12,000 tills", "12,000", "people"),
        ("kiosks in 700 restaurants", "700", "people"),
        ("a compact cpu model: 20 kb in, 4 s", "20 kb", "payload"),
        ("the model is used rarely and has a size of 300 mb", "300 mb", "model memory"),
        ("requests above the 25 mb limit", "25 mb", "none"),
        ("the workshop lasts two hours", "two hours", "window"),
        ("recordings have a duration of 90 minutes", "90 minutes", "recording"),
        ("with hours between messages", "hours", "silence"),
        ("the agent needs the offer within one second", "one second", "latency"),
        ("300 requests a second, each 2 kb, the model takes 4 ms", "2 kb", "payload"),
        ("calls of 20 kb, the 300 mb model takes 40 ms", "20 kb", "payload"),
        ("calls of 20 kb, the 300 mb model takes 40 ms", "300 mb", "model memory"),
    ],
)
def test_the_words_around_a_figure_tell_its_role(text: str, figure: str, role: str) -> None:
    roles = {text[q.start : q.end]: role_of(q, text) for q in quantities(text)}
    assert roles[figure] == role


@pytest.mark.parametrize(
    ("text", "member", "value"),
    [
        ("Answers are not needed in real time; each request is queued.", "answer_later", True),
        ("There is no need for real-time responses. Score the table.", "interactive", False),
        ("No endpoint should keep running between the requests.", "idle_tolerated", False),
        ("Requests come now and then and cold starts cannot be tolerated.", "tolerates_cold_start", False),
        ("Requests come now and then and we do not mind cold starts.", "tolerates_cold_start", True),
        ("No GPU is needed for the requests.", "gpu", False),
        ("A page calls the model within 40 ms, in no VPC.", "latency_p99_ms", 40.0),
        ("Each request has to be answered within the VPC, in 90 ms.", "vpc", True),
        ("All inputs of the endpoint are captured for drift analysis.", "data_capture", True),
        ("Tokens are streamed to the user as they are produced.", "stream", True),
        ("We aren't allowed to queue any request.", "answer_later", None),
        ("Requests are never idle here and come all day.", "pattern", "steady"),
        ("Requests come now and then; there must be no idle machine.", "pattern", "intermittent"),
        ("The latency of the requests does not need to be under 100 ms.", "latency_p99_ms", None),
        ("A request has 256 KB, the machine needs 2048 MB.", "payload_mb", 0.256),
        ("Requests have a peak of 5,000 TPS, on average 800 TPS.", "requests_per_day", 800 * 86400.0),
        ("Requests have a peak of 5,000 TPS, on average 800 TPS.", "peak_requests_per_second", 5000.0),
        ("A request comes every other day.", "requests_per_day", 0.5),
    ],
)
def test_a_fact_and_its_negation(text: str, member: str, value: object) -> None:
    assert getattr(understand(text), member) == value


def test_every_fact_quotes_words_of_the_text() -> None:
    for line in lines(OWN):
        for fact in understand(line["text"]).evidence:
            for quote in fact.source.split(" … "):
                assert quote in " ".join(line["text"].split()), (line["id"], fact)


@pytest.mark.parametrize(
    ("text", "runs"),
    [
        ("Nightly scoring of 10 million leads.", 30.4167),
        ("Each Saturday a telecom operator ranks 31 million subscribers.", 4.34524),
        ("900,000 payslips are validated on the 25th of each month.", 1),
        ("Risk figures for 4 million policies are recalculated every quarter.", 0.333333),
        ("A file with all meter readings is scored every hour.", 730),
        ("2 million articles of an archive are labelled. It is done once and can take ten days.", None),
        ("Requests arrive one by one every day and somebody waits for each answer.", None),
    ],
)
def test_a_timetable_says_how_often_a_job_runs(text: str, runs: float | None) -> None:
    assert understand(text).runs_per_month == runs


STEM = "Requests of 300 MB arrive at any time and take ten minutes. "


@pytest.mark.parametrize(
    "options",
    [
        "Which option fits: real-time endpoint, serverless inference or batch transform?",
        "Which one?\nA. Real-time inference\nB. Serverless inference\nC. Batch transform\nD. Asynchronous inference",
        "Which one? A) a real-time endpoint for low latency B) a nightly batch transform C) an asynchronous endpoint",
        "Which one? (A) Real-time inference (B) Serverless inference (C) A batch transform job each night",
        "Which one?\n1. Real-time inference with low latency\n2. Serverless inference\n3. A nightly batch transform",
        "Which one?\n- Real-time inference\n- Serverless inference that tolerates cold starts\n- Batch transform",
        "Which one?\nReal-time inference\nServerless inference\nBatch transform\nAsynchronous inference",
    ],
)
def test_offered_options_are_no_evidence(options: str) -> None:
    plain, asked = understand(STEM), understand(STEM + options)
    assert [(e.member, e.value) for e in asked.evidence] == [(e.member, e.value) for e in plain.evidence]


def test_what_is_in_use_today_is_no_evidence() -> None:
    text = "The team has deployed an asynchronous endpoint, but 40 payments per second need an answer within 50 ms."
    assert decide(understand(text)).mode == "real-time"


@pytest.mark.parametrize(
    ("text", "mode"),
    [
        (
            "Although somebody proposed a nightly batch, the patient sits in front of the nurse who asks the model.",
            "real-time",
        ),
        ("A colleague wants a queue, but users ask now and then and read the answer on the same page.", "serverless"),
        (
            "Although the rest of the site gets 5,000 requests per second, this classifier is asked twice a week.",
            "serverless",
        ),
        (
            "The site sends results by mail, but that's another story; the cashier needs each score within 80 ms.",
            "real-time",
        ),
        (
            "Batch? There is no batch. Queue? Nobody queues. A user asks twice a week and looks at the answer.",
            "serverless",
        ),
        ('The "score the whole archive overnight" button asks the model now and then for one answer.', "serverless"),
        (
            "Shoppers complain that the serverless endpoint needs 12 seconds. Payments must be approved in 300 ms.",
            "real-time",
        ),
    ],
)
def test_what_is_said_of_something_else_is_no_evidence(text: str, mode: str) -> None:
    assert decide(understand(text)).mode == mode


@given(st.text(max_size=300))
@settings(max_examples=200, deadline=None)
def test_any_text_gives_the_same_scenario_twice(text: str) -> None:
    assert understand(text) == understand(text)
    assert len(prepare(text)) == len(text)


@given(st.lists(st.sampled_from([line["text"] for line in lines(OWN)]), min_size=2, max_size=4).map(" ".join))
@settings(max_examples=40, deadline=None)
def test_stories_put_together_still_end_in_a_mode(text: str) -> None:
    scenario = understand(text)
    assert isinstance(scenario, Scenario)
    assert decide(scenario).path


def test_a_cue_is_found_once_where_phrases_overlap() -> None:
    text = prepare("Nobody waits for a persistent endpoint.")
    assert [hit.meaning for hit in cues(text)].count("nobody_waits") == 1


@pytest.mark.parametrize(
    ("text", "english"),
    [
        ("Users upload 300 MB and wait for a message.", True),
        ("Nightly scoring, 5 million rows", True),
        ("Kunden laden Videos hoch und warten nicht auf das Ergebnis.", False),
        ("Los usuarios suben videos de 300 MB y no esperan el resultado.", False),
        ("Les clients envoient des images et attendent la réponse.", False),
        ("用户上传三百兆的视频", False),
        ("Пользователи загружают видео", False),
    ],
)
def test_other_languages_are_noticed(text: str, english: bool) -> None:
    assert looks_english(text) is english
