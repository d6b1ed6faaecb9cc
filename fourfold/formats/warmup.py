"""A first call before the first caller: lazy work, such as allocation and compilation, is done before traffic comes.

FOURFOLD_WARMUP in the model's Environment is a JSON body to answer; a model that cannot answer it does not load.
Without it, a model that tells its inputs gets one record of zeros (empty strings), and what it makes of that is its
own affair. `FOURFOLD_WARMUP=off` leaves it out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import numpy as np

from fourfold.errors import ModelLoadError
from fourfold.formats.base import ArrayModel, Arrays, AsyncModel, Model, Tensor
from fourfold.records import Call, Reply


def warm_up(model: Model, environment: Mapping[str, str]) -> None:
    """Let `model` answer once. Raises ModelLoadError with the model's own words where it fails on FOURFOLD_WARMUP."""
    sample = environment.get("FOURFOLD_WARMUP", "")
    if sample == "off":
        return
    if sample:
        reply = _answer(model, Call(0, sample.encode()))
        if reply.status != 200:
            said = reply.body.decode("utf-8", "replace")
            raise ModelLoadError(f"The model failed on its FOURFOLD_WARMUP sample: {said}")
    elif isinstance(model, ArrayModel) and model.inputs and all(tensor.shape for tensor in model.inputs):
        try:
            model.predict(zeros(model.inputs))
        except Exception as error:  # zeros may be no input for it
            print(f"warm-up on zeros failed, which may be in order: {type(error).__name__}: {error}")


def zeros(inputs: Sequence[Tensor]) -> Arrays:
    """One record that fits the inputs; an open length is 1."""
    return {
        tensor.name: np.full([length or 1 for length in tensor.shape], "", object)
        if tensor.dtype == "object"
        else np.zeros([length or 1 for length in tensor.shape], tensor.dtype)
        for tensor in inputs
    }


def _answer(model: Model, call: Call) -> Reply:
    if isinstance(model, AsyncModel):
        return asyncio.run(model.ainvoke(call))
    return model.invoke([call])[0]
