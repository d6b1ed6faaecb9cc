"""Whole jobs, with real workers: what is written where, what is said, and what a crash changes (nothing)."""

from __future__ import annotations

import asyncio
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fourfold.errors import ResourceInUse, ResourceNotFound, ValidationException
from fourfold.modes.batch.options import PARQUET
from fourfold.store import shards


async def test_each_object_gets_an_output_at_its_place(site):
    site.put("in/a.csv", b"1,2,3\n4,5,6\n")
    site.put("in/deep/b.csv", b"1,1,1")
    site.put("in/empty.csv", b"")
    site.put("in/deep/_SUCCESS", b"")
    async with site.running():
        job = await site.run()
    assert job.status == "Completed"
    assert job.document["TransformEndTime"] >= job.document["TransformStartTime"]
    assert site.keys() == ["out/a.csv.out", "out/deep/b.csv.out", "out/empty.csv.out"]
    assert site.get("out/a.csv.out") == b"6.0\n15.0\n"
    assert site.get("out/empty.csv.out") == b""


async def test_a_bad_object_fails_alone_and_the_job_with_it(site):
    site.put("in/a.csv", b"1,2,3\n")
    site.put("in/b.csv", b"1,2,x\n")
    async with site.running():
        job = await site.run()
        assert job.status == "Failed"
        assert "1 of 2 objects" in job.document["FailureReason"]
        assert "s3://data/in/b.csv: line 1" in job.document["FailureReason"]
        assert site.keys() == ["out/a.csv.out"]
        [error] = await site.jobs.errors("job")
        assert error["Object"] == "s3://data/in/b.csv"
        site.put("in/b.csv", b"1,2,3\n")
        await site.jobs.resume("job")
        assert (await site.until("Completed", "Failed")).status == "Completed"
    assert site.get("out/b.csv.out") == b"6.0\n"
    assert "in/b.csv: line 1" in (site.settings.logs / "transform-jobs" / "job" / "data-log.log").read_text()


async def test_bad_records_are_skipped_where_that_is_asked_for(site):
    site.put("in/a.csv", b"1,2,3\nx\n4,5,6\n")
    async with site.running():
        job = await site.run(Environment={"FOURFOLD_ON_ERROR": "skip"})
        assert job.status == "Completed"
        progress = await site.jobs.progress("job")
        assert (progress.records, progress.errors) == (2, 1)
        [error] = await site.jobs.errors("job")
    assert error == {"Object": "s3://data/in/a.csv", "BadRecords": 1, "Report": "s3://data/out/_errors/a.csv.jsonl"}
    assert site.get("out/a.csv.out") == b"6.0\n15.0\n"
    assert json.loads(site.get("out/_errors/a.csv.jsonl") or b"")["input"] == "x"


def numbers(count: int) -> bytes:
    return b"".join(b"%d,%d,0.5\n" % (i, i) for i in range(count))


def sums(count: int) -> bytes:
    return b"".join(b"%.1f\n" % (2 * i + 0.5) for i in range(count))


async def test_a_big_object_is_cut_and_put_together(site):
    count = 150_000
    site.put("in/big.csv", numbers(count))
    async with site.running():
        job = await site.run()
        assert job.status == "Completed", job.document
        progress = await site.jobs.progress("job")
        assert progress.shards > 1
        assert progress.records == count
    assert site.get("out/big.csv.out") == sums(count)
    assert not (site.settings.buckets / ".batch" / "job").exists()


async def test_a_job_goes_on_after_a_crash_and_writes_the_same(site):
    count = 200_000
    site.put("in/big.csv", numbers(count))
    site.put("in/small.csv", b"1,2,3\n")
    async with site.running():
        await site.start()
        await site.until_shards(1)
    assert site.get("out/big.csv.out") is None
    async with site.running():
        job = await site.until("Completed", "Failed")
        assert job.status == "Completed"
    assert site.get("out/big.csv.out") == sums(count)


async def test_standing_still_for_calls_is_no_silence_of_the_model(site):
    count = 200_000
    site.put("in/big.csv", numbers(count))
    async with site.running():
        await site.start(ModelClientConfig={"InvocationsTimeoutInSeconds": 3, "InvocationsMaxRetries": 0})
        await site.until_shards(1)
        site.placer.background.cores = 0
        await asyncio.sleep(3.3)
        before = await site.jobs.progress("job")
        assert (await site.jobs.describe("job")).status == "InProgress"
        assert before.shards_done < before.shards
        assert before.waits
        site.placer.background.cores = 2
        job = await site.until("Completed", "Failed")
        assert job.status == "Completed", job.document
        assert not (await site.jobs.progress("job")).waits
    assert site.get("out/big.csv.out") == sums(count)


