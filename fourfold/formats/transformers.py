"""Hugging Face models without a handler: the `transformers` pipeline of their task, as SageMaker's container makes it.

HF_TASK in the model's Environment names the task (`text-classification`); without it the architecture in `config.json`
tells, where it can. A request is `{"inputs": …, "parameters": {…}}` in JSON, a CSV table with a column `inputs`, or the
bytes of a picture or a sound; the answer is what the pipeline returns, as JSON or CSV. HF_TRUST_REMOTE_CODE lets the
model bring code of its own.
"""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType

from fourfold.formats.base import Artifact
from fourfold.formats.handler import Handler, SyncHandler, use_threads


def load(artifact: Artifact) -> SyncHandler:
    """Make the pipeline, by a handler that leaves everything out. Raises ModelLoadError with the library's reason."""
    use_threads(artifact.threads)
    environment = {**artifact.environment, "FOURFOLD_TOOLKIT": "huggingface"}
    return SyncHandler(Handler(ModuleType("pipeline"), replace(artifact, environment=environment)))
