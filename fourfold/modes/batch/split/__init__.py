"""Bytes to records, for any way in which the bytes come.

base        what a `Split` is: it knows where records begin and end
lines       one record a line: CSV, JSON Lines
recordio    MXNet's RecordIO
tfrecord    TensorFlow's TFRecord
windows     a range of an object as runs of whole records

A split never holds more than a window of records. A byte range of an object owns the records that *begin* in it, so
that ranges can be read apart by workers that know nothing of one another, and no record is lost or read twice wherever
the borders fall.
"""
