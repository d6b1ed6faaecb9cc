"""PyTorch models that bring their own code: TorchScript (`*.pt`, `*.pth`) and torch.export (`*.pt2`).

A TorchScript file does not tell the shapes of its inputs. They are taken to be float32 of any shape, one for each
argument of `forward`, unless FOURFOLD_INPUTS says otherwise: `x:float32[?,30], ids:int64[?,?]`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fourfold.errors import ModelLoadError
from fourfold.formats.base import ArrayModel, Arrays, Artifact, Tensor
from fourfold.formats.builtin import choose, is_torch_file

_DECLARED = re.compile(r"\s*([\w.]+)\s*:\s*(\w+)\s*\[([^\]]*)\]\s*(?:,|$)")


class TorchModel(ArrayModel):
    def __init__(self, module: Any, inputs: tuple[Tensor, ...]) -> None:
        self._module = module
        self.inputs = inputs
        self.max_batch = 32 if all(not tensor.shape or tensor.shape[0] is None for tensor in inputs) else 1

    def predict(self, inputs: Arrays) -> Arrays:
        tensors = [torch.from_numpy(np.require(inputs[tensor.name], requirements=["C", "W"])) for tensor in self.inputs]
        with torch.inference_mode():
            return dict(_outputs(self._module(*tensors)))


def load(artifact: Artifact) -> TorchModel:
    """Load the artifact's model. Raises ModelLoadError with PyTorch's reason."""
    path = choose(artifact, is_torch_file)
    torch.set_num_threads(artifact.threads)
    try:
        module, inputs = _load_exported(path) if path.suffix == ".pt2" else _load_script(path)
    except Exception as error:  # RuntimeError for a broken file, and many others for one of another version
        raise ModelLoadError(_why(path, error)) from error
    declared = artifact.environment.get("FOURFOLD_INPUTS", "")
    return TorchModel(module, tuple(parse_inputs(declared)) if declared else inputs)


def parse_inputs(declared: str) -> Iterator[Tensor]:
    """`x:float32[?,30]` as tensors. Raises ModelLoadError showing the form."""
    end = 0
    for match in _DECLARED.finditer(declared):
        lengths = [length.strip() for length in match[3].split(",") if length.strip()]
        known = match[2] == "object" or hasattr(np, match[2])
        if match.start() != end or not known or not all(length == "?" or length.isdigit() for length in lengths):
            break
        end = match.end()
        yield Tensor(match[1], match[2], tuple(None if length == "?" else int(length) for length in lengths))
    if end != len(declared):
        raise ModelLoadError(f"FOURFOLD_INPUTS is {declared!r}; write it like x:float32[?,30], ids:int64[?,?].")


def _load_script(path: Path) -> tuple[Any, tuple[Tensor, ...]]:
    read: Any = torch.jit.load  # whether it is typed depends on the release
    module = read(str(path), map_location="cpu").eval()
    arguments = module.forward.schema.arguments[1:]  # without self
    required = [argument for argument in arguments if not argument.has_default_value()]
    return module, tuple(Tensor(argument.name, "float32", ()) for argument in required)


def _load_exported(path: Path) -> tuple[Any, tuple[Tensor, ...]]:
    program = torch.export.load(str(path))
    names = set(program.graph_signature.user_inputs)
    inputs = (_exported_tensor(node) for node in program.graph.nodes if node.op == "placeholder" and node.name in names)
    return program.module(), tuple(inputs)


def _exported_tensor(node: Any) -> Tensor:
    example = node.meta["val"]
    shape = tuple(length if isinstance(length, int) else None for length in example.shape)
    return Tensor(node.name, str(example.dtype).removeprefix("torch."), shape)


def _outputs(result: Any, name: str = "output") -> Iterator[tuple[str, Any]]:
    """A tensor is `output`; a dictionary keeps its names; the entries of a list or tuple are numbered."""
    if isinstance(result, torch.Tensor):
        known = result.float() if result.dtype == torch.bfloat16 else result  # which numpy does not have
        yield name, known.numpy(force=True)
    elif isinstance(result, Mapping):
        for key, value in result.items():
            yield from _outputs(value, str(key))
    elif isinstance(result, (list, tuple)):
        for number, value in enumerate(result):
            yield from _outputs(value, f"{name}_{number}")
    else:
        yield name, np.asarray(result)


def _why(path: Path, error: Exception) -> str:
    if "constants.pkl" in str(error):
        return (
            f"{path.name} holds weights without code, as torch.save writes them. Save torch.jit.script(model) or "
            "torch.export.export(model, …), or add a code/inference.py whose model_fn builds the model and loads them."
        )
    reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return f"{path.name} is not a model that PyTorch can load: {reason}"
