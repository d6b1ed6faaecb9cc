"""Small models that answer in this process, for tests of what happens around a model."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np

from fourfold.formats.base import ArrayModel, Arrays, Model, Tensor
from fourfold.records import Call, Reply


class Sums(ArrayModel):
    """The sum of a row of floats, and whether it is over 10. Refuses a batch that holds -1."""

    inputs = (Tensor("x", "float32", (None, 3)),)
    outputs = (Tensor("sum", "float32", (None, 1)), Tensor("big", "int64", (None,)))

    def __init__(self) -> None:
        self.largest = 0

    def predict(self, inputs: Arrays) -> Arrays:
        rows = inputs["x"]
        self.largest = max(self.largest, len(rows))
        if (rows == -1).any():
            raise ValueError("the model does not take -1")
        sums = rows.sum(axis=1, keepdims=True)
        return {"sum": sums, "big": (sums[:, 0] > 10).astype(np.int64)}


class Echo(Model):
    """A handler: answers each call with its body in JSON, refuses one that holds `bad`."""

    max_batch = 4

    def __init__(self) -> None:
        self.bodies: list[bytes] = []

    def invoke(self, calls: Sequence[Call]) -> list[Reply]:
        return [self._answer(call) for call in calls]

    def _answer(self, call: Call) -> Reply:
        self.bodies.append(call.body)
        if b"bad" in call.body:
            return Reply(call.id, b"no bad bodies", "text/plain", 400)
        return Reply(call.id, json.dumps({"got": call.body.decode("latin-1")}).encode())


class Upper(Model):
    """A handler of lines: gives every line back in capitals, as many as came."""

    max_batch = 1

    def invoke(self, calls: Sequence[Call]) -> list[Reply]:
        return [Reply(call.id, call.body.upper(), call.content_type) for call in calls]
