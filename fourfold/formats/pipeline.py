"""An inference pipeline in one process: several models in a worker, each gets what the one before it answered.

Endpoints have workers for each stage instead (`pool.containers`); a transform job's worker has the whole row.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from fourfold.formats.base import AsyncModel, Model, Unanswered
from fourfold.records import Call, Opening, Reply


def join(stages: Sequence[Model]) -> Model:
    """One model that goes through `stages` in order. What the client accepts is the last one's business."""
    return AsyncPipeline(stages) if any(isinstance(stage, AsyncModel) for stage in stages) else Pipeline(stages)


class Pipeline(Model):
    """Stages that answer one batch after the other; a call that one of them fails goes no further."""

    def __init__(self, stages: Sequence[Model]) -> None:
        self._stages = stages
        self.max_batch = min(stage.max_batch for stage in stages)

    def invoke(self, calls: Sequence[Call]) -> list[Reply]:
        accepts = {call.id: call.accept for call in calls}
        replies: dict[int, Reply] = {}
        left = list(calls)
        for stage in self._stages:
            last = stage is self._stages[-1]
            asked = [_to(call, accepts[call.id] if last else "") for call in left]
            replies |= {reply.id: reply for reply in (stage.invoke(asked) if asked else ())}
            left = [_onward(call, replies[call.id]) for call in left if replies[call.id].status == 200]
        return [replies[call.id] for call in calls]

    def close(self) -> None:
        for stage in self._stages:
            stage.close()


class AsyncPipeline(AsyncModel):
    """The same where a stage is awaited; its others block the loop while they work."""

    def __init__(self, stages: Sequence[Model]) -> None:
        self._stages = stages

    async def ainvoke(self, call: Call) -> Reply:
        accept = call.accept
        for stage in self._stages[:-1]:
            reply = await _ask(stage, _to(call, ""))
            if reply.status != 200:
                return reply
            call = _onward(call, reply)
        return await _ask(self._stages[-1], _to(call, accept))

    async def astream(self, call: Call) -> AsyncIterator[bytes]:
        reply = await self.ainvoke(call)
        if reply.status != 200:
            raise Unanswered(reply.body, reply.status)
        yield Opening(reply.body, reply.content_type, reply.headers)

    def close(self) -> None:
        for stage in self._stages:
            stage.close()


async def _ask(stage: Model, call: Call) -> Reply:
    return await stage.ainvoke(call) if isinstance(stage, AsyncModel) else stage.invoke([call])[0]


def _to(call: Call, accept: str) -> Call:
    return Call(call.id, call.body, call.content_type, accept, call.headers)


def _onward(call: Call, reply: Reply) -> Call:
    return Call(call.id, reply.body, reply.content_type, call.accept, call.headers)
