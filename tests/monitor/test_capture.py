"""Data capture without a server: what a line says, which calls are taken, when they are written, what is dropped."""

from __future__ import annotations

import asyncio
import json
import random
from base64 import b64decode
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fourfold.clock import ManualClock
from fourfold.errors import FourfoldError, ModelError, ThrottlingException
from fourfold.monitor import capture
from fourfold.monitor.capture import Captures
from fourfold.pool.routes import Variant
from fourfold.records import Call, Reply
from fourfold.storage.captures import CaptureConfig
from fourfold.storage.objects import Objects

NOON = 1_800_014_400.0  # 2027-01-15 12:00:00 UTC
TYPES = {"CsvContentTypes": ["text/csv"], "JsonContentTypes": ["application/json", "Application/X-Own"]}


def config(percentage: int = 100, *modes: str, **members: Any) -> dict[str, Any]:
    return {
        "EnableCapture": True,
        "InitialSamplingPercentage": percentage,
        "DestinationS3Uri": "s3://kept/captures/",
        "CaptureOptions": [{"CaptureMode": mode} for mode in modes or ("Input", "Output")],
        "CaptureContentTypeHeader": TYPES,
    } | members


class Caller:
    """Waits for an answer."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self.arrived = 0.0
        self.results: list[Reply | FourfoldError] = []

    def answer(self, reply: Reply) -> None:
        self.results.append(reply)

    def fail(self, error: FourfoldError) -> None:
        self.results.append(error)


class Backend:
    """Answers at once, until it is told to keep calls waiting or to refuse them."""

    signature = None

    def __init__(self) -> None:
        self.waiting: list[Any] | None = None
        self.full = False

    def submit(self, waiter: Any) -> None:
        if self.full:
            raise ThrottlingException("full")
        if self.waiting is not None:
            self.waiting.append(waiter)
        elif waiter.call.body == b"bad":
            waiter.fail(ModelError("no"))
        else:
            waiter.answer(Reply(0, b"answer to " + waiter.call.body, "text/plain"))

    def submit_stream(self, waiter: Any) -> None:
        raise AssertionError("no streams here")

    def withdraw(self, waiter: Any) -> None:
        assert self.waiting is not None
        self.waiting.remove(waiter)


class Site:
    """Captures of one variant, in a folder and on a clock of its own."""

    def __init__(self, folder: Path, document: dict[str, Any]) -> None:
        self.folder = folder
        self.clock = ManualClock(NOON)
        self.captures = Captures(Objects(folder), self.clock, 10.0)
        self.backend = Backend()
        self.variant = Variant("shop", "blue", 1.0, self.backend)
        self.captures.tap(self.variant, document)

    def call(self, body: bytes = b"x", content_type: str = "text/csv", **headers: str) -> list[Reply | FourfoldError]:
        caller = Caller(Call(0, body, content_type, headers=headers or None))
        self.variant.submit(caller)
        return caller.results

    def files(self) -> dict[str, list[dict[str, Any]]]:
        """The records of each object below the destination."""
        below = self.folder / "kept" / "captures"
        return {
            str(path.relative_to(below)): [json.loads(line) for line in path.read_text().splitlines()]
            for path in sorted(below.rglob("*.jsonl"))
        }

    def counted(self) -> tuple[int, int]:
        return self.variant.stats.captured, self.variant.stats.not_captured


@pytest.fixture
def site(tmp_path):
    (tmp_path / "kept").mkdir()
    return lambda document=None, folder=tmp_path: Site(folder, document or config())


@given(
    st.binary() | st.text().map(str.encode),
    st.sampled_from(["text/csv", "Text/CSV; charset=utf-8", "application/json", "application/x-own", "image/png", ""]),
    st.none() | st.text(min_size=1),
)
def test_a_line_gives_back_what_went_in_and_out(body, content_type, given_id):
    headers = {"x-amzn-sagemaker-inference-id": given_id, "x-amzn-sagemaker-custom-attributes": "a=1"}
    call = Call(7, body, content_type, headers=headers if given_id else None)
    (line,) = CaptureConfig.of(config()).lines([(NOON + 0.9, call, Reply(7, body[::-1], "image/png"))]).splitlines()
    record = json.loads(line)
    sent, answered = record["captureData"]["endpointInput"], record["captureData"]["endpointOutput"]
    data = sent["data"]
    kind = {"text/csv": "CSV", "application/json": "JSON", "application/x-own": "JSON"}
    expected = kind.get(content_type.lower().partition(";")[0], "BASE64")
    assert sent["encoding"] == (expected if expected == "BASE64" or is_text(body) else "BASE64")
    assert (b64decode(data) if sent["encoding"] == "BASE64" else data.encode()) == body
    assert (sent["observedContentType"], sent["mode"]) == (content_type, "INPUT")
    assert answered | {"data": b64decode(answered["data"])} == {
        "observedContentType": "image/png", "mode": "OUTPUT", "encoding": "BASE64", "data": body[::-1],
    }  # fmt: skip
    metadata = record["eventMetadata"]
    assert len(metadata.pop("eventId")) == 36
    about = {"customAttributes": ["a=1"], "inferenceId": given_id} if given_id else {}
    assert metadata == about | {"inferenceTime": "2027-01-15T12:00:00Z"}
    assert record["eventVersion"] == "0"


def is_text(body: bytes) -> bool:
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    return True


@pytest.mark.parametrize(
    ("modes", "kept"),
    [
        (["Input"], {"endpointInput"}),
        (["Output"], {"endpointOutput"}),
        (["Input", "Output"], {"endpointInput", "endpointOutput"}),
        (["InputAndOutput"], {"endpointInput", "endpointOutput"}),
    ],
)
async def test_only_what_the_options_name_is_kept(site, modes, kept):
    here = site(config(100, *modes))
    here.call()
    await here.captures.flush()
    ((record,),) = here.files().values()
    assert set(record["captureData"]) == kept


async def test_calls_are_written_when_they_are_old_enough_and_into_their_hour(site):
    here = site()
    task = asyncio.create_task(here.captures.run())
    await here.clock.advance(3598)  # 12:59:58
    assert here.call(b"1") == [Reply(0, b"answer to 1", "text/plain")]
    await here.clock.advance(4)
    here.call(b"2")  # 13:00:02
    await here.clock.advance(5)
    assert here.files() == {}
    await here.clock.advance(1)
    await written(here, 1)
    while here.counted()[0] < 2:
        await here.clock.advance(1)
        await asyncio.sleep(0.001)
    (first, second) = here.files().items()
    assert first[0].startswith("shop/blue/2027/01/15/12/59-58-000-")
    assert second[0].startswith("shop/blue/2027/01/15/13/00-02-000-")
    assert [one["captureData"]["endpointInput"]["data"] for one in first[1] + second[1]] == ["1", "2"]
    task.cancel()


async def test_much_is_written_at_once_and_too_much_is_dropped(site, monkeypatch, caplog):
    monkeypatch.setattr(capture, "FILE_RECORDS", 3)
    monkeypatch.setattr(capture, "MOST_RECORDS", 5)
    monkeypatch.setattr(capture, "MOST_BYTES", 10_000)
    here = site()
    task = asyncio.create_task(here.captures.run())
    await asyncio.sleep(0)
    for _ in range(7):
        here.call()
    await written(here, 5)
    assert here.counted() == (5, 2)
    assert len(here.files()) == 1
    assert here.call(b"x" * 10_000)[0].body == b"answer to " + b"x" * 10_000
    assert here.counted() == (5, 3)
    here.call()
    await here.captures.flush()
    assert here.counted() == (6, 3), "there is room again"
    assert sum(record.calls for record in caplog.records) == 3
    assert "came faster" in caplog.records[0].reason
    task.cancel()


async def test_without_its_bucket_calls_are_answered_and_it_says_that_nothing_is_captured(site, tmp_path, caplog):
    here = site(folder=tmp_path / "none")
    assert here.call() == [Reply(0, b"answer to x", "text/plain")]
    await here.captures.flush()
    assert here.counted() == (0, 1)
    assert "There is no bucket kept: create it first." in caplog.records[0].reason
    assert not here.captures.works("shop", "s3://kept/captures")
    (tmp_path / "none" / "kept").mkdir(parents=True)
    assert here.captures.works("shop", "s3://kept/captures")
    here.call()
    await here.captures.flush()
    assert here.counted() == (1, 1)


async def test_what_the_disk_does_not_take_is_dropped_until_it_does(site, monkeypatch):
    here = site()
    with monkeypatch.context() as patch:
        patch.setattr(capture, "RESERVE", 1 << 60)
        patch.setattr(capture.shutil, "disk_usage", lambda _: capture.shutil._ntuple_diskusage(1000, 999, 1))
        here.call()
        await here.captures.flush()
    assert here.files() == {}
    assert not here.captures.works("shop", "s3://kept/captures")
    here.call()
    await here.captures.flush()
    assert here.counted() == (1, 1)
    assert here.captures.works("shop", "s3://kept/captures")


async def test_only_calls_that_the_model_answered_are_captured(site):
    here = site()
    assert isinstance(here.call(b"bad")[0], ModelError)
    here.backend.full = True
    with pytest.raises(ThrottlingException):
        here.call(b"refused")
    here.backend.full = False
    here.backend.waiting = []
    left, stays = Caller(Call(0, b"left")), Caller(Call(0, b"stays"))
    here.variant.submit(left)
    here.variant.submit(stays)
    here.variant.withdraw(left)
    assert [waiter.call.body for waiter in here.backend.waiting] == [b"stays"]
    here.backend.waiting[0].answer(Reply(0, b"late"))
    assert stays.results == [Reply(0, b"late")]
    assert here.variant.submit.__self__.shown == {}, "nobody is kept in mind"
    await here.captures.flush()
    ((record,),) = here.files().values()
    assert record["captureData"]["endpointOutput"]["data"] == "late"


@pytest.mark.parametrize("percentage", [1, 20, 99])
async def test_as_many_calls_are_sampled_as_the_percentage_says(site, percentage):
    random.seed(20)
    here = site(config(percentage, "Input"))
    calls = 20_000
    for _ in range(calls):
        here.call(b"")
    await here.captures.flush()
    share = percentage / 100
    assert abs(here.counted()[0] - calls * share) < 4 * (calls * share * (1 - share)) ** 0.5


async def test_a_variant_whose_calls_are_not_captured_is_left_as_it_is(site):
    here = site(config(0))
    assert (here.variant.submit, here.variant.withdraw) == (here.backend.submit, here.backend.withdraw)


async def written(here: Site, calls: int) -> None:
    while here.counted()[0] < calls:  # noqa: ASYNC110 - a thread writes, and tells nobody
        await asyncio.sleep(0.001)
