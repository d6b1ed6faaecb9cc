"""Variants of several containers: a pipeline, in which an answer is the next one's request, or a choice by name."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping

from fourfold.errors import FourfoldError, ValidationError
from fourfold.pool.fleet import Fleet
from fourfold.pool.link import StreamWaiter, Waiter
from fourfold.pool.several import Several
from fourfold.records import Call, Reply

TARGET_CONTAINER = "x-amzn-sagemaker-target-container-hostname"


class Pipeline(Several):
    """Stages in a row, each with workers of its own, so that they work on different calls at the same time.

    A stage gets the body and the content type of the one before. What the client accepts is the last one's business.

    Args:
        stages: what answers, by hostname, in order.
    """

    def __init__(self, stages: Mapping[str, Fleet | Several]) -> None:
        super().__init__(tuple(stages.values()))
        self.names = tuple(stages)
        self.addresses = frozenset().union(*(stage.addresses for stage in self.parts))
        self._relays: dict[Waiter | StreamWaiter, _Relay] = {}

    def submit(self, waiter: Waiter) -> None:
        """Take a call. Raises as the first stage does."""
        self._start(_Relay(self, waiter, None))

    def submit_stream(self, waiter: StreamWaiter) -> None:
        """Take a call that the last stage answers in parts."""
        self._start(_Relay(self, None, waiter))

    def withdraw(self, waiter: Waiter | StreamWaiter) -> None:
        """Nobody waits for this call any more: no further stage gets it."""
        relay = self._relays.pop(waiter, None)
        if relay is not None:
            self.parts[relay.stage].withdraw(waiter if relay.streaming else relay)

    async def stop(self, grace: float = 30.0) -> None:
        """Let calls go through to the end, within `grace` seconds, then end the workers."""
        end = asyncio.get_running_loop().time() + grace
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(end):
                while self._relays:  # noqa: ASYNC110 - as a fleet does
                    await asyncio.sleep(0.005)
        await super().stop(max(0.0, end - asyncio.get_running_loop().time()))

    def _start(self, relay: _Relay) -> None:
        self._relays[relay.client] = relay
        try:
            relay.send()
        except FourfoldError:
            self._relays.pop(relay.client, None)
            raise

    def forget(self, relay: _Relay) -> bool:
        """The call ends here. False: it was withdrawn before."""
        return self._relays.pop(relay.client, None) is not None


class _Relay:
    """A call on its way through the stages: a `Waiter` of each of them."""

    __slots__ = ("accept", "arrived", "began", "call", "client", "pipeline", "stage", "stream", "waiter")

    def __init__(self, pipeline: Pipeline, waiter: Waiter | None, stream: StreamWaiter | None) -> None:
        client = waiter or stream
        assert client is not None
        self.pipeline = pipeline
        self.waiter = waiter
        self.stream = stream
        self.client: Waiter | StreamWaiter = client
        self.began = asyncio.get_running_loop().time()
        self.arrived = waiter.arrived if waiter is not None else self.began
        self.stage = 0
        self.accept = client.call.accept
        self.call = self._call(client.call.body, client.call.content_type)

    @property
    def streaming(self) -> bool:
        """Is it with the stage that answers in parts?"""
        return self.stream is not None and self.stage == len(self.pipeline.parts) - 1

    def send(self) -> None:
        """Hand the call to its stage."""
        stage = self.pipeline.parts[self.stage]
        if self.stream is not None and self.streaming:
            self.stream.call = self.call
            self.stream.call.stream = True
            self.pipeline.forget(self)  # from here on the client's own cancel reaches the worker
            stage.submit_stream(self.stream)
        else:
            stage.submit(self)

    def answer(self, reply: Reply) -> None:
        last = self.stage == len(self.pipeline.parts) - 1
        if reply.status != 200 or last:
            self._end(reply)
            return
        if self.client not in self.pipeline._relays:
            return  # withdrawn
        self.stage += 1
        self.call = self._call(reply.body, reply.content_type)
        try:
            self.send()
        except FourfoldError as error:
            self.fail(error)

    def fail(self, error: FourfoldError) -> None:
        self.pipeline.forget(self)
        self.client.fail(error)

    def _end(self, reply: Reply) -> None:
        self.pipeline.forget(self)
        if reply.status != 200:
            number, names = self.stage + 1, self.pipeline.names
            where = f"In container {number} of {len(names)} ({names[self.stage]})."
            reply.detail = f"{where}\n{reply.detail}" if reply.detail else where
        else:
            self.pipeline.batcher.times.record(asyncio.get_running_loop().time() - self.began, 1)
        if self.waiter is not None:
            self.waiter.answer(reply)
        elif self.stream is not None:
            self.stream.end(reply)

    def _call(self, body: bytes, content_type: str) -> Call:
        last = self.stage == len(self.pipeline.parts) - 1
        return Call(0, body, content_type, self.accept if last else "", self.client.call.headers)


class Direct(Several):
    """Containers of which each call names one.

    Args:
        containers: what answers, by hostname.
    """

    addresses = frozenset((TARGET_CONTAINER,))

    def __init__(self, containers: Mapping[str, Fleet]) -> None:
        super().__init__(tuple(containers.values()))
        self._by_name = dict(containers)
        for fleet in containers.values():
            fleet.batcher.times = self.batcher.times

    def submit(self, waiter: Waiter) -> None:
        """Take a call. Raises ValidationError where it names no container that there is, or as the container does."""
        self._named(waiter.call).submit(waiter)

    def submit_stream(self, waiter: StreamWaiter) -> None:
        """Take a call that is answered in parts. Raises as `submit`."""
        self._named(waiter.call).submit_stream(waiter)

    def withdraw(self, waiter: Waiter | StreamWaiter) -> None:
        """Nobody waits for this call any more."""
        self._named(waiter.call).withdraw(waiter)

    def _named(self, call: Call) -> Fleet:
        name = (call.headers or {}).get(TARGET_CONTAINER)
        found = self._by_name.get(name or "")
        if found is None:
            what = f"There is no container {name!r}" if name else "TargetContainerHostname is needed"
            raise ValidationError(f"{what}: the containers of this endpoint are {', '.join(self._by_name)}.")
        return found
