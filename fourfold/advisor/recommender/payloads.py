"""The sample requests that a job brings."""

from __future__ import annotations

import itertools
import tarfile
from collections.abc import Iterator
from typing import Any

from fourfold.errors import ValidationException
from fourfold.storage.objects import Objects, parse_location

Document = dict[str, Any]

PAYLOAD_FILES, PAYLOAD_BYTES = 100, 25_000_000


def payload(objects: Objects, wanted: Document) -> tuple[tuple[bytes, ...], str]:
    """The sample requests and their content type; none where the job brings none."""
    config = wanted.get("ContainerConfig", {}).get("PayloadConfig", {})
    content_type = (config.get("SupportedContentTypes") or ["application/json"])[0]
    url = config.get("SamplePayloadUrl")
    if not url:
        return (), content_type
    location = parse_location(url)
    body = objects.get(location, PAYLOAD_BYTES)
    with objects.open(location) as file:
        try:
            with tarfile.open(fileobj=file) as archive:
                return tuple(_files(archive)), content_type
        except tarfile.ReadError:
            return (body,), content_type  # the object is the payload itself


def _files(archive: tarfile.TarFile) -> Iterator[bytes]:
    left = PAYLOAD_BYTES
    for member in itertools.islice((m for m in archive if m.isfile()), PAYLOAD_FILES):
        left -= member.size
        if left < 0:
            raise ValidationException(f"SamplePayloadUrl: the samples have more than {PAYLOAD_BYTES:,} bytes together.")
        file = archive.extractfile(member)
        if file is not None:
            yield file.read()
