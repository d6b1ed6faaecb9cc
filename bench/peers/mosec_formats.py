"""mosec with one of several libraries: BENCH_FORMAT names it, BENCH_MODEL the file. Batches as `mosec_app` does."""

import os

import numpy as np
import orjson
from mosec import Server, Worker


def predictor():
    """What answers a matrix of float32, with one thread, as Fourfold's format of that name does."""
    path = os.environ["BENCH_MODEL"]
    match os.environ["BENCH_FORMAT"]:
        case "sklearn":
            import joblib

            return joblib.load(path).predict
        case "xgboost":
            import xgboost

            booster = xgboost.Booster(model_file=path)
            booster.set_param({"nthread": 1})
            return booster.inplace_predict
        case "lightgbm":
            import lightgbm

            booster = lightgbm.Booster(model_file=path)
            return lambda rows: booster.predict(rows, num_threads=1)
        case "torch":
            import torch

            torch.set_num_threads(1)
            module = torch.jit.load(path).eval()

            def run(rows):
                with torch.inference_mode():
                    return module(torch.from_numpy(rows)).numpy()

            return run


class Predict(Worker):
    def __init__(self):
        super().__init__()
        self.predict = predictor()

    def deserialize(self, data):
        return np.asarray(orjson.loads(data)["instances"], np.float32)

    def serialize(self, data):
        return orjson.dumps({"predictions": data}, option=orjson.OPT_SERIALIZE_NUMPY)

    def forward(self, data):
        answer = self.predict(np.concatenate(data))
        return [answer[row : row + 1] for row in range(len(data))]


if __name__ == "__main__":
    server = Server()
    server.append_worker(Predict, num=1, max_batch_size=32, max_wait_time=1)
    server.run()
