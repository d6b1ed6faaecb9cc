"""What a transform job shall do, as data: its options, its objects, and the shards that they are cut into.

The plan is written before anything runs, and it is all that a worker gets: addresses, byte ranges, row ranges. A shard
is either a run of whole small objects or a part of one big object. Where an object can be cut is found by `cut`, with
what a `Source` tells of it; `split` and `columnar` do the reading.
"""

from __future__ import annotations

import itertools
import posixpath
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol

import msgspec

from fourfold.errors import ValidationException
from fourfold.modes.batch import filters

MIB = 1024 * 1024

SHARD_BYTES = 16 * MIB
"""About how much of an object one shard takes: seconds of work, so that little is lost when a worker is."""
SHARD_OBJECTS = 256
"""Most whole objects in one shard."""
SHARD_ROWS = 262_144
"""About how many rows of a Parquet or Arrow file one shard takes."""
GROUP_SHARDS = 8
"""Most shards in one row group: a shard that begins inside one decodes what comes before its rows, too."""

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


class Slice(msgspec.Struct, frozen=True, omit_defaults=True):
    """An object or a part of one.

    `quotes` is about CSV: None, nobody has looked (the slice is a whole object); False, a newline ends a record
    wherever it is; True, not between quotes, and `inside` says whether the slice begins there.
    """

    object: int
    url: str
    output: str
    size: int
    start: int = 0
    stop: int = 0
    """Bytes, one past the last; for columnar objects rows, counted over the whole object."""
    quotes: bool | None = None
    inside: bool = False
    header: str = ""
    """The first line of a CSV object that has a header."""
    groups: tuple[int, int] = (0, 0)
    """Columnar: the row groups (or record batches) to read, one past the last."""
    first_row: int = 0
    """Columnar: number of the first row of those groups."""

    @property
    def whole(self) -> bool:
        return self.start == 0 and self.stop >= self.size and self.groups == (0, 0)


class Shard(msgspec.Struct, frozen=True):
    """What one worker does at a time."""

    slices: tuple[Slice, ...]

    @property
    def object(self) -> int | None:
        """The object that it is a part of; None where it holds whole objects."""
        return None if self.slices[0].whole else self.slices[0].object


class Found(msgspec.Struct, frozen=True):
    """An object of a listing."""

    url: str
    size: int


class Source(Protocol):
    """What planning needs to know about a big object; blocking."""

    def quotes(self, url: str, borders: Sequence[int]) -> list[int]:
        """How many double quotes stand before each border, and, last, in the whole object."""

    def first_line(self, url: str) -> str:
        """The first line of a CSV object, without its end."""

    def row_groups(self, url: str, media: str) -> list[int]:
        """The length of each row group or record batch."""


def options(request: Mapping[str, Any]) -> Options:
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


# Where outputs go


def output_url(destination: str, url: str, source: str) -> str:
    """Where the transformed `url` goes: the part of its key after the input prefix, under `destination`, with `.out`.

    >>> output_url("s3://b/out", "s3://b/in/a/data.csv", "s3://b/in/")
    's3://b/out/a/data.csv.out'

    A prefix that ends inside a name (`s3://b/in/part-`) counts up to its last slash; one that names the object itself
    leaves the object's own name.
    """
    if url.startswith(source.rstrip("/") + "/"):
        relative = url[len(source.rstrip("/")) :]
    else:
        relative = url[len(posixpath.dirname(source)) :]
    return f"{destination.rstrip('/')}/{relative.lstrip('/')}.out"


def errors_url(destination: str, output: str) -> str:
    """Where the bad records of the object with this output are reported."""
    base = destination.rstrip("/")
    return f"{base}/_errors/{output[len(base) + 1 :].removesuffix('.out')}.jsonl"


def manifest(content: bytes, url: str) -> tuple[str, list[str]]:
    """The prefix and the object addresses of a manifest `[{"prefix": "s3://b/p/"}, "a", "b"]`; repeated ones once.

    Raises:
        ValidationException: it has another form.
    """
    try:
        entries = msgspec.json.decode(content, type=list[dict[str, str] | str])
        head, names = entries[0], entries[1:]
        prefix = head["prefix"] if isinstance(head, dict) else ""
    except (msgspec.DecodeError, UnicodeDecodeError, IndexError, KeyError):
        prefix, names = "", []
    if not prefix.startswith("s3://") or not all(isinstance(name, str) for name in names):
        raise ValidationException(
            f'{url} is not a manifest: it must be a JSON list [{{"prefix": "s3://bucket/folder/"}}, "key", …].'
        )
    return prefix, list(dict.fromkeys(prefix + str(name) for name in names))


# Objects to shards


def shards(found: Iterable[tuple[int, Found, str]], given: Options, source: Source) -> Iterator[Shard]:
    """Cut objects, each with its number and output address, into shards, in order."""
    small: list[Slice] = []
    held = 0
    for number, item, output in found:
        slices = cut(Slice(number, item.url, output, item.size, 0, item.size), given, source)
        if len(slices) > 1:
            yield from (Shard((part,)) for part in slices)
            continue
        if small and (held + item.size > given.shard_bytes or len(small) == SHARD_OBJECTS):
            yield Shard(tuple(small))
            small, held = [], 0
        small.append(slices[0])
        held += item.size
    if small:
        yield Shard(tuple(small))


def cut(item: Slice, given: Options, source: Source) -> list[Slice]:
    """One object as slices that can be read apart; a single one where it is small or cannot be divided."""
    if given.gzip:
        return [item]
    if given.columnar:
        return _cut_rows(item, source.row_groups(item.url, given.media)) if item.size > MIB else [item]
    if given.split == "None" or item.size <= given.shard_bytes:
        return [item]
    count = -(-item.size // given.shard_bytes)
    borders = [item.size * i // count for i in range(count + 1)]
    pieces = [msgspec.structs.replace(item, start=a, stop=b) for a, b in itertools.pairwise(borders)]
    return _quoted(pieces, given, source) if given.media in CSV and given.split == "Line" else pieces


def _quoted(pieces: list[Slice], given: Options, source: Source) -> list[Slice]:
    """Tell each slice of a CSV object whether it begins between quotes.

    Where the quotes of an object do not balance, newlines between them cannot be told from others: every newline ends
    a record then, and a stray quote costs its own record only.
    """
    *before, total = source.quotes(pieces[0].url, [piece.start for piece in pieces])
    quoted = total > 0 and total % 2 == 0
    header = source.first_line(pieces[0].url) if given.header else ""
    return [
        msgspec.structs.replace(piece, quotes=quoted, inside=quoted and count % 2 == 1, header=header)
        for piece, count in zip(pieces, before, strict=True)
    ]


def _cut_rows(item: Slice, groups: list[int]) -> list[Slice]:
    """Slices of about SHARD_ROWS rows: several small row groups, or a part of a big one."""
    slices: list[Slice] = []
    total = sum(groups)
    run: list[int] = []
    first = row = 0
    for number, rows in enumerate(groups):
        run.append(rows)
        held = sum(run)
        if held < SHARD_ROWS and number + 1 < len(groups):
            continue
        parts = min(-(-held // SHARD_ROWS), GROUP_SHARDS) if len(run) == 1 else 1
        for i in range(parts):
            start, stop = row + held * i // parts, row + held * (i + 1) // parts
            span = (first, number + 1)
            slices.append(msgspec.structs.replace(item, start=start, stop=stop, groups=span, first_row=row))
        run, first, row = [], number + 1, row + held
    return slices if len(slices) > 1 and total else [item]
