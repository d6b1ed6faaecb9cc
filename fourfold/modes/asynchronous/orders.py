"""What the dispatcher and the workers say to each other, and what the queue keeps of a call: plain data.

dispatcher → worker    Errand
worker → dispatcher    Report* as progress, Report at the end: together one Done for each order, in order
"""

from __future__ import annotations

import msgspec

from fourfold.records import Outcome
from fourfold.storage.objects import HIDDEN

RUN = "fourfold.modes.asynchronous.work:run"
"""What task frames name."""

KEPT = f"{HIDDEN}/async"
"""Folder in a bucket for outputs that are not objects yet: on the same file system, so that a rename makes them one."""
MOST_INPUT = 1024 * 1024 * 1024
"""Largest input, bytes: SageMaker's limit for asynchronous calls."""
SMALL_OUTPUT = 64 * 1024
"""An output of at most so many bytes is kept in the queue until it is an object; a larger one waits in KEPT."""


class Topics(msgspec.Struct, frozen=True, omit_defaults=True):
    """Who is told of an outcome; from the endpoint's NotificationConfig when the call was accepted."""

    success: str = ""
    error: str = ""
    success_with_response: bool = False
    error_with_response: bool = False


JSON = "application/json"
"""What inputs and outputs are where nobody says anything else."""


class Request(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is asked of the model."""

    ttl: float
    """Seconds that the call may wait."""
    timeout: float
    """Seconds that the model may take."""
    input: str = ""
    """InputLocation; empty: the body came with the call."""
    content_type: str = JSON
    """Empty: what the input's object says."""
    accept: str = ""
    custom_attributes: str = ""
    topics: Topics = Topics()


class Verdict(msgspec.Struct, frozen=True, omit_defaults=True):
    """What was decided of a call."""

    outcome: Outcome
    code: str = ""
    message: str = ""
    traceback: str = ""
    content_type: str = ""
    """Of the output."""
    size: int = 0
    kept: str = ""
    """Name in KEPT of an output that was too large for the queue."""
    attempts: int = 0


class Order(msgspec.Struct, frozen=True, array_like=True):
    """One call to answer."""

    kept: str
    """Path of the file for an output that is too large to be sent."""
    body: bytes | None
    input: str
    content_type: str
    accept: str
    headers: dict[str, str]


class Errand(msgspec.Struct, frozen=True, array_like=True):
    """Calls to answer, one after the other, or up to `batch` at once where the model can."""

    root: str
    """The folder of buckets."""
    batch: int
    orders: list[Order]


class Done(msgspec.Struct, frozen=True, array_like=True):
    """What came of one order: an answer where `code` is empty."""

    code: str = ""
    message: str = ""
    traceback: str = ""
    again: bool = False
    """True: it was not the model's fault, nor the input's; it may go well later."""
    content_type: str = ""
    size: int = 0
    body: bytes | None = None
    """The output; None: it is in the order's `kept` file."""
    input_seconds: float = 0.0
    model_seconds: float = 0.0
    output_seconds: float = 0.0


class Report(msgspec.Struct, frozen=True, array_like=True):
    """What was done since the last report."""

    done: list[Done]


encode = msgspec.msgpack.encode
decode_errand = msgspec.msgpack.Decoder(Errand).decode
decode_report = msgspec.msgpack.Decoder(Report).decode
to_json = msgspec.json.Encoder().encode
request_of = msgspec.json.Decoder(Request).decode
verdict_of = msgspec.json.Decoder(Verdict).decode
