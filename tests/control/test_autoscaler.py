"""The autoscaler on a clock that the test moves: targets, steps, times, cooldowns and what it says about them."""

from __future__ import annotations

from functools import partial
from unittest.mock import Mock

import pytest

from fourfold.clock import ManualClock
from fourfold.control.autoscaling.activities import Activities
from fourfold.control.autoscaling.autoscaler import Autoscaler
from fourfold.control.autoscaling.capacities import INSTANCES, PROVISIONED
from fourfold.control.autoscaling.targets import ACTIVITY, TARGET, ObjectNotFound, Targets
from fourfold.datapoints import SAGEMAKER, Datapoint, Statistics, metric
from fourfold.errors import ValidationException
from fourfold.modes.asynchronous.figures import Backlog, Figures
from fourfold.monitor import queries
from fourfold.monitor.alarms import SCALING, Actions, Alarms
from fourfold.monitor.history import History
from fourfold.pool.routes import Route, Routes, Variant
from fourfold.records import Partition
from fourfold.store import Store, resources
from fourfold.store.migrate import upgrade

RESOURCE = "endpoint/shop/variant/AllTraffic"
PLACE = {"ServiceNamespace": "sagemaker", "ResourceId": RESOURCE, "ScalableDimension": INSTANCES}
WHERE = {"EndpointName": "shop", "VariantName": "AllTraffic"}


class Instances:
    """A capacity that is reached a while after it was asked for."""

    words = "desired instance count"

    def __init__(self, count: int = 1, smallest: int = 0):
        self.count, self.smallest, self.settled = count, smallest, True
        self.history = [count]

    async def capacity(self, resource):
        return (self.count, self.settled) if resource == RESOURCE else None

    async def change(self, resource, capacity):
        self.count = capacity
        self.history.append(capacity)

    async def least(self, resource):
        return self.smallest


class Bench:
    def __init__(self, folder, count: int = 1):
        self.clock = ManualClock(1_800_000_000.0)
        self.store = Store(f"sqlite:///{folder}/x.db")
        upgrade(self.store)
        self.metrics = History(self.store, self.clock)
        self.instances = Instances(count)
        dimensions = {INSTANCES: self.instances, PROVISIONED: self.instances}
        actions = Actions()
        self.alarms = Alarms(self.store, self.metrics, Partition(), self.clock, actions)
        self.targets = Targets(self.store, Partition(), self.clock, dimensions, self.alarms)
        self.scaler = Autoscaler(self.store, self.targets, self.clock, partial(queries.evaluate, self.metrics))
        actions.known[SCALING] = self.scaler.act

    async def spend(self, seconds: int, calls: float | None = None, name: str = "InvocationsPerInstance", **where):
        """Let time pass; each ten seconds there are so many calls in all, shared by the instances."""
        for _ in range(0, seconds, 10):
            await self.clock.advance(10)
            if calls is not None:
                value = Statistics.of(calls / max(1, self.instances.count))
                self.metrics.put(Datapoint(metric(SAGEMAKER, name, where or WHERE), value), self.clock.now() - 10)
            await self.alarms.evaluate()
            await self.scaler.tick()
            await self.scaler.tick()  # the second sees what became of the first

    async def activities(self) -> list[dict]:
        return [one.document for one in await self.targets.find(ACTIVITY)]


@pytest.fixture
def bench(tmp_path):
    bench = Bench(tmp_path)
    yield bench
    bench.store.close()


async def track(bench, target: float = 60, low: int = 1, high: int = 8, **more) -> None:
    await bench.targets.register(PLACE | {"MinCapacity": low, "MaxCapacity": high})
    predefined = {"PredefinedMetricType": "SageMakerVariantInvocationsPerInstance"}
    configuration = {"TargetValue": target, "PredefinedMetricSpecification": predefined} | more
    policy = {"PolicyName": "p", "PolicyType": "TargetTrackingScaling"}
    await bench.targets.put_policy(PLACE | policy | {"TargetTrackingScalingPolicyConfiguration": configuration})


