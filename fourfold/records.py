"""The plain records that several layers share: calls, replies, worker specs, names and ARNs. No behaviour, no numpy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import msgspec

ACCOUNT_ID = "123456789012"
"""The account id unless the settings name another; the one that AWS's own documentation uses."""


PATH = "x-fourfold-path"
"""Header of a call for another path of a model's own server than /invocations."""


class Call(msgspec.Struct, array_like=True, gc=False):
    """One invocation on its way to a model."""

    id: int
    """Unique among the calls in flight on one worker connection."""
    body: bytes
    content_type: str = "application/json"
    accept: str = ""
    """As the client sent it; empty means no preference."""
    headers: dict[str, str] | None = None
    """What else the model may see, by lower-case header name (`x-amzn-sagemaker-custom-attributes`). None: nothing."""
    stream: bool = False
    """True: the reply goes back part by part."""


class Reply(msgspec.Struct, array_like=True, gc=False):
    """A model's answer to one call.

    Status 200 is an answer. Anything else is the model's error: `body` then is its message (text) and `detail` the
    traceback or whatever else helps; the gateway turns it into a ModelError with `status` as OriginalStatusCode.
    """

    id: int
    body: bytes
    content_type: str = "application/json"
    status: int = 200
    headers: dict[str, str] | None = None
    detail: str = ""


class Opening(bytes):
    """The first part of a streamed answer, which also says what the answer is.

    Attributes:
        content_type: of the whole.
        headers: as a `Reply` has them.
    """

    content_type: str
    headers: dict[str, str] | None

    def __new__(cls, part: bytes, content_type: str, headers: dict[str, str] | None = None) -> Opening:
        opening = super().__new__(cls, part)
        opening.content_type = content_type
        opening.headers = headers
        return opening


class WorkerSpec(msgspec.Struct, frozen=True, array_like=True):
    """All that a worker needs to load one model. Plain data, so that it can be sent to another machine."""

    model: str
    """Name of the model, for logs and messages."""
    path: str
    """Folder with the unpacked artifact (or the folder that holds its single file)."""
    format: str
    """Name of the format; the registry has resolved it."""
    environment: dict[str, str] = {}
    threads: int = 1
    """Intra-op threads of the framework."""
    memory_mb: int | None = None
    """End the worker when it holds more than this. None: no limit."""
    log_path: str = ""
    """File that receives the worker's standard output and error. Empty: inherited."""
    python: str = ""
    """Interpreter of the model's own virtual environment. Empty: the server's."""
    stages: tuple[WorkerSpec, ...] = ()
    """What an inference pipeline in one process consists of, in order; the worker then loads these, not itself."""


@dataclass(frozen=True)
class Partition:
    """Account and region: what an ARN needs beside the resource."""

    region: str = "us-east-1"
    account: str = ACCOUNT_ID

    def arn(self, resource: str, service: str = "sagemaker") -> str:
        """`arn("endpoint/fraud")` is `arn:aws:sagemaker:us-east-1:123456789012:endpoint/fraud`."""
        return f"arn:aws:{service}:{self.region}:{self.account}:{resource}"


Outcome = Literal["completed", "failed", "expired", "cancelled"]
"""What becomes of an asynchronous call."""
