"""TensorFlow SavedModels, as TensorFlow Serving takes them.

The newest of several version folders (`1/`, `2/`) is served. FOURFOLD_SIGNATURE names the signature, by default
`serving_default`.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

from fourfold.errors import ModelLoadError
from fourfold.formats.base import ArrayModel, Arrays, Artifact, Tensor
from fourfold.formats.builtin import files, is_tensorflow_file

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # or every worker's log starts with a page on its CPU
import tensorflow as tf


class SavedModel(ArrayModel):
    def __init__(self, loaded: Any, signature: Any) -> None:
        self._loaded = loaded  # holds the variables that the signature refers to weakly
        self._signature = signature
        specs = signature.structured_input_signature[1]
        self.inputs = tuple(_tensor(name, spec) for name, spec in sorted(specs.items()))
        outputs = signature.structured_outputs
        self.outputs = tuple(_tensor(name, spec) for name, spec in sorted(outputs.items()))
        self._dtypes = {name: spec.dtype for name, spec in specs.items()}
        self.max_batch = 32 if all(not tensor.shape or tensor.shape[0] is None for tensor in self.inputs) else 1

    def predict(self, inputs: Arrays) -> Arrays:
        tensors = {name: tf.constant(array, self._dtypes[name]) for name, array in inputs.items()}
        outputs = self._signature(**tensors)
        return {tensor.name: outputs[tensor.name].numpy() for tensor in self.outputs}


def load(artifact: Artifact) -> SavedModel:
    """Load the artifact's newest version. Raises ModelLoadError with TensorFlow's reason."""
    folder = _newest(artifact.path)
    with contextlib.suppress(RuntimeError):  # a handler has used TensorFlow before: its threads are set
        tf.config.threading.set_intra_op_parallelism_threads(artifact.threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    try:
        loaded = tf.saved_model.load(str(folder))
    except Exception as error:  # OSError, ValueError and TensorFlow's own
        raise ModelLoadError(f"{folder.name} is not a SavedModel that TensorFlow can load: {error}") from error
    name = artifact.environment.get("FOURFOLD_SIGNATURE", "serving_default")
    if name not in loaded.signatures:
        there = ", ".join(loaded.signatures) or "none"
        raise ModelLoadError(
            f"The SavedModel has no signature {name!r}; it has {there}. Set FOURFOLD_SIGNATURE in the model's "
            "Environment, or save the model with signatures=."
        )
    return SavedModel(loaded, loaded.signatures[name])


def _newest(folder: Path) -> Path:
    found = [path.parent for path in files(folder) if is_tensorflow_file(path)]
    if not found:
        raise ModelLoadError("The artifact has no saved_model.pb.")
    return max(found, key=lambda path: int(path.name) if path.name.isdigit() else -1)


def _tensor(name: str, spec: Any) -> Tensor:
    """A rank that is not known is an empty shape."""
    shape = tuple(spec.shape) if spec.shape.rank is not None else ()
    if spec.dtype == tf.string:
        return Tensor(name, "object", shape, binary=True)
    return Tensor(name, spec.dtype.name, shape)
