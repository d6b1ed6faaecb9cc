"""What a worker does with an errand, beside the loaded model: reads inputs, has the model answer, keeps large outputs.

Payloads go between storage and the worker; the gateway sees none that is large. `run` is called in workers that answer
one batch after the other, `arun` in those on whose event loop calls overlap.
"""

from __future__ import annotations

import asyncio
import os
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

from fourfold.errors import ValidationException
from fourfold.formats.base import AsyncModel, Model
from fourfold.modes.asynchronous.orders import (
    JSON,
    MOST_INPUT,
    SMALL_OUTPUT,
    Done,
    Errand,
    Order,
    Report,
    decode_errand,
    encode,
)
from fourfold.records import Call, Reply
from fourfold.storage.objects import About, NoSuchObject, Objects, parse_location

PULSE = 0.25
"""Seconds after which what is done so far is reported, while more is to do."""
BATCH_BYTES = 8 * 1024 * 1024
"""A batch is closed when its inputs reach this size."""


def run(model: Model, payload: bytes, report: Callable[[bytes], None]) -> bytes:
    """Do an errand. Never raises for what one call does: that is in the report."""
    errand = decode_errand(payload)
    objects = Objects(Path(errand.root))
    done: list[Done] = []
    said = time.monotonic()
    for group in _groups(objects, errand):
        if done and time.monotonic() - said > PULSE:
            report(encode(Report(done)))
            done, said = [], time.monotonic()
        done += _answer(model, group)
    return encode(Report(done))


async def arun(model: AsyncModel, payload: bytes, report: Callable[[bytes], None]) -> bytes:
    """Do an errand, all of its calls at once."""
    errand = decode_errand(payload)
    objects = Objects(Path(errand.root))
    return encode(Report(list(await asyncio.gather(*(_overlap(model, objects, order) for order in errand.orders)))))


async def _overlap(model: AsyncModel, objects: Objects, order: Order) -> Done:
    read = await asyncio.to_thread(_Read, objects, order) if order.body is None else _Read(objects, order)
    if read.problem is not None:
        return read.problem
    began = time.monotonic()
    call = read.call(0)
    try:
        reply = await model.ainvoke(call)
    except Exception as error:  # the model's own code may raise anything
        reply = _raised(call, error)
    took = time.monotonic() - began
    return await asyncio.to_thread(_done, order, reply, read.seconds, took)


class _Read:
    """An order with its input, or with what is wrong with that."""

    def __init__(self, objects: Objects, order: Order) -> None:
        began = time.monotonic()
        self.order = order
        self.body = b""
        self.content_type = order.content_type
        self.problem: Done | None = None
        try:
            self.body = order.body if order.body is not None else _input(objects, order.input)
            self.content_type = self.content_type or _content_type(objects, order.input)
        except (NoSuchObject, FileNotFoundError):
            self.problem = Done("InputNotFound", f"There is no object at InputLocation {order.input}.")
        except ValidationException as error:
            self.problem = Done("InvalidInput", error.message)
        except PermissionError as error:
            self.problem = Done("InputUnreadable", f"InputLocation {order.input} cannot be read: {error.strerror}.")
        except OSError as error:
            self.problem = Done("StorageUnavailable", f"{order.input}: {error}", again=True)
        self.seconds = time.monotonic() - began if order.input else 0.0

    def call(self, id: int) -> Call:
        order = self.order
        return Call(id, self.body, self.content_type, order.accept, order.headers or None)


def _input(objects: Objects, url: str) -> bytes:
    location = parse_location(url)
    size = objects.head(location).size
    if size > MOST_INPUT:
        raise ValidationException(
            f"The input {url} has {size:,} bytes; an asynchronous call takes {MOST_INPUT:,} at most."
        )
    return objects.get(location)


def _content_type(objects: Objects, url: str) -> str:
    """What the input's writer said that it is; JSON where nobody said anything."""
    kind = objects.about(parse_location(url)).content_type
    return JSON if kind == About().content_type else kind


def _groups(objects: Objects, errand: Errand) -> Iterator[list[_Read]]:
    """The orders with their inputs, as many at once as go to the model at once."""
    group: list[_Read] = []
    size = 0
    for order in errand.orders:
        group.append(_Read(objects, order))
        size += len(group[-1].body)
        if len(group) >= errand.batch or size >= BATCH_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


def _answer(model: Model, group: list[_Read]) -> list[Done]:
    began = time.monotonic()
    calls = [read.call(i) for i, read in enumerate(group) if read.problem is None]
    replies = {call.id: reply for call, reply in zip(calls, _invoke(model, calls), strict=True)}
    took = time.monotonic() - began
    return [
        read.problem if read.problem is not None else _done(read.order, replies[i], read.seconds, took)
        for i, read in enumerate(group)
    ]


def _invoke(model: Model, calls: list[Call]) -> list[Reply]:
    if not calls:
        return []
    try:
        return model.invoke(calls)
    except Exception as error:  # a format should answer with replies; a bug in one must not end the worker
        return [_raised(call, error) for call in calls]


def _raised(call: Call, error: Exception) -> Reply:
    return Reply(call.id, f"{type(error).__name__}: {error}".encode(), "text/plain", 500, detail=traceback.format_exc())


def _done(order: Order, reply: Reply, input_seconds: float, model_seconds: float) -> Done:
    if reply.status != 200:
        text = bytes(reply.body).decode("utf-8", "replace")
        message = f'Received {"client" if reply.status < 500 else "server"} error ({reply.status}) from model: "{text}"'
        return Done("ModelError", message, reply.detail, input_seconds=input_seconds, model_seconds=model_seconds)
    size = len(reply.body)
    began = time.monotonic()
    body: bytes | None = bytes(reply.body)
    if size > SMALL_OUTPUT:
        try:
            _keep(Path(order.kept), reply.body)
        except OSError as error:
            return Done("StorageUnavailable", f"The output could not be written: {error}", again=True)
        body = None
    return Done(
        content_type=reply.content_type,
        size=size,
        body=body,
        input_seconds=input_seconds,
        model_seconds=model_seconds,
        output_seconds=time.monotonic() - began,
    )


def _keep(path: Path, body: bytes) -> None:
    """Write an output where it waits for the decision. It is on disk when this returns."""
    path.parent.mkdir(exist_ok=True)
    with path.open("wb") as file:
        file.write(body)
        file.flush()
        os.fsync(file.fileno())
