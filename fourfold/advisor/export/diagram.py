"""A plan as a drawing: who calls what, as SVG and as Mermaid."""

from __future__ import annotations

from fourfold.advisor import pictures, tradeoffs
from fourfold.advisor.pictures import Arrow, Box
from fourfold.advisor.search import Plan
from fourfold.advisor.sizing import Sizing


def files(plan: Plan) -> dict[str, str]:
    boxes, arrows = parts(plan)
    return {"architecture.svg": pictures.architecture(boxes, arrows), "architecture.mmd": mermaid(boxes, arrows)}


Drawing = tuple[list[Box], list[Arrow]]

_ALARM = Box("alarm", "CloudWatch alarms", "errors, latency → SNS", 3, 2)
_MODEL = Box("model", "Model artifact", "model.tar.gz in S3", 2, 2)


def parts(plan: Plan) -> Drawing:
    """The boxes and arrows of a mode's architecture."""
    size = plan.sizing
    assert size is not None
    if plan.mode == "batch":
        return _batch(size)
    return _asynchronous(size) if plan.mode == "asynchronous" else _endpoint(size)


def _batch(size: Sizing) -> Drawing:
    return [
        Box("schedule", "EventBridge Scheduler", "starts each run", 0, 1),
        Box("job", "Transform job", tradeoffs.label(size), 1, 1),
        Box("input", "S3 input/", "records", 1, 0),
        Box("output", "S3 output/", "answers, in order", 2, 1),
        Box("model", "Model artifact", "model.tar.gz in S3", 1, 2),
        Box("alarm", "EventBridge rule", "failed runs → SNS", 2, 2),
    ], [
        Arrow("schedule", "job", "create"), Arrow("input", "job", "split"), Arrow("job", "output", "write"),
        Arrow("model", "job", "load"), Arrow("job", "alarm"),
    ]  # fmt: skip


def _asynchronous(size: Sizing) -> Drawing:
    return [
        Box("client", "Client", "puts the object, goes on", 0, 1),
        Box("input", "S3 input", "up to 1 GB", 1, 0),
        Box("endpoint", "Asynchronous endpoint", f"queue, {size.floor} to {tradeoffs.label(size)}", 2, 1),
        Box("output", "S3 output", "answers and failures", 3, 0),
        Box("topics", "SNS → SQS", "success, error", 3, 1),
        _MODEL,
        _ALARM,
    ], [
        Arrow("client", "input", "put"), Arrow("client", "endpoint", "invoke"), Arrow("input", "endpoint", "read"),
        Arrow("endpoint", "output", "write"), Arrow("endpoint", "topics", "notify"),
        Arrow("model", "endpoint", "load"), Arrow("endpoint", "alarm"),
    ]  # fmt: skip


def _endpoint(size: Sizing) -> Drawing:
    what = tradeoffs.label(size)
    scale = f"{size.floor} to {what}" if size.count > size.floor else what
    detail = f"{what}, up to {size.max_concurrency} at once" if size.mode == "serverless" else scale
    boxes = [
        Box("client", "Client", "waits for the answer", 0, 1),
        Box("runtime", "SageMaker runtime", "InvokeEndpoint", 1, 1),
        Box("endpoint", f"{size.mode.capitalize()} endpoint", detail, 2, 1),
        _MODEL,
        _ALARM,
    ]
    arrows = [
        Arrow("client", "runtime", "HTTPS"), Arrow("runtime", "endpoint"), Arrow("model", "endpoint", "load"),
        Arrow("endpoint", "alarm"),
    ]  # fmt: skip
    if size.count > size.floor:
        boxes.append(Box("scaling", "Auto Scaling", "follows the load", 3, 0))
        arrows.append(Arrow("scaling", "endpoint", "sets the count"))
    return boxes, arrows


def mermaid(boxes: list[Box], arrows: list[Arrow]) -> str:
    lines = ["flowchart LR"]
    lines += [f'    {b.id}["{b.title}<br/>{b.detail}"]' for b in boxes]
    lines += [f"    {a.start} -->{f'|{a.text}|' if a.text else ''} {a.end}" for a in arrows]
    return "\n".join(lines) + "\n"