async def test_load_over_the_target_scales_out_within_two_minutes_and_no_load_scales_in(bench):
    await track(bench, ScaleOutCooldown=60, ScaleInCooldown=60)
    await bench.spend(60, calls=5)  # 30 a minute
    assert bench.instances.history == [1]
    await bench.spend(120, calls=40)  # 240 a minute: four instances
    assert bench.instances.count == 4
    await bench.spend(120, calls=40)
    assert bench.instances.count == 4
    await bench.spend(180)  # nobody calls: there are no values at all
    assert bench.instances.count == 1
    first, *_, last = [one for one in await bench.activities() if "NotScaledReasons" not in one]
    assert first["StatusCode"] == "Successful"
    high, low = sorted(alarm["AlarmName"] for alarm in await bench.alarms.find())
    assert first["Cause"] == f"monitor alarm {high} in state ALARM triggered policy p"
    assert last["Cause"] == f"monitor alarm {low} in state ALARM triggered policy p"
    assert last["Description"] == "Setting desired instance count to 1."
    assert last["EndTime"] >= last["StartTime"]


async def test_a_metric_may_be_calculated(bench):
    dimensions = [{"Name": name, "Value": value} for name, value in WHERE.items()]
    calls = {"Namespace": SAGEMAKER, "MetricName": "InvocationsPerInstance", "Dimensions": dimensions}
    metrics = [
        {"Id": "calls", "MetricStat": {"Metric": calls, "Stat": "Sum"}, "ReturnData": False},
        {"Id": "share", "Expression": "100 * FILL(calls, 0) / 240"},
    ]
    given = {"PredefinedMetricSpecification": {}, "CustomizedMetricSpecification": {"Metrics": metrics}}
    await track(bench, target=50, ScaleInCooldown=60, **given)
    await bench.spend(60, calls=40)  # 240 a minute, of which each instance is to have half
    assert bench.instances.history == [1, 2]
    await bench.spend(300)
    assert bench.instances.count == 1


async def test_without_cooldowns_it_does_not_overshoot(bench):
    await track(bench, ScaleOutCooldown=0, ScaleInCooldown=0)
    await bench.spend(300, calls=40)  # 240 a minute: four instances
    assert max(bench.instances.history) == bench.instances.count == 4


async def test_a_cooldown_holds_the_next_change(bench):
    await track(bench, ScaleOutCooldown=300)
    await bench.spend(60, calls=20)
    assert bench.instances.history == [1, 2]
    await bench.spend(180, calls=30)
    assert bench.instances.history == [1, 2]
    await bench.spend(120, calls=30)
    assert bench.instances.history == [1, 2, 3]
    await bench.spend(120, calls=80)
    assert bench.instances.history == [1, 2, 3, 8]  # much more need not wait


async def test_a_short_peak_is_no_reason(bench):
    await track(bench)
    await bench.spend(10, calls=20)
    await bench.spend(60, calls=1)
    assert bench.instances.history == [1]


async def test_that_nobody_called_before_the_start_is_no_reason(bench):
    bench.instances.count = 4
    await track(bench)
    await bench.spend(30)
    assert bench.instances.count == 4
    await bench.spend(60)
    assert bench.instances.count == 1


async def test_scale_in_can_be_disabled(bench):
    bench.instances.count = 4
    await track(bench, DisableScaleIn=True)
    await bench.spend(600)
    assert bench.instances.history == [1]


async def test_at_the_bound_it_says_once_why_it_does_not_scale(bench):
    await track(bench, high=2, ScaleOutCooldown=0)
    await bench.spend(300, calls=100)
    reasons = [one["NotScaledReasons"] for one in await bench.activities() if "NotScaledReasons" in one]
    assert reasons == [[{"Code": "AlreadyAtMaxCapacity", "CurrentCapacity": 2, "MaxCapacity": 2}]]


