"""What most people write first: FastAPI with a pydantic body; the model on the event loop, its faster form."""

import numpy as np
from fastapi import FastAPI
from pydantic import BaseModel
from session import session

app = FastAPI()
model = session()


class Body(BaseModel):
    instances: list[list[float]]


@app.post("/predict")
async def predict(body: Body):
    return {"predictions": model.run(["y"], {"x": np.asarray(body.instances, np.float32)})[0].tolist()}
