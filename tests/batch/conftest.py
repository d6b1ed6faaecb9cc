"""A batch runner on a folder of its own: real store, real workers, a small ONNX model."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from fourfold.clock import SystemClock
from fourfold.config import Settings
from fourfold.modes.batch.job import Jobs
from fourfold.pool.link import WorkerLink
from fourfold.pool.local import LocalPlacer
from fourfold.pool.zygote import BACKGROUND
from fourfold.records import WorkerSpec
from fourfold.store import Store, resources
from fourfold.store.resources import Resource
from fourfold.store.schema import metadata


@pytest.fixture(scope="session")
def sum_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model that adds up rows of three floats."""
    graph = helper.make_graph(
        [helper.make_node("ReduceSum", ["x", "axes"], ["sum"], keepdims=1)],
        "sum",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor_value_info("sum", TensorProto.FLOAT, ["n", 1])],
        [helper.make_tensor("axes", TensorProto.INT64, [1], [1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    folder = tmp_path_factory.mktemp("model")
    onnx.save(model, str(folder / "model.onnx"))
    return folder


@dataclass(frozen=True)
class Loadable:
    """What `prepare` gives."""

    spec: WorkerSpec
    imports: tuple[str, ...] = ()
    load_timeout: float = 60.0


@dataclass
class Site:
    """One data folder and the runner that works on it."""

    settings: Settings
    model: Path
    format: str = "onnx"
    jobs: Jobs = field(init=False)
    placer: LocalPlacer = field(init=False)
    store: Store = field(init=False)

    @asynccontextmanager
    async def running(self, cores: int = 2) -> AsyncIterator[None]:
        """The runner at work; leaving ends it as a crash would, with nothing said."""
        self.store = Store(self.settings.store_url)
        metadata.create_all(self.store.engine)
        self.store.run_now(self._add_model)
        self.placer = EvenPlacer()
        self.jobs = Jobs(
            self.store, self.placer, self._prepare, self.settings, SystemClock(), cores=cores, shard_bytes=1 << 20
        )
        control = asyncio.create_task(self.jobs.run())
        try:
            yield
        finally:
            control.cancel()
            await asyncio.gather(control, return_exceptions=True)
            await self.jobs.close()
            await self.placer.close()
            self.store.close()

    def _add_model(self, db: Any) -> None:
        if resources.get(db, "model", "m") is None:
            resources.insert(db, Resource("model", "m", "arn:m", 0, 0))

    async def _prepare(self, name: str, _document: dict[str, Any]) -> Loadable:
        return Loadable(WorkerSpec(name, str(self.model), self.format))

    def put(self, key: str, content: bytes) -> None:
        """An object of the bucket `data`."""
        path = self.settings.buckets / "data" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def get(self, key: str) -> bytes | None:
        path = self.settings.buckets / "data" / key
        return path.read_bytes() if path.is_file() else None

    def keys(self, prefix: str = "out") -> list[str]:
        """Keys below a folder of the bucket, sorted."""
        folder = self.settings.buckets / "data"
        return sorted(path.relative_to(folder).as_posix() for path in (folder / prefix).rglob("*") if path.is_file())

    async def start(self, name: str = "job", **changes: Any) -> str:
        """A job over `in/` to `out/`: CSV, line by line. `changes` are members of the request."""
        return await self.jobs.create({**request(name), **changes})

    async def until(self, *statuses: str, name: str = "job") -> Resource:
        """The job when it has one of these statuses."""
        async with asyncio.timeout(60):
            while True:
                job = await self.jobs.describe(name)
                if job.status in statuses:
                    return job
                await asyncio.sleep(0.01)

    async def until_shards(self, count: int, name: str = "job") -> None:
        """Wait until so many shards are done."""
        async with asyncio.timeout(60):
            while (await self.jobs.progress(name)).shards_done < count:  # noqa: ASYNC110 - a look from outside
                await asyncio.sleep(0.002)

    async def run(self, **changes: Any) -> Resource:
        """A job from its start to its end."""
        name = changes.pop("name", "job")
        await self.start(name, **changes)
        return await self.until("Completed", "Failed", "Stopped", name=name)


class EvenPlacer(LocalPlacer):
    """Gives the workers of jobs the priority of all others, so that a busy machine makes no test slow; they are held
    like others in the background."""

    async def start(self, spec: WorkerSpec, *, nice: int = 0, **more: Any) -> WorkerLink:
        link = await super().start(spec, **more)
        if nice == BACKGROUND:
            self.background.add(link)
        return link


def request(name: str) -> dict[str, Any]:
    return {
        "TransformJobName": name,
        "ModelName": "m",
        "TransformInput": {
            "DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": "s3://data/in/"}},
            "ContentType": "text/csv",
            "SplitType": "Line",
        },
        "TransformOutput": {"S3OutputPath": "s3://data/out/", "AssembleWith": "Line", "Accept": "text/csv"},
        "TransformResources": {"InstanceType": "ml.m5.large", "InstanceCount": 1},
    }


@pytest.fixture
def site(tmp_path: Path, sum_model: Path) -> Site:
    settings = Settings(data_dir=tmp_path)
    (settings.buckets / "data").mkdir(parents=True)
    settings.logs.mkdir()
    return Site(settings, sum_model)
