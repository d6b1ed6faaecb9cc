"""Batch transform: a data set in, a data set out.

plan        what a job shall do: its options, its objects, and the shards that these are cut into
split       bytes to records: lines, RecordIO, TFRecord
filters     the JSONPath subset of InputFilter and OutputFilter
join        a prediction beside the input that it came from
columnar    Parquet and Arrow in, arrays to the model, Parquet out
shard       what a worker does with one shard, beside the loaded model
capture     what went in and what came out, as manifests
overlap     the same beside a model that is awaited
assemble    the parts of an object put together, in order
warm        what is done once for all workers
running     one job while it runs: its plan, its lanes, its workers, its outputs, its end
job         all jobs: what people want of them, and how far they are

Nothing here takes for granted that a worker shares memory or disk with the gateway: a shard is data (addresses, byte
ranges, options), and so is its result (addresses of parts, counts).
"""
