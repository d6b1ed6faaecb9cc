"""libsvm text, what the SDK sends to XGBoost by default: `label index:value index:value …`, the label may be missing.

Indices count from 0, as XGBoost reads them. A feature that a line leaves out is missing, hence NaN: trees treat it so.
Answers are CSV, as SageMaker's XGBoost gives them, unless Accept asks for libsvm.
"""

from __future__ import annotations

import numpy as np

from fourfold.formats.base import Arrays, Tensor
from fourfold.formats.codecs import tensors
from fourfold.formats.codecs.request import BadRequest, Body, Parameters, Request, text


def decode(body: Body, parameters: Parameters, inputs: tuple[Tensor, ...]) -> Request:
    width = tensors.record_size(tensors.only(inputs))
    lines = (line.partition("#")[0] for line in text(body).splitlines())
    rows = [_row(line, number) for number, line in enumerate(lines, 1) if line.strip()]
    if width is None:
        width = max((index for row in rows for index in row), default=-1) + 1
    matrix = np.full((len(rows), width), np.nan)
    for position, row in enumerate(rows):
        for index, value in row.items():
            if index >= width:
                raise BadRequest(f"Record {position + 1} has the feature {index}; the model's are 0 to {width - 1}.")
            matrix[position, index] = value
    return Request(tensors.from_matrix(matrix, inputs))


def encode(outputs: Arrays, request: Request, parameters: Parameters) -> bytes:
    rows = np.concatenate([*tensors.to_columns(outputs).values()], axis=1).tolist()
    lines = [" ".join(f"{index}:{value!r}" for index, value in enumerate(row)) for row in rows]
    return ("\n".join(lines) + "\n").encode()


def _row(line: str, number: int) -> dict[int, float]:
    words = line.split()
    if ":" not in words[0]:
        label = words.pop(0)
        if not _is_label(label):
            raise BadRequest(f"Line {number} begins with {label!r}, which is neither a label nor index:value.")
    row = {}
    for word in words:
        index, _, value = word.partition(":")
        if index == "qid":  # groups the lines of a ranking, which each line's own score does not need
            continue
        try:
            row[int(index)] = float(value)
        except ValueError:
            raise BadRequest(f"Line {number} has {word!r}, which is not index:value.") from None
        if int(index) < 0:
            raise BadRequest(f"Line {number} has {word!r}: indices count from 0.")
    return row


def _is_label(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
