"""How a job treats its records: the options of a CreateTransformJob request, checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from fourfold.errors import ValidationException
from fourfold.modes.batch import filters

MIB = 1024 * 1024
SHARD_BYTES = 16 * MIB
"""About how much of an object one shard takes: seconds of work, so that little is lost when a worker is."""

CSV = ("text/csv", "application/csv")
JSON_LINES = ("application/jsonlines", "application/x-jsonlines", "application/jsonl", "application/x-ndjson")
PARQUET = ("application/vnd.apache.parquet", "application/x-parquet", "application/parquet")
ARROW = ("application/vnd.apache.arrow.file", "application/vnd.apache.arrow.stream")

OnError = Literal["fail", "skip", "record"]


class Options(msgspec.Struct, frozen=True):
    """How a job treats its records. Plain data; defaults are AWS's where AWS has the option."""

    content_type: str = ""
    accept: str = ""
    split: Literal["None", "Line", "RecordIO", "TFRecord"] = "None"
    strategy: Literal["MultiRecord", "SingleRecord"] = "MultiRecord"
    max_payload: int = 6 * MIB
    """Bytes of one request to the model; 0: no limit."""
    gzip: bool = False
    assemble: Literal["None", "Line"] = "None"
    input_filter: str = "$"
    output_filter: str = "$"
    join: bool = False
    on_error: OnError = "fail"
    """fail: a bad record fails its object. skip, record: it is reported in `_errors/`, and its object goes on."""
    timeout: float = 600.0
    """Seconds for one request to the model."""
    retries: int = 3
    """How often a request that failed by timeout or by the end of its worker is tried again."""
    capture: str = ""
    """Address under which manifests of inputs and outputs are captured; empty: no capture."""
    shard_bytes: int = SHARD_BYTES
    inference_ids: bool = False
    """Add an inference id and time to every record of the output."""

    @property
    def media(self) -> str:
        """The content type without its parameters, in lower case."""
        return self.content_type.partition(";")[0].strip().lower()

    @property
    def answer(self) -> str:
        """The accepted type without its parameters; the content type where Accept names none."""
        return self.accept.partition(";")[0].strip().lower() or self.media

    @property
    def columnar(self) -> bool:
        """Are the objects tables of columns?"""
        return self.media in PARQUET + ARROW

    @property
    def header(self) -> bool:
        """Is the first line of each CSV object a header?"""
        parameters = self.content_type.lower().replace(" ", "").split(";")[1:]
        return self.media in CSV and "header=present" in parameters


def options_of(request: Mapping[str, Any]) -> Options:
    """The options of a CreateTransformJob request. Raises ValidationException where they contradict one another."""
    given = request["TransformInput"]
    wanted = request["TransformOutput"]
    processing = request.get("DataProcessing", {})
    client = request.get("ModelClientConfig", {})
    capture = request.get("DataCaptureConfig", {})
    environment = request.get("Environment", {})
    megabytes = request.get("MaxPayloadInMB", 6)
    if megabytes > 100 or megabytes * max(request.get("MaxConcurrentTransforms", 1), 1) > 100:
        raise ValidationException(
            "MaxPayloadInMB, and MaxPayloadInMB times MaxConcurrentTransforms, must not be over 100."
        )
    result = Options(
        content_type=given.get("ContentType", ""),
        accept=wanted.get("Accept", ""),
        split=given.get("SplitType", "None"),
        strategy=request.get("BatchStrategy", "MultiRecord"),
        max_payload=megabytes * MIB,
        gzip=given.get("CompressionType", "None") == "Gzip",
        assemble=wanted.get("AssembleWith", "None"),
        input_filter=processing.get("InputFilter", "$"),
        output_filter=processing.get("OutputFilter", "$"),
        join=processing.get("JoinSource", "None") == "Input",
        on_error=_on_error(environment.get("FOURFOLD_ON_ERROR", "fail")),
        timeout=float(client.get("InvocationsTimeoutInSeconds", 600)),
        retries=client.get("InvocationsMaxRetries", 3),
        capture=capture.get("DestinationS3Uri", ""),
        inference_ids=capture.get("GenerateInferenceId", False),
    )
    _check(result, given["DataSource"]["S3DataSource"]["S3DataType"])
    return result


def _on_error(value: str) -> OnError:
    match value:
        case "fail" | "skip" | "record":
            return value
    raise ValidationException(f"FOURFOLD_ON_ERROR must be fail, skip or record, not {value!r}.")


def _check(given: Options, data_type: str) -> None:
    if data_type not in ("S3Prefix", "ManifestFile"):
        raise ValidationException(f"S3DataType must be S3Prefix or ManifestFile for a transform job, not {data_type}.")
    picked = (filters.parse(given.input_filter), filters.parse(given.output_filter))
    if given.columnar:
        if given.answer not in PARQUET:
            raise ValidationException(
                f"A job over {given.media} writes Parquet: leave Accept out, or set it to {PARQUET[0]}."
            )
        return
    processed = given.join or any(picked)
    readable = given.media in CSV + JSON_LINES or given.media in ("", "application/json")
    if processed and not readable:
        raise ValidationException(
            "InputFilter, OutputFilter and JoinSource need the content type text/csv, application/json or "
            f"application/jsonlines, not {given.media}."
        )
    if given.join and given.answer in PARQUET and given.media in CSV:
        return
    if given.join and _family(given.answer) != _family(given.media):
        raise ValidationException(
            "JoinSource Input needs Accept to be the same type as ContentType, or Parquet where that is CSV."
        )
    if given.join and given.split != given.assemble and given.split in ("None", "Line"):
        raise ValidationException("JoinSource Input needs AssembleWith to be the same as SplitType.")


def _family(media: str) -> str:
    return "csv" if media in CSV else "json lines" if media in JSON_LINES else media or "application/json"
