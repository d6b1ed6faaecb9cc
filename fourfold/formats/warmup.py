"""A first call before the first caller: lazy work, such as allocation and compilation, is done before traffic comes.

FOURFOLD_WARMUP in the model's Environment is a JSON body to answer; a model that cannot answer it does not load.
Without it, a model that tells its inputs gets one record of zeros (empty strings), and what it makes of that is its
own affair. `FOURFOLD_WARMUP=off` leaves it out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

import numpy as np

from fourfold.errors import ModelLoadError
from fourfold.formats.base import ArrayModel, Arrays, AsyncModel, Model, Tensor
from fourfold.records import Call, Reply

Run = Callable[[Coroutine[Any, Any, Reply]], Reply]


def warm_up(model: Model, environment: Mapping[str, str], run: Run = asyncio.run) -> None:
    """Let `model` answer once.

    Args:
        model: has just been loaded.
        environment: the model's Environment.
        run: runs a coroutine; for an AsyncModel on the event loop that its calls will be on, where there is one.

    Raises:
        ModelLoadError: it failed on FOURFOLD_WARMUP; with the model's own words.
    """
    sample = environment.get("FOURFOLD_WARMUP", "")
    if sample == "off":
        return
    if sample:
        call = Call(0, sample.encode())
        reply = run(model.ainvoke(call)) if isinstance(model, AsyncModel) else model.invoke([call])[0]
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