async def test_new_bounds_move_the_capacity(bench):
    await bench.targets.register(PLACE | {"MinCapacity": 3, "MaxCapacity": 8})
    await bench.spend(10)
    assert bench.instances.count == 3
    assert (await bench.activities())[0]["Cause"] == "minimum capacity was set to 3"
    await bench.clock.advance(43 * 86400)  # activities are kept for six weeks
    await bench.spend(10)
    assert await bench.activities() == []
    await bench.targets.register(PLACE | {"MinCapacity": 1, "MaxCapacity": 2})
    await bench.spend(10)
    assert bench.instances.count == 2


async def test_while_an_endpoint_changes_nothing_else_is_asked(bench):
    await track(bench, ScaleOutCooldown=0)
    bench.instances.settled = False
    await bench.spend(200, calls=100)
    assert bench.instances.history == [1]


async def test_steps_from_an_alarm_that_lasts(bench):
    await bench.targets.register(PLACE | {"MinCapacity": 0, "MaxCapacity": 9})
    steps = {
        "AdjustmentType": "ChangeInCapacity", "Cooldown": 120,
        "StepAdjustments": [
            {"MetricIntervalLowerBound": 0, "MetricIntervalUpperBound": 10, "ScalingAdjustment": 1},
            {"MetricIntervalLowerBound": 10, "ScalingAdjustment": 3},
        ],
    }  # fmt: skip
    arn = await bench.targets.put_policy(PLACE | {"PolicyName": "s", "StepScalingPolicyConfiguration": steps})
    await bench.alarms.put(
        {
            "AlarmName": "backlog", "Namespace": SAGEMAKER, "MetricName": "Backlog", "Statistic": "Average",
            "Dimensions": [{"Name": "EndpointName", "Value": "shop"}], "Period": 10, "EvaluationPeriods": 1,
            "Threshold": 5.0, "ComparisonOperator": "GreaterThanOrEqualToThreshold", "AlarmActions": [arn],
        }
    )  # fmt: skip
    await bench.spend(60, calls=0, name="Backlog", EndpointName="shop")
    assert bench.instances.history == [1]
    await bench.spend(50, calls=9, name="Backlog", EndpointName="shop")
    assert bench.instances.history == [1, 2]  # 9 is 4 over the threshold
    await bench.spend(60, calls=60, name="Backlog", EndpointName="shop")
    assert bench.instances.history == [1, 2, 4]  # a step of three, of which one was taken before
    await bench.spend(60, calls=60, name="Backlog", EndpointName="shop")
    assert bench.instances.history == [1, 2, 4]
    await bench.spend(60, calls=60, name="Backlog", EndpointName="shop")
    assert bench.instances.history == [1, 2, 4, 7]
    assert "monitor alarm backlog in state ALARM triggered policy s" in (await bench.activities())[-1]["Cause"]


async def test_the_alarms_of_a_policy_are_put_back_and_go_with_it(bench):
    await track(bench)
    configuration = {"AdjustmentType": "ChangeInCapacity", "StepAdjustments": [{"ScalingAdjustment": 1}]}
    arn = await bench.targets.put_policy(PLACE | {"PolicyName": "s", "StepScalingPolicyConfiguration": configuration})
    await bench.alarms.put(
        {
            "AlarmName": "mine", "Namespace": "x", "MetricName": "y", "Statistic": "Sum", "Period": 60,
            "EvaluationPeriods": 1, "Threshold": 1.0, "ComparisonOperator": "GreaterThanThreshold",
            "AlarmActions": [arn, "arn:tell"],
        }
    )  # fmt: skip

    async def definitions() -> dict[str, tuple]:
        return {one["AlarmName"]: (one["Threshold"], one["AlarmActions"]) for one in await bench.alarms.find()}

    before = await definitions()
    high, low, _ = before
    assert high.startswith(f"TargetTracking-{RESOURCE}-AlarmHigh-")
    assert (before[high][0], before[low][0]) == (60, 54)
    changed = (await bench.alarms.find())[0]
    members = ("AlarmName", "Namespace", "MetricName", "Statistic", "Period", "EvaluationPeriods", "ComparisonOperator")
    await bench.alarms.put({member: changed[member] for member in members} | {"Threshold": 1e9})
    await bench.alarms.delete([low])
    await bench.spend(60)
    assert await definitions() == before
    await track(bench, target=80, DisableScaleIn=True)
    assert await definitions() == {high: (80, before[high][1]), "mine": before["mine"]}
    await bench.targets.delete("scaling-policy", PLACE, "p")
    await bench.targets.delete("scaling-policy", PLACE, "s")
    assert await definitions() == {"mine": (1.0, ["arn:tell"])}
    await track(bench)
    bench.store.run_now(lambda db: bench.targets.forget(db, "arn:aws:sagemaker:us-east-1:1:endpoint/shopping"))
    assert len(await definitions()) == 3
    bench.store.run_now(lambda db: bench.targets.forget(db, "arn:aws:sagemaker:us-east-1:1:endpoint/shop"))
    assert list(await definitions()) == ["mine"]
    assert await bench.targets.find(TARGET) == []


