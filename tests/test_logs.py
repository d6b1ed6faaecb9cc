"""CloudWatch Logs on what workers printed: through boto3 on a real server, and the reading of files by itself."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from hypothesis import given
from hypothesis import strategies as st

from fourfold.clock import ManualClock
from fourfold.monitor.output import ENDPOINTS, EVENT_BYTES, PAGE_BYTES, Output, Stream
from fourfold.monitor.patterns import pattern
from tests.server import LiveServer

TALKATIVE = """
def model_fn(model_dir):
    print("loaded the model")

def transform_fn(model, data, content_type, accept):
    print(data)
    return data
"""
GROUP = f"{ENDPOINTS}talkative"


@pytest.fixture(scope="module")
def talkative(server: LiveServer, handler: Any) -> Any:
    server.deploy("talkative", handler(TALKATIVE))
    runtime = server.client("sagemaker-runtime")
    for text in ("first line", "ERROR second", "third, ERROR too"):
        runtime.invoke_endpoint(EndpointName="talkative", ContentType="text/csv", Body=text.encode())
    return runtime


@pytest.fixture
def logs(server: LiveServer, talkative: Any) -> Any:
    return server.client("logs")


def messages(answer: Any) -> list[str]:
    return [event["message"] for event in answer["events"]]


def test_groups_and_streams(logs: Any) -> None:
    groups = logs.describe_log_groups(logGroupNamePrefix="/aws/sagemaker/Endpoints/")["logGroups"]
    assert [group["logGroupName"] for group in groups] == [GROUP]
    assert groups[0]["arn"] == f"arn:aws:logs:us-east-1:123456789012:log-group:{GROUP}:*"
    assert logs.describe_log_groups(logGroupNamePattern="nothing")["logGroups"] == []
    for order in ("LogStreamName", "LastEventTime"):
        streams = logs.describe_log_streams(logGroupName=GROUP, orderBy=order)["logStreams"]
        assert [stream["logStreamName"] for stream in streams] == ["AllTraffic/i-0001"]
        assert streams[0]["firstEventTimestamp"] <= streams[0]["lastEventTimestamp"]


def test_events_are_read_on_from_where_they_were(logs: Any, talkative: Any) -> None:
    where = {"logGroupName": GROUP, "logStreamName": "AllTraffic/i-0001"}
    answer = logs.get_log_events(**where, startFromHead=True, limit=2)
    assert messages(answer) == ["loaded the model", "first line"]
    rest = logs.get_log_events(**where, nextToken=answer["nextForwardToken"])
    assert messages(rest)[:2] == ["ERROR second", "third, ERROR too"]
    nothing = logs.get_log_events(**where, nextToken=rest["nextForwardToken"])
    assert (messages(nothing), nothing["nextForwardToken"]) == ([], rest["nextForwardToken"])
    before = logs.get_log_events(**where, nextToken=rest["nextBackwardToken"])
    assert messages(before) == ["loaded the model", "first line"]
    begin = time.time() * 1000
    talkative.invoke_endpoint(EndpointName="talkative", ContentType="text/csv", Body=b"newer")
    newer = logs.get_log_events(**where, nextToken=rest["nextForwardToken"])
    assert messages(newer) == ["newer"]
    assert begin - 2000 <= newer["events"][0]["timestamp"] <= time.time() * 1000
    assert messages(logs.get_log_events(**where, limit=1)) == ["newer"], "without a token, the newest"
    assert messages(logs.get_log_events(**where, startTime=int(time.time() * 1000) + 60_000)) == []


def test_events_are_filtered_and_paged(logs: Any) -> None:
    found = logs.filter_log_events(logGroupName=GROUP, filterPattern="ERROR")
    assert messages(found) == ["ERROR second", "third, ERROR too"]
    assert found["events"][0]["logStreamName"] == "AllTraffic/i-0001"
    pages = logs.get_paginator("filter_log_events").paginate(
        logGroupName=GROUP, logStreamNamePrefix="All", PaginationConfig={"PageSize": 1}
    )
    every = [event for page in pages for event in page["events"]]
    assert [event["message"] for event in every][:3] == ["loaded the model", "first line", "ERROR second"]
    assert len({event["eventId"] for event in every}) == len(every)
    assert messages(logs.filter_log_events(logGroupName=GROUP, endTime=1)) == []


@pytest.mark.parametrize(
    ("operation", "arguments", "code"),
    [
        ("get_log_events", {"logGroupName": "/nothing", "logStreamName": "x"}, "ResourceNotFoundException"),
        ("get_log_events", {"logGroupName": f"{ENDPOINTS}../..", "logStreamName": "x"}, "ResourceNotFoundException"),
        ("get_log_events", {"logGroupName": GROUP, "logStreamName": "x"}, "ResourceNotFoundException"),
        ("describe_log_streams", {"logGroupName": "/aws/sagemaker/TransformJobs"}, "ResourceNotFoundException"),
        ("filter_log_events", {"logGroupName": GROUP, "filterPattern": "[x, y]"}, "InvalidParameterException"),
        ("filter_log_events", {"logGroupName": GROUP, "nextToken": "nonsense"}, "InvalidParameterException"),
    ],
)
def test_what_is_not_there_or_not_read_is_told(logs: Any, operation: str, arguments: Any, code: str) -> None:
    with pytest.raises(ClientError) as error:
        getattr(logs, operation)(**arguments)
    assert error.value.response["Error"]["Code"] == code


def output(folder: Path, text: str) -> tuple[Output, Path]:
    path = folder / "endpoints" / "e" / "v" / "i-0001.log"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    return Output(folder, ManualClock()), path


def only(found: Output) -> Stream:
    return found.streams(f"{ENDPOINTS}e")["v/i-0001"]


def test_a_line_has_the_time_of_the_first_note_with_all_of_it(tmp_path: Path) -> None:
    found, path = output(tmp_path, "one\n")
    for second, more in ((1000, ""), (2000, "two\nhal"), (3000, "f\n")):
        with path.open("a") as file:
            file.write(more)
        os.utime(path, (second, second))
        found.note()
    events = found.forward(only(found), 0, 10)
    assert [(event.message, event.time) for event in events] == [
        ("one", 1000_000),
        ("two", 2000_000),
        ("half", 3000_000),
    ]
    assert found.place(only(found), 2500_000) == len("one\ntwo\nhal")


def test_a_file_that_was_made_anew_is_read_from_its_start(tmp_path: Path) -> None:
    found, path = output(tmp_path, "a long line of the old file\n")
    found.note()
    path.write_text("new\n")
    assert [event.message for event in found.forward(only(found), 0, 10)] == ["new"]
    path.unlink()
    found.note()
    assert found.groups() == []


def test_long_lines_are_divided_and_pages_bounded(tmp_path: Path) -> None:
    found, _ = output(tmp_path, "x" * (EVENT_BYTES * 2 + 5) + "\n" + "y" * (PAGE_BYTES + 10) + "\nend\n")
    place, sizes = 0, []
    while events := found.forward(only(found), place, 1000):
        assert sum(len(event.message) for event in events) <= PAGE_BYTES
        place = events[-1].end
        sizes += [len(event.message) for event in events]
    assert max(sizes) == EVENT_BYTES
    assert sum(sizes) == EVENT_BYTES * 2 + 5 + PAGE_BYTES + 10 + len("end")


@given(
    lines=st.lists(
        st.text(st.characters(codec="utf-8", exclude_characters="\r\n\v\f\x1c\x1d\x1e\x85\u2028\u2029"), max_size=8)
    )
)
def test_forward_and_backward_read_the_same(lines: list[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    found, _ = output(tmp_path_factory.mktemp("logs"), "".join(f"{line}\n" for line in lines))
    stream = only(found)
    every = found.forward(stream, 0, 1000)
    assert [event.message for event in every] == [line for line in lines if line]
    back, end = [], stream.size
    while events := found.backward(stream, end, 2):
        back = events + back
        end = events[0].start
    assert back == every


@pytest.mark.parametrize(
    ("text", "fits", "not_fits"),
    [
        ("", "anything", None),
        ("ERROR", "an ERROR", "an error"),
        ("a b", "b and a", "a"),
        ("?a ?b", "b", "c"),
        ("a -b", "a", "a b"),
        ('"a b"', "x a b", "a  b"),
        ('-"a b" c', "c a", "c a b"),
        ('{ $.level = "ERR*" }', '{"level": "ERROR"}', '{"level": "an ERROR"}'),
        ('{ $.level = "ERR*" }', '{"level": "ERR"}', "ERROR"),
        ("{ $.level != INFO }", '{"level": "ERROR"}', '{"level": "INFO"}'),
        ("{ $.call.seconds[1] >= 0.5 }", '{"call": {"seconds": [9, 0.5]}}', '{"call": {"seconds": [9, 0.4]}}'),
        ("{ $.status = 500 }", '{"status": 500}', '{"status": "500"}'),
        ("{ ($.a = 1 || $.b = 2) && $.c NOT EXISTS }", '{"b": 2}', '{"b": 2, "c": null}'),
        ("{ $.a = 1 || $.b = 2 && $.c IS NULL }", '{"a": 1}', '{"b": 2}'),
        ("{ $['a b'] IS TRUE && $.c IS FALSE }", '{"a b": true, "c": false}', '{"a b": 1, "c": 0}'),
        ('{ $.path = "a[b]?\\"*" }', '{"path": "a[b]?\\"c"}', '{"path": "ab]?\\"c"}'),
        ("{ $.a < 1 }", '{"a": -2.5}', '{"a": "0"}'),
    ],
)
def test_patterns(text: str, fits: str, not_fits: str | None) -> None:
    assert pattern(text)(fits)
    assert not_fits is None or not pattern(text)(not_fits)


def test_a_pattern_that_is_not_read() -> None:
    conditions = (
        "{ $.a = 1",
        "{ $.a }",
        "{ a = 1 }",
        "{ $.a = 1 $.b = 2 }",
        "{ ($.a = 1 }",
        "{ $.a < x }",
        "{ $.a && }",
    )
    for text in ("[a, b]", '"open', "%ERR.*%", *conditions, "{" + "(" * 1000 + "}"):
        with pytest.raises(ValueError):  # noqa: PT011 - each has its own words
            pattern(text)
    assert not pattern("{ $.a = 1 }")("[" * 100_000)
