"""Captured calls as SageMaker writes them: objects of JSON Lines, a folder for each hour (UTC).

    <destination>/<endpoint>/<variant>/2026/12/24/18/04-31-250-<uuid>.jsonl

    {"captureData": {"endpointInput": {"observedContentType": "text/csv", "mode": "INPUT", "data": "1,2", "encoding": "CSV"},
                     "endpointOutput": {…}},
     "eventMetadata": {"eventId": "<uuid>", "inferenceTime": "2026-12-24T18:04:31Z"}, "eventVersion": "0"}

`customAttributes` and `inferenceId` stand in `eventMetadata` where the call had them.
https://docs.aws.amazon.com/sagemaker/latest/dg/model-monitor-data-capture-endpoint.html
"""  # noqa: E501 - a line of such a file is one line

from __future__ import annotations

import uuid
from base64 import b64encode
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Literal

import msgspec

from fourfold.records import Call, Reply

CUSTOM_ATTRIBUTES = "x-amzn-sagemaker-custom-attributes"
INFERENCE_ID = "x-amzn-sagemaker-inference-id"

_encoder = msgspec.json.Encoder()


class Payload(msgspec.Struct, rename="camel"):
    """What went in or came out."""

    observed_content_type: str
    mode: Literal["INPUT", "OUTPUT"]
    data: str
    encoding: Literal["CSV", "JSON", "BASE64"]


class CaptureData(msgspec.Struct, rename="camel", omit_defaults=True):
    endpoint_input: Payload | None = None
    endpoint_output: Payload | None = None


class EventMetadata(msgspec.Struct, rename="camel", omit_defaults=True, kw_only=True):
    event_id: str
    custom_attributes: list[str] | None = None
    inference_id: str | None = None
    inference_time: str


class CapturedCall(msgspec.Struct, rename="camel"):
    """One line."""

    capture_data: CaptureData
    event_metadata: EventMetadata
    event_version: str = "0"


@dataclass(frozen=True)
class CaptureConfig:
    """What a `DataCaptureConfig` asks for.

    Attributes:
        destination: the address under which objects go, without a slash at its end.
        percentage: of the calls that are captured, 0 to 100.
        modes: INPUT, OUTPUT or both.
        csv, json: media types whose bodies are written as text; those of any other are written in Base64.
    """

    destination: str
    percentage: int
    modes: frozenset[str]
    csv: frozenset[str]
    json: frozenset[str]

    @classmethod
    def of(cls, document: dict[str, Any]) -> CaptureConfig:
        """The config as the API has it."""
        modes = {option["CaptureMode"] for option in document["CaptureOptions"]}
        if "InputAndOutput" in modes:
            modes |= {"Input", "Output"}
        types = document.get("CaptureContentTypeHeader", {})
        return cls(
            document["DestinationS3Uri"].rstrip("/"),
            document["InitialSamplingPercentage"],
            frozenset(mode.upper() for mode in modes),
            frozenset(map(str.lower, types.get("CsvContentTypes", ()))),
            frozenset(map(str.lower, types.get("JsonContentTypes", ()))),
        )

    def lines(self, calls: Iterable[tuple[float, Call, Reply]]) -> bytes:
        """Calls with their answers and the times of these (seconds since the epoch), a line each."""
        random = str(uuid.uuid4())[:-12]  # a UUID for each call would take longer than all the rest
        numbered = enumerate(calls)
        return _encoder.encode_lines([self._captured(f"{random}{number:012x}", *call) for number, call in numbered])

    def _captured(self, id: str, at: float, call: Call, reply: Reply) -> CapturedCall:
        headers = call.headers or {}
        attributes = headers.get(CUSTOM_ATTRIBUTES)
        return CapturedCall(
            CaptureData(
                self._payload("INPUT", call.content_type, call.body) if "INPUT" in self.modes else None,
                self._payload("OUTPUT", reply.content_type, reply.body) if "OUTPUT" in self.modes else None,
            ),
            EventMetadata(
                event_id=id,
                custom_attributes=None if attributes is None else [attributes],
                inference_id=headers.get(INFERENCE_ID),
                inference_time=_second(int(at)),
            ),
        )

    def _payload(self, mode: Literal["INPUT", "OUTPUT"], content_type: str, body: bytes) -> Payload:
        media_type = content_type.partition(";")[0].strip().lower()
        try:
            if media_type in self.csv:
                return Payload(content_type, mode, str(body, "utf-8"), "CSV")
            if media_type in self.json:
                return Payload(content_type, mode, str(body, "utf-8"), "JSON")
        except UnicodeDecodeError:
            pass  # it is not what it says, and is kept as it is
        return Payload(content_type, mode, b64encode(body).decode(), "BASE64")


@lru_cache(maxsize=64)
def _second(at: int) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%dT%H:%M:%SZ}"


def hour_folder(at: float) -> str:
    """`2026/12/24/18` of a time, seconds since the epoch."""
    return f"{datetime.fromtimestamp(at, UTC):%Y/%m/%d/%H}"


def file_name(at: float) -> str:
    """A name that no other object has, for one whose first call was answered then."""
    moment = datetime.fromtimestamp(at, UTC)
    return f"{moment:%M-%S}-{moment.microsecond // 1000:03d}-{uuid.uuid4()}.jsonl"
