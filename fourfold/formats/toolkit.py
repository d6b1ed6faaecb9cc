"""What SageMaker's inference toolkit gives to handlers: default functions, (de)serialisers and the context.

Behaviour follows github.com/aws/sagemaker-inference-toolkit (`decoder`, `encoder`, `transformer`), except that pickled
objects in NPY are never read.
"""

from __future__ import annotations

import base64
import csv
import json
from collections.abc import Callable, Mapping
from io import BytesIO, StringIO
from typing import Any

import numpy as np

from fourfold.formats.base import Tensor
from fourfold.formats.codecs import codec_for, libsvm, negotiate
from fourfold.formats.codecs.binary import read_npy, read_npz, write_npy

TEXT = ("application/json", "text/csv")
"""Bodies of these types are decoded before a handler's function sees them."""

_ROWS = Tensor("rows", "float64", (None, None))


class UnsupportedFormatError(Exception):
    """A content type that the default functions cannot read or write; a plain error, so the answer is a 500."""

    def __init__(self, content_type: str) -> None:
        super().__init__(
            f"Content type {content_type} is not supported by the default functions. Write input_fn to read the "
            "request's data or output_fn to write the answer."
        )


class Context:
    """One call as a handler may see it, and what it may set on the answer. The methods are MMS's and TorchServe's.

    Args:
        model_dir: folder with the artifact.
        headers: the request's headers by lower-case name, `x-amzn-sagemaker-custom-attributes` among them.
    """

    def __init__(self, model_dir: str, headers: Mapping[str, str]) -> None:
        self.headers = dict(headers)
        self.response_headers: dict[str, str] = {}
        self.response_status = 200
        self.response_content_type: str | None = None
        self.manifest: dict[str, Any] = {}
        self.system_properties = {"model_dir": model_dir, "gpu_id": None, "batch_size": 1}

    @property
    def request_processor(self) -> list[Context]:
        return [self]

    def get_request_properties(self) -> dict[str, str]:
        return self.headers

    def get_all_request_header(self, idx: int = 0) -> dict[str, str]:
        return self.headers

    def get_request_header(self, idx: int, key: str) -> str | None:
        return self.headers.get(key.lower())

    def set_response_header(self, idx: int, key: str, value: str) -> None:
        self.response_headers[key.lower()] = value

    def set_response_content_type(self, idx: int, value: str) -> None:
        self.response_content_type = value

    def set_response_status(self, code: int = 200, phrase: str = "", idx: int = 0) -> None:
        self.response_status = code


def default_model_fn(model_dir: str) -> Any:
    raise NotImplementedError(
        "The handler has no model_fn. Write `def model_fn(model_dir)` that loads the model from the folder model_dir "
        "and returns it."
    )


def default_input_fn(data: Any, content_type: str) -> Any:
    """JSON and NPY as an array, CSV by genfromtxt, NPZ as scipy.sparse saves it (made dense), libsvm with NaN gaps.

    A JSON object stays a dictionary: in an array without axes, as SageMaker's toolkit makes, nobody can look names up.
    """
    match content_type.partition(";")[0].strip().lower():
        case "application/json":
            value = json.loads(data)
            return value if isinstance(value, dict) else np.array(value)
        case "text/csv":
            return np.genfromtxt(StringIO(data), delimiter=",")
        case "application/x-npy":
            return read_npy(data)
        case "application/x-npz":
            return next(iter(read_npz(data).values()))
        case "text/libsvm" | "text/x-libsvm" | "application/x-libsvm":
            return libsvm.decode(data, {}, (_ROWS,)).arrays[_ROWS.name]
    raise UnsupportedFormatError(content_type)


def default_predict_fn(data: Any, model: Any) -> Any:
    """`model.predict(data)`; on an array where it is XGBoost's Booster; `model(data)` on tensors where PyTorch's."""
    if type(model).__module__ == "xgboost.core":
        return _predict_booster(model, np.atleast_2d(data))
    if callable(getattr(model, "predict", None)):
        return model.predict(data)
    if any(base.__module__.startswith("torch.") for base in type(model).__mro__) and callable(model):
        import torch

        with torch.no_grad():
            return model(torch.as_tensor(data, dtype=torch.float32))
    raise NotImplementedError(
        f"The handler has no predict_fn, and its model, a {type(model).__name__}, has no method predict. "
        "Write `def predict_fn(data, model)`."
    )


def _predict_booster(booster: Any, rows: Any) -> Any:
    """Features that the end of every row leaves out, as libsvm may, are missing."""
    lacking = max(0, booster.num_features() - rows.shape[1])
    return booster.inplace_predict(np.pad(rows.astype(np.float32), ((0, 0), (0, lacking)), constant_values=np.nan))


def default_output_fn(prediction: Any, accept: str) -> bytes | str | tuple[bytes | str, str]:
    """The answer as JSON, CSV or NPY, whichever `accept` asks for."""
    accept = accept if accept in _ENCODERS else _preferred(accept)
    if accept not in _ENCODERS:
        raise UnsupportedFormatError(accept)
    return _ENCODERS[accept](prediction), accept


def to_json(value: Any) -> str:
    """JSON of a value that may hold arrays, tensors, numpy scalars or pictures, which are PNG in base64."""
    return json.dumps(value, default=_plain)


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    if type(value).__module__.startswith("PIL."):
        return _to_png(value)
    raise TypeError(f"A {type(value).__name__} has no JSON form; write output_fn to encode it.")


def _to_png(picture: Any) -> str:
    out = BytesIO()
    picture.save(out, "PNG")
    return base64.b64encode(out.getvalue()).decode()


def _to_csv(value: Any) -> str:
    """Rows; dictionaries, as pipelines of transformers answer, below a header of their names."""
    out = StringIO()
    rows = [value] if isinstance(value, dict) else value
    if isinstance(rows, list) and rows and isinstance(rows[0], dict):
        writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return out.getvalue()
    np.savetxt(out, _detached(value), delimiter=",", fmt="%s")
    return out.getvalue()


def _to_npy(value: Any) -> bytes:
    return write_npy(np.asarray(_detached(value)))


def _detached(value: Any) -> Any:
    """A PyTorch tensor without its gradient, which numpy cannot read."""
    return value.detach() if hasattr(value, "detach") else value


_ENCODERS: dict[str, Callable[[Any], str | bytes]] = {
    "application/json": to_json,
    "text/csv": _to_csv,
    "application/x-npy": _to_npy,
}


def _preferred(accept: str) -> str:
    """The one type that a list such as `text/csv, application/json;q=0.5` prefers."""
    try:
        return negotiate(accept, codec_for("application/json")[0], False)[1]
    except Exception:
        return accept
