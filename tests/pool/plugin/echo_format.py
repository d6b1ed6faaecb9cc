"""A format as another package would bring it: its model does what the body says."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from fourfold.errors import ModelLoadError
from fourfold.formats.base import Artifact, Model
from fourfold.records import Call, Reply


class EchoModel(Model):
    max_batch = 8

    def invoke(self, calls: Sequence[Call]) -> list[Reply]:
        return [self._answer(call, len(calls)) for call in calls]

    def _answer(self, call: Call, batch: int) -> Reply:
        match call.body.split(b":"):
            case [b"pid"]:
                return Reply(call.id, str(os.getpid()).encode())
            case [b"batch"]:
                return Reply(call.id, str(batch).encode())
            case [b"die"]:
                os._exit(3)
            case [b"sleep", seconds]:
                time.sleep(float(seconds))
            case [b"burn", seconds]:
                end = time.process_time() + float(seconds)
                while time.process_time() < end:
                    pass
            case [b"raise"]:
                raise ValueError("as asked")
        return Reply(call.id, call.body)

    def stream(self, call: Call) -> Iterator[bytes]:
        count = int(call.body)
        try:
            for number in range(count):
                if number == 13:
                    raise ValueError("thirteen")
                yield str(number).encode()
                time.sleep(0.001)
        finally:
            Path(os.environ["ECHO_FOLDER"], "stream-ended").touch()


class Echo:
    name = "echo"
    executes_code = False
    imports = ()
    extra = None

    def detect(self, folder: Path) -> bool:
        return (folder / "echo").exists()

    def load(self, artifact: Artifact) -> Model:
        what = artifact.environment.get("ECHO_LOAD", "")
        print(f"loading {what}")
        if what == "fail":
            raise ModelLoadError("this artifact is no good")
        if what == "die":
            os._exit(4)
        if what == "sleep":
            time.sleep(3600)
        return EchoModel()


def square(model: Model, payload: bytes, report: object) -> bytes:
    """A task."""
    assert isinstance(model, EchoModel)
    number = int(payload)
    report(b"half way")  # type: ignore[operator]
    return str(number * number).encode()
