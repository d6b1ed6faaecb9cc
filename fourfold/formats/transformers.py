"""Hugging Face models without a handler: the `transformers` pipeline of their task, as SageMaker's container makes it.

HF_TASK in the model's Environment names the task (`text-classification`); without it the architecture in `config.json`
tells, where it can. A request is `{"inputs": …, "parameters": {…}}` in JSON, a CSV table with a column `inputs`, or the
bytes of a picture or a sound; the answer is what the pipeline returns, as JSON. HF_TRUST_REMOTE_CODE lets the model
bring code of its own.
"""

from __future__ import annotations

import csv
import importlib
import io
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from fourfold.errors import ModelLoadError
from fourfold.formats.base import Artifact
from fourfold.formats.handler import Handler, SyncHandler
from fourfold.formats.toolkit import UnsupportedFormatError

TASKS = {
    "TapasForQuestionAnswering": "table-question-answering",
    "ForQuestionAnswering": "question-answering",
    "ForTokenClassification": "token-classification",
    "ForSequenceClassification": "text-classification",
    "ForMaskedLM": "fill-mask",
    "ForCausalLM": "text-generation",
    "LMHeadModel": "text-generation",
    "ForConditionalGeneration": "text2text-generation",
    "ForImageClassification": "image-classification",
    "ForAudioClassification": "audio-classification",
    "ForCTC": "automatic-speech-recognition",
}
"""What the end of an architecture's name says of its task; the first that fits."""


class Unreadable(Exception):
    """A body that is not what its content type says."""

    status_code = 400


def load(artifact: Artifact) -> SyncHandler:
    """Make the pipeline. Raises ModelLoadError with the library's reason."""
    transformers: Any = importlib.import_module("transformers")
    torch = sys.modules.get("torch")
    if torch is not None:  # it was imported before the fork, where OMP_NUM_THREADS was 1
        torch.set_num_threads(artifact.threads)
    task = artifact.environment.get("HF_TASK") or infer_task(artifact.path)
    trusted = artifact.environment.get("HF_TRUST_REMOTE_CODE", "").lower() in ("1", "true")
    try:
        pipeline = transformers.pipeline(task, model=str(artifact.path), trust_remote_code=trusted)
    except Exception as error:  # an unknown task, a broken file, a module that is missing
        raise ModelLoadError(f"transformers cannot make the pipeline {task}: {error}") from error
    module: Any = ModuleType("pipeline")
    module.model_fn = lambda _: pipeline
    module.input_fn = read
    module.predict_fn = predict
    return SyncHandler(Handler(module, artifact))


def infer_task(folder: Path) -> str:
    """The task of a model by its architecture. Raises ModelLoadError where that does not tell."""
    try:
        architectures = json.loads((folder / "config.json").read_bytes()).get("architectures") or []
    except ValueError as error:
        raise ModelLoadError(f"config.json is not JSON: {error}") from error
    for name in architectures:
        for ending, task in TASKS.items():
            if name.endswith(ending):
                return task
    raise ModelLoadError(
        f"The task of the architecture {', '.join(architectures) or '(none)'} is not known. Set HF_TASK in the model's "
        "Environment, as in text-classification."
    )


def read(data: Any, content_type: str) -> dict[str, Any]:
    """A request's body as the pipeline's `inputs` and, if there are any, `parameters`."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "application/json":
        try:
            request = json.loads(data)
        except ValueError as error:
            raise Unreadable(f"The body is not JSON: {error}") from error
        return request if isinstance(request, dict) and "inputs" in request else {"inputs": request}
    if kind == "text/csv":
        rows = list(csv.DictReader(io.StringIO(data)))
        if not rows:
            raise Unreadable("The table has no rows; its first line names the columns: inputs, or question,context.")
        return {"inputs": [row["inputs"] for row in rows] if "inputs" in rows[0] else rows}
    if kind.startswith("image/"):
        image: Any = importlib.import_module("PIL.Image")
        return {"inputs": image.open(io.BytesIO(data))}
    if kind.startswith("audio/") or kind == "application/octet-stream":
        return {"inputs": bytes(data)}
    raise UnsupportedFormatError(content_type)


def predict(request: dict[str, Any], pipeline: Any) -> Any:
    """Run the pipeline."""
    return pipeline(request["inputs"], **(request.get("parameters") or {}))
