"""The S3 door: buckets are folders, objects are plain files.

door        the application
ask         one request
routes      which operation it asks for
buckets, lists, reads, objects, copies, uploads     the operations
bodies      what comes in: signed whole, in signed chunks, or with a checksum after it
ranges      parts of an object that headers name
answers     what goes out
xml         documents
"""

from fourfold.api.s3 import buckets, copies, lists, objects, reads, uploads  # noqa: F401 - their operations register
from fourfold.api.s3.door import S3
from fourfold.api.s3.routes import OPERATIONS

__all__ = ["OPERATIONS", "S3"]
