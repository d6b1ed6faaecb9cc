"""Addresses of a job: of its inputs as a manifest names them, of its outputs, of its reports of bad records."""

from __future__ import annotations

import posixpath

import msgspec

from fourfold.errors import ValidationException


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
