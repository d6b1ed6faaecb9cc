"""AWS event stream messages (`application/vnd.amazon.eventstream`), as InvokeEndpointWithResponseStream answers.

    message = total length (4) · headers length (4) · CRC of these (4) · headers · payload · CRC of all before (4)
    header  = name length (1) · name · 7 (a string) · value length (2) · value

Format: https://smithy.io/2.0/aws/amazon-eventstream.html
"""

from __future__ import annotations

import struct
from binascii import crc32

import msgspec

CONTENT_TYPE = "application/vnd.amazon.eventstream"


def message(headers: dict[str, str], payload: bytes) -> bytes:
    """One message with string headers."""
    encoded = b"".join(_header(name, value) for name, value in headers.items())
    start = struct.pack(">II", 16 + len(encoded) + len(payload), len(encoded))
    body = start + struct.pack(">I", crc32(start)) + encoded + payload
    return body + struct.pack(">I", crc32(body))


def payload_part(body: bytes) -> bytes:
    """A `PayloadPart` event."""
    return message(
        {":message-type": "event", ":event-type": "PayloadPart", ":content-type": "application/octet-stream"}, body
    )


def model_stream_error(text: str, code: str = "StreamBroken") -> bytes:
    """A `ModelStreamError` exception; code is ModelInvocationTimeExceeded or StreamBroken."""
    return message(
        {
            ":message-type": "exception",
            ":exception-type": "ModelStreamError",
            ":content-type": "application/json",
        },
        msgspec.json.encode({"Message": text, "ErrorCode": code}),
    )


def _header(name: str, value: str) -> bytes:
    encoded_name, encoded_value = name.encode(), value.encode()
    return bytes([len(encoded_name)]) + encoded_name + b"\x07" + struct.pack(">H", len(encoded_value)) + encoded_value