async def test_a_backlog_without_capacity_brings_the_first_instance_and_no_more(bench):
    """The step policy that AWS documents for asynchronous endpoints, on the figures that they really give."""
    bench.instances.count = 0
    routes = Routes()
    routes.publish(Route("shop", [Variant("shop", "AllTraffic", 1.0, Mock())], "asynchronous", {}))
    figures = Figures(routes, bench.clock)
    figures.instances = lambda _endpoint: bench.instances.count
    await bench.targets.register(PLACE | {"MinCapacity": 0, "MaxCapacity": 5})
    steps = {
        "AdjustmentType": "ChangeInCapacity", "MetricAggregationType": "Average", "Cooldown": 300,
        "StepAdjustments": [{"MetricIntervalLowerBound": 0, "ScalingAdjustment": 1}],
    }  # fmt: skip
    arn = await bench.targets.put_policy(PLACE | {"PolicyName": "s", "StepScalingPolicyConfiguration": steps})
    await bench.alarms.put(
        {
            "AlarmName": "waiting", "Namespace": SAGEMAKER, "MetricName": "HasBacklogWithoutCapacity",
            "Statistic": "Average", "Dimensions": [{"Name": "EndpointName", "Value": "shop"}], "Period": 60,
            "EvaluationPeriods": 2, "DatapointsToAlarm": 2, "TreatMissingData": "missing", "Threshold": 1.0,
            "ComparisonOperator": "GreaterThanOrEqualToThreshold", "AlarmActions": [arn],
        }
    )  # fmt: skip

    async def spend(seconds: int, waiting: int) -> None:
        for _ in range(0, seconds, 10):
            figures.backlogs = {"shop": Backlog(waiting, bench.clock.now() if waiting else None)}
            bench.metrics.put_all(figures.datapoints(10.0), bench.clock.now())
            await bench.spend(10)

    await spend(180, waiting=0)
    assert bench.instances.history == [1]  # as it was made; nothing has changed it
    await spend(180, waiting=3)
    assert bench.instances.history == [1, 1]
    await spend(600, waiting=3)
    assert bench.instances.history == [1, 1]


async def test_an_asynchronous_endpoint_wakes_from_zero_and_goes_back(bench):
    bench.instances.count = 0
    await bench.targets.register(PLACE | {"MinCapacity": 0, "MaxCapacity": 5})
    custom = {
        "Namespace": SAGEMAKER, "MetricName": "ApproximateBacklogSizePerInstance", "Statistic": "Average",
        "Dimensions": [{"Name": "EndpointName", "Value": "shop"}],
    }  # fmt: skip
    configuration = {"TargetValue": 5.0, "CustomizedMetricSpecification": custom, "ScaleInCooldown": 60}
    policy = {"PolicyName": "p", "PolicyType": "TargetTrackingScaling"}
    await bench.targets.put_policy(PLACE | policy | {"TargetTrackingScalingPolicyConfiguration": configuration})
    backlog = {"name": "ApproximateBacklogSizePerInstance", "EndpointName": "shop"}
    await bench.spend(120, calls=20, **backlog)
    assert bench.instances.count == 4
    await bench.spend(240, calls=0, **backlog)
    assert bench.instances.count == 0


