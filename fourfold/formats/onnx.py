"""ONNX models, run by onnxruntime on the CPU.

Which file: the only `*.onnx`, else `model.onnx`, else the one that FOURFOLD_MODEL_FILE names. Files with external
data are loaded from where they are. FOURFOLD_OUTPUTS, a comma-separated list, keeps some outputs and their order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime as ort

from fourfold.errors import ModelLoadError
from fourfold.formats.base import ArrayModel, Arrays, Artifact, Tensor
from fourfold.formats.builtin import choose, is_onnx_file

_DTYPES = {
    "float": "float32",
    "double": "float64",
    "float16": "float16",
    "int8": "int8",
    "int16": "int16",
    "int32": "int32",
    "int64": "int64",
    "uint8": "uint8",
    "uint16": "uint16",
    "uint32": "uint32",
    "uint64": "uint64",
    "bool": "bool",
    "string": "object",
}


class OnnxModel(ArrayModel):
    forkable = True  # a session with one thread starts none; one with more shows them

    def __init__(self, session: ort.InferenceSession, wanted: Sequence[str] = ()) -> None:
        self._run = session.run
        self.inputs = tuple(_tensor(node) for node in session.get_inputs())
        outputs = {node.name: _tensor(node) for node in session.get_outputs()}
        self._names = list(wanted) or list(outputs)
        unknown = [name for name in self._names if name not in outputs]
        if unknown:
            raise ModelLoadError(
                f"FOURFOLD_OUTPUTS names {', '.join(unknown)}; the model's outputs are {', '.join(outputs)}."
            )
        self.outputs = tuple(outputs[name] for name in self._names)
        self.max_batch = 32 if all(tensor.shape and tensor.shape[0] is None for tensor in self.inputs) else 1

    def predict(self, inputs: Arrays) -> Arrays:
        return {
            name: value if isinstance(value, np.ndarray) else _stack(value)
            for name, value in zip(self._names, self._run(self._names, inputs), strict=True)
        }


def load(artifact: Artifact) -> OnnxModel:
    """Load the artifact's model. Raises ModelLoadError with onnxruntime's reason."""
    path = choose(artifact, is_onnx_file)
    try:
        session = ort.InferenceSession(str(path), session_options(artifact.threads), providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has a dozen classes for this and no common one
        raise ModelLoadError(f"{path.name} is not a model that onnxruntime can load: {error}") from error
    wanted = [name.strip() for name in artifact.environment.get("FOURFOLD_OUTPUTS", "").split(",") if name.strip()]
    return OnnxModel(session, wanted)


def session_options(threads: int) -> ort.SessionOptions:
    """How sessions run here, with so many threads for one call."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle workers leave the cores alone
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.log_severity_level = 3
    return options


def _tensor(node: Any) -> Tensor:
    """A sequence or map output has no fixed shape: it becomes one column a key, or one entry a record."""
    kind = node.type.removeprefix("tensor(").removesuffix(")")
    if kind in _DTYPES:
        shape = tuple(length if isinstance(length, int) and length >= 0 else None for length in node.shape)
        return Tensor(node.name, _DTYPES[kind], shape)
    if "map(" in kind:
        return Tensor(node.name, _DTYPES.get(kind.rsplit("(", 1)[1].rstrip(")"), "float32"), (None, None))
    return Tensor(node.name, "object", (None,))


def _stack(value: Any) -> Any:
    """What is no tensor, as an array: ZipMap's maps as one column a key, in the order of the first record's keys."""
    if isinstance(value, dict):
        value = [value]
    if value and isinstance(value[0], dict):
        keys = list(value[0])
        return np.array([[record[key] for key in keys] for record in value], dtype=np.float32)
    try:
        return np.stack([np.asarray(entry) for entry in value])
    except ValueError:  # entries of different shapes
        array = np.empty(len(value), dtype=object)
        array[:] = [np.asarray(entry).tolist() for entry in value]
        return array
