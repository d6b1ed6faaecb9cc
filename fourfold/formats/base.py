"""What a format and a loaded model are.

A format is found by `registry`, detects its artifact in a folder and loads it inside a worker. It returns one of

Model            answers calls; bytes in, bytes out
├── ArrayModel   named arrays in, named arrays out; `codecs` does the bytes. Also what batch feeds columns to.
└── AsyncModel   answers many calls at once on an event loop (handlers written with `async def`)
"""

from __future__ import annotations

import sys
import traceback
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias

from fourfold.records import Call, Opening, Reply

if TYPE_CHECKING:  # the gateway reads format descriptions and has no use for numpy's 20 MB
    import numpy as np
    from numpy.typing import NDArray

Arrays: TypeAlias = "dict[str, NDArray[np.generic]]"
"""Named arrays that share their first axis, one entry per record."""


@dataclass(frozen=True)
class Tensor:
    """One input or output of a model.

    `shape` has None where any length will do; its first axis is the batch where the model can batch. `dtype` is a
    numpy name such as `float32`; `object` means strings.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...]
    columns: tuple[str, ...] = ()
    """Names along the second axis, where the model knows them: named columns are put in this order."""
    nullable: bool = False
    """Strings may be missing: JSON's null and an empty cell become NaN."""
    binary: bool = False
    """Strings may be bytes: JSON has them as `{"b64": …}`, as TensorFlow Serving does."""

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype}[{', '.join('?' if n is None else str(n) for n in self.shape)}]"


@dataclass(frozen=True)
class Artifact:
    """An unpacked model artifact and how to load it."""

    path: Path
    """Folder that holds it."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """The model's Environment as CreateModel gave it."""
    threads: int = 1
    format: str = ""
    """Name of the format that loads it, for modules that know several."""


class Format(Protocol):
    """One kind of artifact."""

    @property
    def name(self) -> str: ...

    @property
    def executes_code(self) -> bool:
        """True where loading runs code that the artifact brings; `--trusted-only` refuses these.

        Models of other formats may be loaded side by side in one process, and called from several threads, though each
        by one at a time.
        """

    @property
    def imports(self) -> tuple[str, ...]:
        """Modules that a zygote imports before it forks workers of this format. They must start no thread."""

    @property
    def extra(self) -> str | None:
        """`pip install fourfold[extra]` brings what it needs. None: the base install does."""

    def detect(self, folder: Path) -> bool:
        """Is the artifact in `folder` of this kind? Looks at names and first bytes; imports and runs nothing."""

    def load(self, artifact: Artifact) -> Model:
        """Load it. Raises ModelLoadError with the real reason."""


def failed(call: Call, message: str, error: BaseException, status: int = 500) -> Reply:
    """A model's exception as a reply. Its traceback goes along, and to the worker's log."""
    detail = "".join(traceback.format_exception(error))
    print(detail, end="", file=sys.stderr, flush=True)
    return Reply(call.id, message.encode("utf-8", "replace"), "text/plain", status, detail=detail)


def status_of(error: BaseException) -> int:
    """The status that an exception stands for: 500, or its own `status_code` where it has one of an error."""
    status = getattr(error, "status_code", None)
    return status if isinstance(status, int) and 400 <= status <= 599 else 500


class Unanswered(Exception):
    """A streamed call that the model answers with an error instead of parts: its own words and status."""

    def __init__(self, body: bytes, status: int) -> None:
        super().__init__(bytes(body).decode("utf-8", "replace") or f"The model answered {status}.")
        self.status_code = status


class Model(ABC):
    """A model that is loaded in this process."""

    max_batch: int = 1
    """Most calls that one `invoke` takes; 1 where the model cannot batch."""
    inputs: tuple[Tensor, ...] = ()
    outputs: tuple[Tensor, ...] = ()
    forkable: bool = False
    """May this process be forked when the model is loaded, and go on in the child? Only without threads."""

    @abstractmethod
    def invoke(self, calls: Sequence[Call]) -> list[Reply]:
        """Answer each call, in order. A call's failure is a Reply with its status, never an exception."""

    def stream(self, call: Call) -> Iterator[bytes]:
        """Answer one call in parts, the first of which may be an `Opening`.

        An exception ends the stream, with its status where there was no part yet.
        """
        reply = self.invoke([call])[0]
        if reply.status != 200:
            raise Unanswered(reply.body, reply.status)
        yield Opening(reply.body, reply.content_type, reply.headers)

    def close(self) -> None:  # noqa: B027  most models have nothing to close
        """Called once before the worker ends."""


class ArrayModel(Model):
    """A model over arrays. Subclasses give `inputs`, `outputs` and `predict`; `invoke` comes from `codecs`."""

    max_batch = 32

    @abstractmethod
    def predict(self, inputs: Arrays) -> Arrays:
        """Run the model on one batch of records."""

    def invoke(self, calls: Sequence[Call]) -> list[Reply]:
        from fourfold.formats.codecs import invoke_arrays  # codecs imports this module

        return invoke_arrays(self, calls)


class AsyncModel(Model):
    """A model whose calls wait on something else and may overlap."""

    concurrency: int = 100
    """Most calls that run at once in one worker."""

    @abstractmethod
    async def ainvoke(self, call: Call) -> Reply: ...

    @abstractmethod
    def astream(self, call: Call) -> AsyncIterator[bytes]: ...

    def invoke(self, calls: Sequence[Call]) -> list[Reply]:
        raise TypeError("an AsyncModel is awaited: call ainvoke")
