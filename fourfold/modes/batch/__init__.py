"""Batch transform: a data set in, a data set out.

On the server's event loop:

job         all jobs: what people want of them, and how far they are
running     one job while it runs: its plan, its lanes, its workers, its outputs, its end
capture     what went in and what came out, as manifests

Said between both sides, as plain data:

options     how a job treats its records
addresses   where inputs are, and where outputs go
plan        a job's objects, cut into shards
orders      what the server and the workers tell each other

In workers:

survey      looks at a job's objects and has its plan cut
shard       what a worker does with one shard, beside the loaded model
reading     the records of a slice of an object
split       bytes to records: lines, RecordIO, TFRecord
rows        lines of CSV and JSON to arrays, and the model's answers
row_tables  these answers as tables
columnar    Parquet and Arrow in, arrays to the model, Parquet out
calls       records to the model in payloads, as a container would get them
filters     the JSONPath subset of InputFilter and OutputFilter
join        a prediction beside the input that it came from
finish      join, filter and inference ids, for one record or many
bad         what cannot be transformed, and its report
blobs       objects, read and written
assemble    the parts of an object put together, in order
parquet     Parquet files joined into one without decoding them
overlap     tasks beside a model that is awaited
warm        what is done once for all workers

Nothing here takes for granted that a worker shares memory or disk with the gateway: a shard is data (addresses, byte
ranges, options), and so is its result (addresses of parts, counts).
"""
