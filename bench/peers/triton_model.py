"""Triton's Python back end: it hands over what queued while the model was busy (dynamic batching, no delay)."""

import os
import sys

sys.path[:0] = [os.environ["BENCH_PEERS"], os.environ["BENCH_PACKAGES"]]  # the back end's stub replaces PYTHONPATH

import numpy as np  # noqa: E402
import triton_python_backend_utils as triton  # noqa: E402
from session import session  # noqa: E402


class TritonPythonModel:
    def initialize(self, args):
        self.model = session()

    def execute(self, requests):
        rows = [triton.get_input_tensor_by_name(request, "x").as_numpy() for request in requests]
        answer = self.model.run(["y"], {"x": np.concatenate(rows)})[0]
        replies, start = [], 0
        for row in rows:
            replies.append(triton.InferenceResponse([triton.Tensor("y", answer[start : start + len(row)])]))
            start += len(row)
        return replies
