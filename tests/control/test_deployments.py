"""Deployments: their steps, the time they take, and what happens to calls while traffic moves."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import AsyncMock, Mock

import pytest
from botocore.exceptions import ClientError

from fourfold.clock import ManualClock
from fourfold.control.deployments import Deployment, Plan, RolledBack, part, plan
from fourfold.errors import ModelLoadError, ValidationException
from fourfold.pool.batcher import Batching
from fourfold.pool.fleet import Fleet
from fourfold.pool.local import LocalPlacer
from fourfold.records import WorkerSpec
from fourfold.store import Store, resources
from tests.server import alive
from tests.test_serve import eventually

MODEL = """
import os
def model_fn(model_dir):
    {load}
def input_fn(data, content_type):
    return data
def predict_fn(data, model):
    return "{name}"
def output_fn(prediction, accept):
    return prediction
"""
PATIENT = """
import os, time
def model_fn(model_dir):
    return None
def transform_fn(model, data, content_type, accept):
    yield "begun"
    while not os.path.exists(data):
        time.sleep(0.01)
    yield "ended"
"""


def blue_green(type: str = "ALL_AT_ONCE", wait: int = 0, termination: int = 0, **size) -> dict:
    routing = {"Type": type, "WaitIntervalInSeconds": wait, **size}
    return {"BlueGreenUpdatePolicy": {"TrafficRoutingConfiguration": routing, "TerminationWaitInSeconds": termination}}


def percent(value: int) -> dict:
    return {"Type": "CAPACITY_PERCENT", "Value": value}


# Steps


@pytest.mark.parametrize(
    ("config", "instances", "shares"),
    [
        (None, 1, (1.0,)),
        (blue_green(wait=60), 4, (1.0,)),
        (blue_green("CANARY", CanarySize=percent(10)), 4, (0.1, 1.0)),
        (blue_green("CANARY", CanarySize={"Type": "INSTANCE_COUNT", "Value": 1}), 4, (0.25, 1.0)),
        (blue_green("LINEAR", LinearStepSize=percent(25)), 4, (0.25, 0.5, 0.75, 1.0)),
        (blue_green("LINEAR", LinearStepSize=percent(40)), 4, (0.4, 0.8, 1.0)),
        (blue_green("LINEAR", LinearStepSize={"Type": "INSTANCE_COUNT", "Value": 1}), 1, (1.0,)),
        ({"RollingUpdatePolicy": {"MaximumBatchSize": percent(50), "WaitIntervalInSeconds": 0}}, 2, (0.5, 1.0)),
        (
            {
                "RollingUpdatePolicy": {
                    "MaximumBatchSize": {"Type": "COPY_COUNT", "Value": 1},
                    "WaitIntervalInSeconds": 0,
                }
            },
            1,
            (1.0,),
        ),
    ],
)
def test_the_steps_of_a_policy(config, instances, shares):
    assert plan(config, instances).shares == pytest.approx(shares)


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (blue_green("CANARY"), "CanarySize is needed"),
        (blue_green("CANARY", CanarySize=percent(60)), "0% to 50%"),
        (blue_green("LINEAR", LinearStepSize=percent(5)), "10% to 50%"),
        (blue_green("LINEAR", wait=3600, LinearStepSize=percent(10)), "longer than"),
        ({"RollingUpdatePolicy": {"MaximumBatchSize": percent(2), "WaitIntervalInSeconds": 0}}, "5% to 50%"),
        (
            blue_green() | {"RollingUpdatePolicy": {"MaximumBatchSize": percent(50), "WaitIntervalInSeconds": 0}},
            "either",
        ),
    ],
)
def test_a_policy_that_cannot_be_carried_out_is_refused(config, told):
    if told == "longer than":
        config["BlueGreenUpdatePolicy"]["MaximumExecutionTimeoutInSeconds"] = 600
    with pytest.raises(ValidationException, match=told):
        plan(config, 10)


def test_a_part_of_a_fleet_is_rounded_up():
    assert [part(3, share) for share in (0.1, 1 / 3, 0.5, 1.0)] == [1, 1, 2, 3]
    assert part(0, 1.0) == 0


# Time


class Bench:
    """A deployment between two fleets on a clock that the test moves."""

    def __init__(self, plan: Plan):
        self.clock = ManualClock()
        self.old, self.new = (Fleet(WorkerSpec("m", ".", "onnx"), LocalPlacer(), Batching()) for _ in range(2))
        self.alarm = "OK"
        self.seen: list[tuple[float, str | float]] = []
        self.deployment = Deployment(
            plan, self.clock, {"v": self.old}, {"v": self.new}, self._note, self._alarms, self._stage
        )  # fmt: skip
        self.task = asyncio.create_task(self.deployment.run({"v": 1}, 0.0))

    @classmethod
    async def begin(cls, plan: Plan) -> Bench:
        bench = cls(plan)
        await bench.clock.advance(0)
        return bench

    def _note(self, what: float | str) -> None:
        self.seen.append((self.clock.monotonic(), what))

    async def _alarms(self, names):
        return dict.fromkeys(names, self.alarm)

    async def _stage(self, status: str) -> None:
        self._note(status)


async def test_a_canary_bakes_twice_and_leaves_the_old_fleet_for_a_while():
    bench = await Bench.begin(Plan((0.1, 1.0), wait=300, termination_wait=60))
    await bench.clock.advance(299)
    assert bench.seen == [(0, "ActivatingTraffic"), (0, 0.1), (0, "Baking")]
    await bench.clock.advance(2)
    assert bench.seen[3:] == [(300, "ActivatingTraffic"), (300, 1.0), (300, "Baking")]
    await bench.clock.advance(350)
    assert not bench.task.done()
    await bench.clock.advance(10)
    await bench.task


async def test_an_alarm_while_baking_gives_the_traffic_back():
    bench = await Bench.begin(Plan((0.5, 1.0), wait=60, alarms=("errors",)))
    await bench.clock.advance(30)
    bench.alarm = "ALARM"
    await bench.clock.advance(1)
    with pytest.raises(RolledBack, match="errors"):
        await bench.task
    await bench.deployment.back()
    assert bench.seen[-1] == (31, 0.0)


async def test_an_alarm_from_before_keeps_every_call_away_from_the_new_fleet():
    bench = Bench(Plan((0.5, 1.0), wait=60, alarms=("errors",)))
    bench.alarm = "ALARM"
    with pytest.raises(RolledBack, match="errors"):
        await bench.task
    assert bench.seen == []


async def test_a_new_fleet_that_cannot_stay_up_and_the_time_limit_roll_back():
    bench = await Bench.begin(Plan(wait=60))
    bench.new.failure = ModelLoadError("it is broken")
    await bench.clock.advance(1)
    with pytest.raises(RolledBack, match="it is broken"):
        await bench.task
    slow = await Bench.begin(Plan(wait=60, timeout=20))
    await slow.clock.advance(30)
    with pytest.raises(RolledBack, match="limit of 20 s"):
        await slow.task


async def test_a_roll_back_to_a_fleet_that_does_not_run_fails():
    bench = await Bench.begin(Plan(wait=60))
    await bench.clock.advance(5)
    bench.old.failure = ModelLoadError("the disk is gone")
    with pytest.raises(ModelLoadError, match="the disk is gone"):
        await bench.deployment.back()
    bench.task.cancel()


class Counted(Fleet):
    """A fleet without workers that notes its sizes."""

    def __init__(self, name: str, count: int, sizes: list[tuple[str, int]]):
        super().__init__(WorkerSpec("m", ".", "onnx"), LocalPlacer(), Batching())
        self.name, self.count, self.sizes = name, count, sizes

    @property
    def wanted(self) -> int:
        return self.count

    def scale(self, count: int) -> None:
        self.count = count
        self.sizes.append((self.name, count))

    async def reach(self, count: int) -> None:
        self.scale(count)


@pytest.mark.parametrize("room", [True, False])
async def test_a_rolling_update_adds_before_it_takes_away_where_there_is_room(room):
    sizes: list[tuple[str, int]] = []
    old, new = Counted("old", 4, sizes), Counted("new", 0, sizes)
    seen: list[float] = []
    rolling = plan({"RollingUpdatePolicy": {"MaximumBatchSize": percent(50), "WaitIntervalInSeconds": 0}}, 4)
    deployment = Deployment(
        rolling, ManualClock(), {"v": old}, {"v": new}, seen.append, Mock(), AsyncMock(), lambda count: room
    )  # fmt: skip
    await deployment.run({"v": 4}, 0.0)
    assert seen == [0.5, 1.0]
    kept = [size for n, size in enumerate(sizes) if size not in sizes[:n]]
    if room:
        assert kept == [("new", 2), ("old", 2), ("new", 4)]
    else:
        assert kept == [("old", 2), ("new", 2), ("old", 1), ("new", 4)]


# Under load


def deploy(server, handler, name: str, count: int = 1, load: str = "pass") -> None:
    """A model and a config of this name, and the endpoint `shop` where it does not exist yet."""
    archive = handler(MODEL.format(name=name, load=load))
    server.deploy(name, archive, endpoint=False)
    sagemaker = server.client("sagemaker")
    variant = {"VariantName": "AllTraffic", "ModelName": name, "InstanceType": "ml.m5.large"}
    sagemaker.create_endpoint_config(
        EndpointConfigName=name, ProductionVariants=[variant | {"InitialInstanceCount": count}]
    )


class Load:
    """Clients that call one after another; every answer is kept, and every failure."""

    def __init__(self, server, endpoint: str):
        self.answers: list[str] = []
        self.failures: list[Exception] = []
        self._stop = threading.Event()
        self._server, self._endpoint = server, endpoint
        self._threads = [threading.Thread(target=self._call) for _ in range(3)]

    def _call(self) -> None:
        runtime = self._server.client("sagemaker-runtime")
        while not self._stop.is_set():
            try:
                answer = runtime.invoke_endpoint(EndpointName=self._endpoint, ContentType="text/plain", Body=b"x")
                self.answers.append(answer["Body"].read().decode())
            except Exception as error:
                self.failures.append(error)
            time.sleep(0.002)

    def newest(self) -> set[str]:
        return set(self.answers[-200:])

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join()


@contextmanager
def under_load(server, endpoint: str):
    with Load(server, endpoint) as load:
        eventually(lambda: len(load.answers) > 50)
        yield load
    assert load.failures == []


@pytest.fixture(scope="module")
def shop(server, handler):
    """A server with the endpoint `shop` that says "old", and configs for "new", "fat" and what cannot load."""
    deploy(server, handler, "old", 2)
    deploy(server, handler, "new", 2)
    deploy(server, handler, "broken", 1, load='raise RuntimeError("no weights")')
    server.client("sagemaker").create_endpoint(EndpointName="shop", EndpointConfigName="old")
    server.wait("shop")
    return server


def update(server, config: str, deployment: dict | None = None) -> None:
    extra = {"DeploymentConfig": deployment} if deployment else {}
    server.client("sagemaker").update_endpoint(EndpointName="shop", EndpointConfigName=config, **extra)


def change(server, **wanted) -> None:
    server.client("sagemaker").update_endpoint_weights_and_capacities(
        EndpointName="shop", DesiredWeightsAndCapacities=[{"VariantName": "AllTraffic", **wanted}]
    )


def pending(server, endpoint: str = "shop") -> tuple[str, str | None]:
    found = server.client("sagemaker").describe_endpoint(EndpointName=endpoint)
    summary = found.get("PendingDeploymentSummary")
    status = summary["ProductionVariants"][0]["VariantStatus"][0]["Status"] if summary else None
    return found["EndpointStatus"], status


def test_a_canary_moves_traffic_in_two_steps_and_no_call_fails(shop):
    update(shop, "old")
    shop.wait("shop")
    with under_load(shop, "shop") as load:
        update(shop, "new", blue_green("CANARY", wait=2, CanarySize=percent(20)))
        eventually(lambda: pending(shop) == ("Updating", "Baking"))
        arriving = shop.client("sagemaker").describe_endpoint(EndpointName="shop")["PendingDeploymentSummary"]
        assert arriving["EndpointConfigName"] == "new"
        assert arriving["ProductionVariants"][0]["InstanceType"] == "ml.m5.large"
        (serving,) = shop.client("sagemaker").describe_endpoint(EndpointName="shop")["ProductionVariants"]
        assert [one["Status"] for one in serving["VariantStatus"]] == ["Updating"]
        eventually(lambda: load.newest() == {"old", "new"})
        found = shop.wait("shop")
        eventually(lambda: load.newest() == {"new"})
    assert found["EndpointConfigName"] == "new"
    assert "PendingDeploymentSummary" not in found
    assert "VariantStatus" not in found["ProductionVariants"][0]
    assert "FailureReason" not in found


def test_a_rolling_update_replaces_workers_one_by_one_and_no_call_fails(shop):
    update(shop, "old")
    shop.wait("shop")
    half = {"Type": "INSTANCE_COUNT", "Value": 1}
    with under_load(shop, "shop") as load:
        update(shop, "new", {"RollingUpdatePolicy": {"MaximumBatchSize": half, "WaitIntervalInSeconds": 2}})
        eventually(lambda: load.newest() == {"old", "new"})
        workers = b'fourfold_workers{endpoint="shop",variant="AllTraffic"} 1.0'
        eventually(lambda: workers in shop.get("/metrics"))  # one of two
        shop.wait("shop")
        eventually(lambda: load.newest() == {"new"})
    found = shop.client("sagemaker").describe_endpoint(EndpointName="shop")
    assert found["ProductionVariants"][0]["CurrentInstanceCount"] == 2


def test_an_alarm_rolls_back_and_no_call_fails(shop):
    update(shop, "old")
    shop.wait("shop")
    cloudwatch = shop.client("cloudwatch")
    cloudwatch.put_metric_alarm(
        AlarmName="errors", Namespace="shop", MetricName="Errors", Statistic="Sum", Period=60, EvaluationPeriods=1,
        Threshold=1, ComparisonOperator="GreaterThanThreshold", TreatMissingData="notBreaching",
    )  # fmt: skip
    watched = blue_green("LINEAR", wait=60, LinearStepSize=percent(50))
    watched |= {"AutoRollbackConfiguration": {"Alarms": [{"AlarmName": "errors"}]}}
    with under_load(shop, "shop") as load:
        update(shop, "new", watched)
        eventually(lambda: load.newest() == {"old", "new"})
        cloudwatch.set_alarm_state(AlarmName="errors", StateValue="ALARM", StateReason="a drill")
        found = shop.wait("shop")
        eventually(lambda: load.newest() == {"old"})
    assert "errors" in found["FailureReason"]
    assert found["EndpointConfigName"] == "old"


def test_a_count_may_be_changed_after_an_update_whose_sizes_do_not_fit_it(shop, handler):
    deploy(shop, handler, "four", 4)
    update(shop, "four", blue_green("CANARY", CanarySize={"Type": "INSTANCE_COUNT", "Value": 2}))
    shop.wait("shop")
    change(shop, DesiredInstanceCount=3)
    found = shop.wait("shop")
    assert "FailureReason" not in found
    assert found["ProductionVariants"][0]["CurrentInstanceCount"] == 3


def test_no_change_leaves_an_endpoint_without_an_answer(shop):
    sagemaker = shop.client("sagemaker")
    with pytest.raises(ClientError, match="must have 1 instance at least"):
        change(shop, DesiredInstanceCount=0)
    with pytest.raises(ClientError, match="cannot all be 0"):
        change(shop, DesiredWeight=0)
    variant = {"ModelName": "old", "InstanceType": "ml.m5.large", "InitialInstanceCount": 1}
    spare = variant | {"VariantName": "Spare"}
    both = [variant | {"VariantName": "AllTraffic"}, spare | {"InitialVariantWeight": 0}]
    sagemaker.create_endpoint_config(EndpointConfigName="both", ProductionVariants=both)
    sagemaker.create_endpoint_config(EndpointConfigName="spare", ProductionVariants=[spare])
    update(shop, "both")
    shop.wait("shop")
    with pytest.raises(ClientError, match="cannot all be 0"):
        sagemaker.update_endpoint(EndpointName="shop", EndpointConfigName="spare", RetainAllVariantProperties=True)


def test_a_new_fleet_that_cannot_load_never_gets_traffic(shop):
    update(shop, "old")
    shop.wait("shop")
    with under_load(shop, "shop") as load:
        update(shop, "broken", blue_green("CANARY", wait=60, CanarySize=percent(50)))
        found = shop.wait("shop")
    assert "no weights" in found["FailureReason"]
    assert set(load.answers) == {"old"}


def test_a_long_stream_holds_up_neither_updates_nor_the_end_of_its_endpoint(shop, handler, tmp_path):
    shop.deploy("patient", handler(PATIENT))
    sagemaker = shop.client("sagemaker")

    def begun(until: Path) -> Iterator[dict]:
        events = iter(
            shop.client("sagemaker-runtime").invoke_endpoint_with_response_stream(
                EndpointName="patient", ContentType="text/csv", Body=str(until)
            )["Body"]
        )
        assert next(events)["PayloadPart"]["Bytes"] == b"begun"
        return events

    first, second = tmp_path / "first", tmp_path / "second"
    running = begun(first)
    for config in ("old", "patient"):
        sagemaker.update_endpoint(EndpointName="patient", EndpointConfigName=config)
        shop.wait("patient")
    first.touch()
    assert next(running)["PayloadPart"]["Bytes"] == b"ended"
    running = begun(second)
    sagemaker.update_endpoint(EndpointName="patient", EndpointConfigName="old")
    shop.wait("patient")
    before = set(shop.worker_pids())
    sagemaker.delete_endpoint(EndpointName="patient")
    eventually(lambda: len(before) - len(before & set(shop.worker_pids())) == 2)  # the idle ones
    second.touch()
    assert next(running)["PayloadPart"]["Bytes"] == b"ended"
    eventually(lambda: len(before) - len(before & set(shop.worker_pids())) == 3)
    with pytest.raises(ClientError, match="Could not find"):
        eventually(lambda: not sagemaker.describe_endpoint(EndpointName="patient"))


def test_an_alarm_that_does_not_exist_is_refused(shop):
    watched = blue_green() | {"AutoRollbackConfiguration": {"Alarms": [{"AlarmName": "nowhere"}]}}
    with pytest.raises(ClientError, match='Could not find alarm "nowhere"'):
        update(shop, "new", watched)


def test_a_deployment_that_kill_9_interrupts_starts_again_from_the_old_fleet(own_server, handler):
    deploy(own_server, handler, "old")
    deploy(own_server, handler, "new")
    own_server.client("sagemaker").create_endpoint(EndpointName="shop", EndpointConfigName="old")
    own_server.wait("shop")
    update(own_server, "new", blue_green("CANARY", wait=4, CanarySize=percent(10)))
    eventually(lambda: pending(own_server) == ("Updating", "Baking"))
    own_server.kill()
    own_server.start()
    eventually(lambda: pending(own_server) == ("Updating", "Baking"))
    with under_load(own_server, "shop") as load:
        assert own_server.wait("shop")["EndpointConfigName"] == "new"
        eventually(lambda: load.newest() == {"new"})
    assert "old" in load.answers


def test_a_roll_back_that_kill_9_interrupts_is_finished_by_the_restart(own_server, handler):
    deploy(own_server, handler, "old")
    own_server.client("sagemaker").create_endpoint(EndpointName="shop", EndpointConfigName="old")
    own_server.wait("shop")
    own_server.kill()
    store = Store(f"sqlite:///{own_server.folder}/fourfold.db")

    def begin_to_roll_back(db) -> None:  # what is written before anything else is done
        endpoint = resources.get(db, "endpoint", "shop")
        deployed = endpoint.document["deployed"] | {"revision": 2}
        endpoint.status = "RollingBack"
        endpoint.document |= {"revision": 2, "wanted": deployed, "deployed": deployed, "failure": "an alarm"}
        resources.save(db, endpoint)

    store.run_now(begin_to_roll_back)
    store.close()
    own_server.start()
    assert own_server.wait("shop")["FailureReason"] == "an alarm"
    with under_load(own_server, "shop") as load:
        pass
    assert set(load.answers) == {"old"}


def test_deleting_an_endpoint_ends_its_deployment(shop, handler):
    sagemaker = shop.client("sagemaker")
    sagemaker.create_endpoint(EndpointName="brief", EndpointConfigName="old")
    shop.wait("brief")
    before = set(shop.worker_pids())
    deployment = blue_green("CANARY", wait=600, CanarySize=percent(10))
    sagemaker.update_endpoint(EndpointName="brief", EndpointConfigName="new", DeploymentConfig=deployment)
    eventually(lambda: pending(shop, "brief") == ("Updating", "Baking"))
    new = set(shop.worker_pids()) - before
    sagemaker.delete_endpoint(EndpointName="brief")
    eventually(lambda: sum(map(alive, new)) == len(new) - 2)
    with pytest.raises(ClientError, match="Could not find"):
        eventually(lambda: not sagemaker.describe_endpoint(EndpointName="brief"))
