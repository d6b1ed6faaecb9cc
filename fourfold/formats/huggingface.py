"""What SageMaker's Hugging Face image does where no function of a handler does it: the pipeline of `transformers`.

The format `transformers` is all four of them; a handler written for the image has those that it leaves out. Behaviour
follows github.com/aws/sagemaker-huggingface-inference-toolkit.
"""

from __future__ import annotations

import csv
import importlib
import json
from collections.abc import Callable, Mapping
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

from fourfold.errors import ModelLoadError
from fourfold.formats import toolkit
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


def loader(environment: Mapping[str, str]) -> Callable[[str], Any]:
    """A `model_fn` that makes the pipeline of HF_TASK, or of the task that the architecture tells.

    HF_TRUST_REMOTE_CODE lets the model bring code of its own. The function raises ModelLoadError with the library's
    reason.
    """

    def make_pipeline(model_dir: str) -> Any:
        task = environment.get("HF_TASK") or infer_task(Path(model_dir))
        trusted = environment.get("HF_TRUST_REMOTE_CODE", "").lower() in ("1", "true")
        try:
            transformers: Any = importlib.import_module("transformers")
            return transformers.pipeline(task, model=model_dir, trust_remote_code=trusted)
        except Exception as error:  # no library, an unknown task, a broken file
            missing = isinstance(error, ModuleNotFoundError) and error.name in ("transformers", "torch")
            fix = "; pip install 'fourfold[transformers]' brings it" if missing else ""
            raise ModelLoadError(f"transformers cannot make the pipeline {task}: {error}{fix}.") from error

    return make_pipeline


def infer_task(folder: Path) -> str:
    """The task of a model by its architecture. Raises ModelLoadError where that does not tell."""
    try:
        architectures = json.loads((folder / "config.json").read_bytes()).get("architectures") or []
    except FileNotFoundError as error:
        raise ModelLoadError(
            "There is no model for a pipeline: the artifact has no config.json. Put what save_pretrained writes into "
            "it, or write model_fn(model_dir) in code/inference.py."
        ) from error
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


def read(data: Any, content_type: str) -> Any:
    """A body as `predict` takes it: JSON as it is; CSV, a picture or a sound as a dictionary with `inputs`."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "application/json":
        try:
            return json.loads(data)
        except ValueError as error:
            raise Unreadable(f"The body is not JSON: {error}") from error
    if kind == "text/csv":
        return {"inputs": _records(data)}
    if kind.startswith("image/"):
        return {"inputs": _picture(data)}
    if kind.startswith("audio/") or kind == "application/octet-stream":
        return {"inputs": bytes(data)}
    return toolkit.default_input_fn(data, content_type)


def predict(data: Any, model: Any) -> Any:
    """`model(inputs, **parameters)`, as pipelines are called; a model that is none has its `predict` called."""
    if not callable(model) or hasattr(data, "dtype"):
        return toolkit.default_predict_fn(data, model)
    if not isinstance(data, dict):
        return model(data)
    parameters = data.pop("parameters", None) or {}
    return model(data.pop("inputs", data), **parameters)


def _records(text: str) -> list[Any]:
    """A CSV's rows by its header; those of a column `inputs` alone where it has one."""
    rows = list(csv.DictReader(StringIO(text)))
    header = list(rows[0]) if rows else []
    if not {"inputs", "question", "context"}.intersection(header):
        raise Unreadable("The CSV needs a row and, above it, a header with the column inputs, or question and context.")
    return [row["inputs"] for row in rows] if "inputs" in header else rows


def _picture(data: Any) -> Any:
    try:
        from PIL import Image
    except ModuleNotFoundError as error:
        raise UnsupportedFormatError("image/*, which pip install pillow would read,") from error
    return Image.open(BytesIO(data)).convert("RGB")
