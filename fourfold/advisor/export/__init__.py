"""A plan as something that can be deployed: CloudFormation, a boto3 script, Terraform, or a drawing of it.

Each kind is a module with a function `files(plan)` that gives file names and their text.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fourfold.advisor.export import cloudformation, diagram, script, terraform
from fourfold.advisor.search import Plan
from fourfold.errors import ValidationException

KINDS: dict[str, Callable[[Plan], dict[str, str]]] = {
    "cloudformation": cloudformation.files,
    "boto3": script.files,
    "terraform": terraform.files,
    "diagram": diagram.files,
}


def write(plan: Plan, kind: str, out: Path) -> list[Path]:
    """Write a plan as one of `KINDS` into a folder, which is made if it is not there. Returns the files.

    Raises:
        ValidationException: the kind is unknown, the plan has nothing to deploy, or the folder cannot be written.
    """
    if kind not in KINDS:
        raise ValidationException(f"export: {kind!r} is unknown; use one of {', '.join(KINDS)}")
    if plan.sizing is None:
        why = "; ".join(reason.text for reason in plan.reasons)
        raise ValidationException(f"export: there is no {plan.mode} configuration to deploy: {why}")
    written = []
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, text in KINDS[kind](plan).items():
            (out / name).write_text(text, encoding="utf-8")
            written.append(out / name)
    except OSError as error:
        raise ValidationException(f"out: {out} cannot be written: {error.strerror}") from error
    return written
