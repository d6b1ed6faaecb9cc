"""What ONNX Runtime makes for its first session, made: a zygote imports this, so that its workers inherit it.

Its environment and the schemas of all operators are 4 MB, which every worker would otherwise make for itself: with
them inherited, a small model loads in half the time. No thread is started.
"""

from __future__ import annotations

import onnxruntime as ort

from fourfold.formats.onnx import session_options

IDENTITY = (
    b'\x08\x08:3\n\x10\n\x01x\x12\x01y"\x08Identity\x12\x01gZ\r\n\x01x\x12\x08\n\x06\x08\x01\x12\x02\n\x00'
    b"b\r\n\x01y\x12\x08\n\x06\x08\x01\x12\x02\n\x00B\x04\n\x00\x10\x11"
)
"""An ONNX model of one operator: y = Identity(x), float32[?]."""

ort.InferenceSession(IDENTITY, session_options(1), providers=["CPUExecutionProvider"])
