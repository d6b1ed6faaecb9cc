"""What the peers share: the model that BENCH_MODEL names, in ONNX Runtime with one thread, as in Fourfold."""

import os

import onnxruntime


def session():
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(os.environ["BENCH_MODEL"], options, providers=["CPUExecutionProvider"])
