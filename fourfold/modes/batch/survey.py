"""Looks at a job's objects and cuts its plan. Runs in a worker: it lists, scans and reads footers.

`run` tells the plan piece by piece, as it is found, so that a plan of any length takes little memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

from fourfold.errors import FourfoldError, ValidationException
from fourfold.formats.base import AsyncModel, Model
from fourfold.modes.batch import columnar, overlap, plan
from fourfold.modes.batch.addresses import manifest, output_url
from fourfold.modes.batch.blobs import Blobs
from fourfold.modes.batch.orders import Piece, Planned, Survey
from fourfold.modes.batch.plan import Found, Shard, Slice
from fourfold.modes.batch.reading import first_line

PIECE = 16
"""Shards that are told at a time."""
MANIFEST_BYTES = 64 * 1024 * 1024
"""Longest manifest that is read."""


def run(_model: Model, payload: bytes, report: Callable[[bytes], None]) -> bytes:
    """Plan a job: pieces by `report`, then `Planned`."""
    survey = msgspec.msgpack.decode(payload, type=Survey)
    try:
        count = _plan(survey, Blobs(Path(survey.root)), lambda piece: report(msgspec.msgpack.encode(piece)))
        planned = Planned(count) if count else Planned(0, _nothing_found(survey.source))
    except FourfoldError as error:
        planned = Planned(0, f"ClientError: {error.message}")
    return msgspec.msgpack.encode(planned)


async def arun(model: AsyncModel, payload: bytes, report: Callable[[bytes], None]) -> bytes:
    """The same beside a model that is awaited."""
    return await overlap.in_thread(run, model, payload, report)


def _plan(survey: Survey, blobs: Blobs, tell: Callable[[Piece], None]) -> int:
    source, found = _numbered(survey, blobs)
    objects: list[Slice] = []
    shards: list[Shard] = []
    count = 0

    def noted() -> Iterator[tuple[int, Found, str]]:
        nonlocal count
        for number, item in found:
            output = output_url(survey.destination, item.url, source)
            objects.append(Slice(number, item.url, output, item.size, 0, item.size))
            count += 1
            yield number, item, output

    for shard in plan.shards(noted(), survey.options, _Source(blobs)):
        shards.append(shard)
        if len(shards) == PIECE:
            tell(Piece(tuple(objects), tuple(shards)))
            objects.clear()
            shards.clear()
    if shards or objects:
        tell(Piece(tuple(objects), tuple(shards)))
    return count


def _numbered(survey: Survey, blobs: Blobs) -> tuple[str, Iterator[tuple[int, Found]]]:
    """The prefix that outputs are named after, and the objects."""
    if survey.data_type == "S3Prefix":
        return survey.source, enumerate(found for found in blobs.list(survey.source) if not plan.is_mark(found))
    content = _short(blobs, survey.source)
    prefix, urls = manifest(content, survey.source)
    return prefix, enumerate(_listed(url, blobs) for url in urls)


def _listed(url: str, blobs: Blobs) -> Found:
    """An object of a manifest. One that cannot be read is planned all the same: its shard says why it failed."""
    try:
        return Found(url, blobs.size(url))
    except (FourfoldError, OSError):
        return Found(url, 0)


def _short(blobs: Blobs, url: str) -> bytes:
    if blobs.size(url) > MANIFEST_BYTES:
        raise ValidationException(f"The manifest {url} is over {MANIFEST_BYTES:,} bytes.")
    return b"".join(blobs.read(url))


def _nothing_found(source: str) -> str:
    return (
        f'ClientError: No S3 objects found under S3 URL "{source}" given in input data source. Please ensure that the '
        "bucket exists and that objects exist under that S3 prefix."
    )


class _Source:
    """What `plan.cut` asks of big objects. What cannot be read here fails again, and is told, when its shard runs."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs

    def quotes(self, url: str, borders: Sequence[int]) -> list[int]:
        counts: list[int] = []
        at = total = 0
        waiting = list(borders)
        for chunk in self._blobs.read(url):
            while waiting and waiting[0] <= at + len(chunk):
                counts.append(total + chunk.count(b'"', 0, waiting.pop(0) - at))
            total += chunk.count(b'"')
            at += len(chunk)
        return [*counts, *[total] * len(waiting), total]

    def first_line(self, url: str) -> str:
        return first_line(self._blobs.read(url))

    def row_groups(self, url: str, media: str) -> list[int]:
        try:
            with self._blobs.open(url) as file:
                return columnar.row_groups(file, media)
        except (OSError, ValueError):  # pyarrow's errors are among these
            return []
