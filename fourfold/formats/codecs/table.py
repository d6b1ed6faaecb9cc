"""Which codec a media type means, and which one an Accept header asks for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from fourfold.formats.base import Arrays, Tensor
from fourfold.formats.codecs import binary, csv, json, libsvm, oip
from fourfold.formats.codecs.request import BadRequest, Body, Decode, Encode, Parameters, Request


@dataclass(frozen=True)
class Codec:
    """One kind of content, both ways."""

    name: str
    types: tuple[str, ...]
    """Media types that mean it, in lower case; answers carry the first."""
    decode: Decode
    encode: Encode
    several: str | None = None
    """Codec that answers in its place, where the client leaves the choice, when there are several outputs."""
    always: str | None = None
    """The same, whatever the outputs."""


def _decode_parquet(body: Body, parameters: Parameters, inputs: tuple[Tensor, ...]) -> Request:
    from fourfold.formats.codecs import parquet  # pyarrow is 40 MB that most workers never need

    return parquet.decode(body, parameters, inputs)


def _encode_parquet(outputs: Arrays, request: Request, parameters: Parameters) -> bytes:
    from fourfold.formats.codecs import parquet

    return parquet.encode(outputs, request, parameters)


CODECS: tuple[Codec, ...] = (
    Codec("JSON", ("application/json",), json.decode, json.encode),
    Codec(
        "JSON Lines",
        ("application/jsonlines", "application/x-jsonlines", "application/jsonl", "application/x-ndjson"),
        json.decode_lines,
        json.encode_lines,
    ),
    Codec("CSV", ("text/csv", "application/csv"), csv.decode, csv.encode),
    Codec("NPY", ("application/x-npy",), binary.decode_npy, binary.encode_npy, several="NPZ"),
    Codec("NPZ", ("application/x-npz",), binary.decode_npz, binary.encode_npz),
    Codec(
        "Parquet",
        ("application/vnd.apache.parquet", "application/x-parquet", "application/parquet"),
        _decode_parquet,
        _encode_parquet,
    ),
    Codec(
        "libsvm",
        ("text/libsvm", "text/x-libsvm", "application/x-libsvm"),
        libsvm.decode,
        libsvm.encode,
        always="CSV",
    ),
    Codec("Open Inference Protocol", (oip.TYPE,), oip.decode, oip.encode),
    Codec("raw bytes", ("application/octet-stream",), binary.decode_raw, binary.encode_raw, several="JSON"),
)

_BY_TYPE = {media: codec for codec in CODECS for media in codec.types}
_BY_NAME = {codec.name: codec for codec in CODECS}
_TYPES = ", ".join(codec.types[0] for codec in CODECS)


@lru_cache(1024)
def codec_for(content_type: str) -> tuple[Codec, Parameters]:
    """The codec that reads a content type, and the type's parameters. No content type means JSON.

    Raises:
        BadRequest: 415, naming the types that are read; also for a charset other than UTF-8.
    """
    media, parameters = _parse(content_type or "application/json")
    codec = _BY_TYPE.get(media)
    if codec is None and media.endswith("+json"):
        codec = _BY_NAME["JSON"]
    if codec is None:
        raise BadRequest(f"Content type {content_type!r} is not one this model reads; send one of {_TYPES}.", 415)
    if parameters.get("charset", "utf-8").lower() not in ("utf-8", "utf8", "us-ascii"):
        raise BadRequest(f"Charset {parameters['charset']!r} is not read; send UTF-8.", 415)
    return codec, parameters


@lru_cache(1024)
def negotiate(accept: str, asked: Codec, several: bool) -> tuple[Codec, str, Parameters]:
    """The codec of an answer, its content type, and the type's parameters.

    Args:
        accept: the Accept header; empty for no preference. Among equals of the highest q the request's own kind
            wins, then the order in which the client wrote them.
        asked: codec of the request.
        several: the model has several outputs.

    Raises:
        BadRequest: 406, naming the types that can be sent.
    """
    ranges = [_parse(part) for part in accept.split(",") if part.strip()] or [("*/*", {})]
    refused = {media for media, parameters in ranges if _quality(parameters) == 0}
    choices = []
    for position, (media, parameters) in enumerate(ranges):
        codec = _matching(media, asked, several, refused)
        if codec is not None and media not in refused:
            answer = media if media in codec.types else codec.types[0]
            order = (-_quality(parameters), "*" in media, codec is not asked, position)
            choices.append((order, codec, answer, parameters))
    if not choices:
        raise BadRequest(f"Accept {accept!r} allows nothing this model can send; it sends {_TYPES}.", 406)
    _, codec, answer, parameters = min(choices, key=lambda choice: choice[0])
    return codec, answer, parameters


def _matching(media: str, asked: Codec, several: bool, refused: set[str]) -> Codec | None:
    if not media.endswith("/*"):
        return _BY_TYPE.get(media)
    instead = asked.always or (asked.several if several else None)
    own = asked if instead is None else _BY_NAME[instead]
    for codec in (own, *CODECS):
        if (media == "*/*" or codec.types[0].startswith(media[:-1])) and refused.isdisjoint(codec.types):
            return codec
    return None


def _quality(parameters: Parameters) -> float:
    try:
        return min(max(float(parameters.get("q", "1")), 0.0), 1.0)
    except ValueError:
        return 0.0


def _parse(value: str) -> tuple[str, dict[str, str]]:
    media, *pairs = value.split(";")
    parameters = {}
    for pair in pairs:
        name, _, content = pair.partition("=")
        parameters[name.strip().lower()] = content.strip().strip('"')
    return media.strip().lower(), parameters
