"""Bytes on the wire to a model's arrays and back.

    calls ──► codec.decode ──► tensors: names, widths, dtypes, ranks ──► one predict ──► codec.encode ──► replies

`invoke_arrays` is the way through all of it for a batch of calls; `table` knows which codec a media type means. The
codecs are one module a family: `json` (JSON and JSON Lines), `csv`, `binary` (NPY, NPZ, raw bytes) and `parquet`.
"""

from fourfold.formats.codecs.batch import invoke_arrays
from fourfold.formats.codecs.request import BadRequest, Request
from fourfold.formats.codecs.table import CODECS, Codec, codec_for, negotiate

__all__ = ["CODECS", "BadRequest", "Codec", "Request", "codec_for", "invoke_arrays", "negotiate"]
