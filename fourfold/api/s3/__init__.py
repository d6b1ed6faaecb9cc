"""The S3 door: buckets are folders, objects are plain files.

door.py     the operations
bodies.py   what comes in: signed whole, in signed chunks, or with a checksum after it
xml.py      what goes out
"""

from fourfold.api.s3.door import OPERATIONS, S3

__all__ = ["OPERATIONS", "S3"]
