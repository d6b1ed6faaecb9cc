"""Ray Data over a Parquet file with actors that hold ONNX sessions; prints the seconds, those of `ray.init` apart.

python ray_batch.py MODEL.onnx INPUT.parquet WORKERS BLOCK
"""

import sys
import tempfile
import time

import numpy as np
import onnxruntime as ort
import ray

MODEL, INPUT, WORKERS, BLOCK = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
COLUMNS = [f"f{i}" for i in range(30)]


class Scorer:
    def __init__(self):
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = ort.InferenceSession(MODEL, options, providers=["CPUExecutionProvider"])

    def __call__(self, batch):
        answer = self.session.run(None, {"x": np.column_stack([batch[name] for name in COLUMNS])})[0]
        return {"y0": answer[:, 0], "y1": answer[:, 1]}


# Where the actors have every core for themselves, Ray waits for ever for one to read with.
ray.init(num_cpus=WORKERS + 2, include_dashboard=False, log_to_driver=False, configure_logging=False)
with tempfile.TemporaryDirectory() as folder:
    began = time.perf_counter()
    data = ray.data.read_parquet(INPUT)
    data.map_batches(Scorer, batch_size=BLOCK, concurrency=WORKERS).write_parquet(folder)
    print(time.perf_counter() - began)
ray.shutdown()