async def test_scheduled_actions_run_at_their_time_once_and_after_a_restart(bench):
    await bench.targets.register(PLACE | {"MinCapacity": 1, "MaxCapacity": 8})
    action = {"ScheduledActionName": "morning", "Schedule": "at(2027-01-15T08:01:00)"}  # in a minute
    await bench.targets.put_action(PLACE | action | {"ScalableTargetAction": {"MinCapacity": 4}})
    await bench.spend(50)
    assert bench.instances.count == 1
    await bench.spend(20)
    assert bench.instances.count == 4
    change, bounds = sorted(await bench.activities(), key=lambda one: one["Description"])  # at the same moment
    assert bounds["Description"] == "Setting min capacity to 4 and max capacity to 8"
    assert bounds["Cause"] == "scheduled action name morning was triggered"
    assert (change["Description"], change["Cause"]) == (
        "Setting desired instance count to 4.", "minimum capacity was set to 4",
    )  # fmt: skip
    nightly = {"ScheduledActionName": "night", "Schedule": "cron(0 9 * * ? *)", "Timezone": "UTC"}
    await bench.targets.put_action(PLACE | nightly | {"ScalableTargetAction": {"MinCapacity": 1, "MaxCapacity": 2}})
    await bench.clock.advance(2 * 3600)  # the server was away at nine
    await bench.spend(10)
    assert bench.instances.count == 2
    (target,) = await bench.targets.find(TARGET)
    assert (target.document["min"], target.document["max"]) == (1, 2)


async def test_suspended_scaling_does_nothing(bench):
    await track(bench)
    await bench.targets.register(PLACE | {"SuspendedState": {"DynamicScalingOutSuspended": True}})
    await bench.spend(200, calls=100)
    assert bench.instances.history == [1]


async def test_a_change_that_a_crash_prevented_is_found_out_and_tried_again(bench):
    await track(bench, low=2)
    (target,) = await bench.targets.find(TARGET)
    await Activities(bench.store, bench.clock).begin(target, 1, 2, "count", "a change that nobody came to ask for")
    await bench.spend(90)
    assert bench.instances.count == 2
    assert [one["StatusCode"] for one in await bench.activities()] == ["Failed", "Successful"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"MaxCapacity": None}, "both required"),
        ({"MinCapacity": 9}, "must not be greater"),
        ({"ResourceId": "endpoint/nowhere/variant/x"}, "No endpoint"),
        ({"ScalableDimension": "ecs:service:DesiredCount"}, "not here"),
        ({"ServiceNamespace": "ecs"}, "Only the service namespace"),
    ],
)
async def test_targets_that_cannot_be_are_refused(bench, change, told):
    request = PLACE | {"MinCapacity": 1, "MaxCapacity": 2} | change
    with pytest.raises(ValidationException, match=told):
        await bench.targets.register({name: value for name, value in request.items() if value is not None})


async def test_a_real_time_variant_keeps_an_instance(bench):
    bench.instances.smallest = 1
    with pytest.raises(ValidationException, match="at least 1"):
        await bench.targets.register(PLACE | {"MinCapacity": 0, "MaxCapacity": 2})


async def test_without_a_target_there_are_no_policies_and_they_go_with_it(bench):
    configuration = {"AdjustmentType": "ChangeInCapacity", "StepAdjustments": [{"ScalingAdjustment": 1}]}
    policy = PLACE | {"PolicyName": "s", "StepScalingPolicyConfiguration": configuration}
    with pytest.raises(ObjectNotFound, match="No scalable target"):
        await bench.targets.put_policy(policy)
    await bench.targets.register(PLACE | {"MinCapacity": 1, "MaxCapacity": 2})
    await bench.targets.put_policy(policy)
    await bench.targets.deregister(PLACE)
    assert await bench.store.run(lambda db: resources.every(db, "scaling-policy")) == []
