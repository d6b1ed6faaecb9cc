from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest

from fourfold.errors import ModelLoadError
from fourfold.formats import registry
from fourfold.formats.base import Tensor
from tests.formats import models

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.filterwarnings(  # PyTorch deprecates TorchScript, and yet it is everywhere
    "ignore::DeprecationWarning", "ignore:`torch.jit:FutureWarning"
)


class Sum(torch.nn.Module):  # type: ignore[name-defined,misc]
    def forward(self, x: torch.Tensor) -> torch.Tensor:  # type: ignore[name-defined]
        return x.sum(dim=1)


class Two(torch.nn.Module):  # type: ignore[name-defined,misc]
    def forward(self, x: torch.Tensor, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:  # type: ignore[name-defined]
        return x + 1, ids * 2


def script(folder: Path, module: Any, name: str = "model.pt") -> Path:
    torch.jit.script(module).save(str(folder / name))
    return folder


def export(folder: Path, module: Any, *examples: Any) -> Path:
    batch = torch.export.Dim("batch", min=1)
    shapes = tuple({0: batch} for _ in examples)
    torch.export.save(torch.export.export(module, examples, dynamic_shapes=shapes), folder / "model.pt2")
    return folder


def predict(folder: Path, body: str, environment: dict[str, str] | None = None) -> Any:
    reply = models.load(folder, environment).invoke([models.call(body)])[0]
    assert reply.status == 200, reply.body
    return json.loads(reply.body)


@pytest.mark.parametrize("name", ["model.pt", "model.pth"])
def test_torchscript(tmp_path: Path, name: str) -> None:
    script(tmp_path, Sum(), name)
    assert registry.resolve("", tmp_path).name == "torch"
    assert predict(tmp_path, "[[1, 2], [3, 4]]") == {"predictions": [3, 7]}
    assert predict(tmp_path, "[1, 2, 3]") == {"predictions": [6]}


class Nested(torch.nn.Module):  # type: ignore[name-defined,misc]
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:  # type: ignore[name-defined]
        return x.to(torch.bfloat16), [x[:, 0], x[:, 1]]


def test_outputs_within_outputs(tmp_path: Path) -> None:
    script(tmp_path, Nested())
    assert predict(tmp_path, "[[1, 2]]") == {"predictions": [{"output_0": [1, 2], "output_1_0": 1, "output_1_1": 2}]}


def test_torchscript_calls_are_joined(tmp_path: Path) -> None:
    model = models.load(script(tmp_path, Sum()))
    replies = model.invoke([models.call("[[1, 2]]"), models.call("[[1, 2, 3]]"), models.call("[[3, 4]]")])
    assert [json.loads(reply.body)["predictions"] for reply in replies] == [[3], [6], [7]]


def test_declared_inputs_are_checked(tmp_path: Path) -> None:
    script(tmp_path, Two())
    environment = {"FOURFOLD_INPUTS": "x:float32[?,2], ids:int64[?]"}
    model = models.load(tmp_path, environment)
    assert model.inputs == (Tensor("x", "float32", (None, 2)), Tensor("ids", "int64", (None,)))
    answer = predict(tmp_path, '[{"x": [1, 2], "ids": 3}]', environment)
    assert answer == {"predictions": [{"output_0": [2, 3], "output_1": 6}]}
    with pytest.raises(ModelLoadError, match="write it like"):
        models.load(tmp_path, {"FOURFOLD_INPUTS": "x:float31[?]"})


def test_exported_programs_tell_their_inputs(tmp_path: Path) -> None:
    export(tmp_path, Two(), torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64))
    model = models.load(tmp_path)
    assert model.inputs == (Tensor("x", "float32", (None, 3)), Tensor("ids", "int64", (None,)))
    body = '{"inputs": {"x": [[1, 2, 3]], "ids": [4]}}'
    assert predict(tmp_path, body) == {"outputs": {"output_0": [[2, 3, 4]], "output_1": [8]}}


def test_weights_without_code_say_what_to_do(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 1).state_dict(), tmp_path / "model.pth")
    with pytest.raises(ModelLoadError, match=r"weights without code.*torch\.jit\.script.*code/inference\.py"):
        models.load(tmp_path)


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.pt2").write_bytes(b"PKbroken")
    with pytest.raises(ModelLoadError, match=r"model\.pt2 is not a model that PyTorch can load"):
        models.load(tmp_path)


def test_arrays_that_cannot_be_written_do_not_warn(tmp_path: Path) -> None:
    import numpy as np

    from fourfold.formats.codecs.binary import write_npy

    model = models.load(script(tmp_path, Sum()))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        reply = model.invoke([models.call(write_npy(np.ones((1, 2), np.float32)), "application/x-npy")])[0]
    assert reply.status == 200, reply.body