async def test_stop_is_prompt_and_resume_goes_on(site):
    count = 200_000
    site.put("in/big.csv", numbers(count))
    async with site.running():
        await site.start()
        await site.until_shards(1)
        await site.jobs.stop("job")
        async with asyncio.timeout(2):
            await site.until("Stopped")
        assert site.keys() == []
        done = (await site.jobs.progress("job")).shards_done
        await site.jobs.resume("job")
        await site.until("Completed")
        assert done >= 1
    assert site.get("out/big.csv.out") == sums(count)


async def test_an_empty_prefix_fails_with_aws_s_words(site):
    async with site.running():
        job = await site.run()
    assert job.status == "Failed"
    assert 'No S3 objects found under S3 URL "s3://data/in/"' in job.document["FailureReason"]


async def test_a_manifest_names_the_objects(site):
    site.put("in/a.csv", b"1,2,3\n")
    site.put("in/b.csv", b"1,2,3\n")
    site.put("in/m.json", json.dumps([{"prefix": "s3://data/in/"}, "b.csv", "gone.csv"]).encode())
    async with site.running():
        source = {"S3DataSource": {"S3DataType": "ManifestFile", "S3Uri": "s3://data/in/m.json"}}
        job = await site.run(TransformInput={"DataSource": source, "ContentType": "text/csv", "SplitType": "Line"})
    assert site.keys() == ["out/b.csv.out"]
    assert "s3://data/in/gone.csv" in job.document["FailureReason"]


async def test_a_model_that_cannot_load_fails_the_job(site, tmp_path):
    site.put("in/a.csv", b"1,2,3\n")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "model.onnx").write_bytes(b"no model")
    site.model = tmp_path / "broken"
    async with site.running():
        job = await site.run()
    assert job.status == "Failed"
    assert "model.onnx" in job.document["FailureReason"]


async def test_a_parquet_object_of_many_row_groups(site):
    rows = 700_000
    table = pa.table({name: np.arange(rows, dtype=np.float32) for name in "abc"} | {"id": np.arange(rows)})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, row_group_size=100_000)
    site.put("in/t.parquet", bytes(sink.getvalue()))
    async with site.running():
        source = {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": "s3://data/in/"}}
        job = await site.run(
            TransformInput={"DataSource": source, "ContentType": PARQUET[0]},
            TransformOutput={"S3OutputPath": "s3://data/out/"},
            DataProcessing={"InputFilter": "$['a','b','c']", "JoinSource": "Input"},
        )
        assert job.status == "Completed", job.document
        assert (await site.jobs.progress("job")).shards > 1
    out = pq.read_table(pa.BufferReader(site.get("out/t.parquet.out") or b""))
    assert out.column_names == ["a", "b", "c", "id", "sum"]
    assert out["id"].to_numpy().tolist() == list(range(rows))


async def test_a_big_csv_object_becomes_a_table_with_its_columns_kept(site):
    count = 150_000
    site.put("in/big.csv", b"id,a,b,c\n" + b"".join(b"r%d,%d,%d,0.5\n" % (i, i, i) for i in range(count)))
    source = {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": "s3://data/in/"}}
    async with site.running():
        job = await site.run(
            TransformInput={"DataSource": source, "ContentType": "text/csv; header=present", "SplitType": "Line"},
            TransformOutput={"S3OutputPath": "s3://data/out/", "Accept": PARQUET[0]},
            DataProcessing={"InputFilter": "$[1:]", "JoinSource": "Input"},
        )
        assert job.status == "Completed", job.document
        assert (await site.jobs.progress("job")).shards > 1
    out = pq.read_table(pa.BufferReader(site.get("out/big.csv.out") or b""))
    assert out.column_names == ["id", "a", "b", "c", "sum"]
    assert out["id"].to_pylist() == [f"r{i}" for i in range(count)]
    assert out["sum"].to_pylist() == [2 * i + 0.5 for i in range(count)]


async def test_wishes_that_cannot_be_met(site):
    site.put("in/a.csv", b"1,2,3\n")
    async with site.running():
        await site.run()
        with pytest.raises(ResourceInUse, match="must be unique"):
            await site.start()
        with pytest.raises(ValidationException, match="Could not find model"):
            await site.start("other", ModelName="none")
        with pytest.raises(ResourceNotFound):
            await site.jobs.stop("none")
        with pytest.raises(ValidationException, match="Completed"):
            await site.jobs.resume("job")
        await site.jobs.stop("job")
        assert (await site.jobs.describe("job")).status == "Completed"


async def test_many_small_objects_share_shards(site):
    for i in range(600):
        site.put(f"in/{i:04d}.csv", b"%d,0,0\n" % i)
    async with site.running():
        job = await site.run()
        assert job.status == "Completed"
        assert (await site.jobs.progress("job")).shards == 3
        assert await site.store.run(lambda db: shards.failures(db, "job")) == []
    assert len(site.keys()) == 600
    assert site.get("out/0599.csv.out") == b"599.0\n"
