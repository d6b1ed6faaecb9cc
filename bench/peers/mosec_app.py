"""mosec: a Rust front end that batches, a Python worker with orjson. MAX_BATCH 1 turns batching off."""

import os
from io import BytesIO

import numpy as np
import orjson
from mosec import Server, Worker
from session import session

MAX_BATCH = int(os.environ["MAX_BATCH"])
MAX_WAIT_MS = 1  # the shortest that mosec takes; longer ones measured slower


class Predict(Worker):
    def __init__(self):
        super().__init__()
        self.model = session()

    def deserialize(self, data):
        if data.startswith(b"{"):
            return np.asarray(orjson.loads(data)["instances"], np.float32)
        return np.load(BytesIO(data))

    def serialize(self, data):
        return orjson.dumps({"predictions": data}, option=orjson.OPT_SERIALIZE_NUMPY)

    def forward(self, data):
        if MAX_BATCH == 1:
            return self.model.run(["y"], {"x": data})[0]
        answer = self.model.run(["y"], {"x": np.concatenate(data)})[0]
        return [answer[row : row + 1] for row in range(len(data))]


if __name__ == "__main__":
    server = Server()
    server.append_worker(Predict, num=1, max_batch_size=MAX_BATCH, max_wait_time=MAX_WAIT_MS)
    server.run()
