"""Alarms: which state some periods call for, and what happens when it is reached."""

from __future__ import annotations

import pytest

from fourfold.clock import ManualClock
from fourfold.datapoints import Datapoint, Statistics, metric
from fourfold.errors import ValidationError
from fourfold.monitor.alarms import Alarms, judge
from fourfold.monitor.history import History
from fourfold.records import Partition
from fourfold.store import Store
from fourfold.store.migrate import upgrade

ERRORS = metric("shop", "Errors", {"Host": "a"})
RULE = {
    "AlarmName": "errors", "Namespace": "shop", "MetricName": "Errors", "Dimensions": [{"Name": "Host", "Value": "a"}],
    "Statistic": "Sum", "Period": 10, "EvaluationPeriods": 2, "Threshold": 5.0,
    "ComparisonOperator": "GreaterThanThreshold", "AlarmActions": ["arn:scale:scalingPolicy:x", "arn:tell"],
    "OKActions": ["arn:fine"],
}  # fmt: skip


# The tables of CloudWatch's documentation: "-" is missing, "X" breaches, "0" does not; then the state with each
# TreatMissingData: missing, ignore, breaching, notBreaching (K: the state is kept).
@pytest.mark.parametrize(
    ("periods", "needed", "states"),
    [
        ("0-X-X", 3, "OK OK OK OK"),
        ("----0", 3, "OK OK OK OK"),
        ("-----", 3, "INSUFFICIENT_DATA K ALARM OK"),
        ("0XX-X", 3, "ALARM ALARM ALARM ALARM"),
        ("--X--", 3, "ALARM K ALARM OK"),
        ("0-X-X", 2, "ALARM ALARM ALARM ALARM"),
        ("00X0X", 2, "ALARM ALARM ALARM ALARM"),
        ("0-X--", 2, "OK OK ALARM OK"),
        ("----0", 2, "OK OK ALARM OK"),
        ("---X-", 2, "ALARM K ALARM OK"),
    ],
)
def test_missing_values_are_treated_as_cloudwatch_does(periods, needed, states):
    values = [{"-": None, "X": 9.0, "0": 0.0}[period] for period in periods]
    treatments = ("missing", "ignore", "breaching", "notBreaching")
    found = [judge(values, lambda value: value > 5, needed, 3, treatment) or "K" for treatment in treatments]
    assert found == states.split()


NO_METRIC = dict.fromkeys(("MetricName", "Namespace", "Dimensions", "Statistic", "Period"))
CALLS = {"Id": "calls", "ReturnData": False}
CALLS |= {"MetricStat": {"Metric": {"Namespace": "shop", "MetricName": "Calls"}, "Period": 10, "Stat": "Sum"}}


class Bench:
    """Alarms on a clock that the test moves, and a record of their actions."""

    def __init__(self, folder):
        self.clock = ManualClock(6000.0)
        self.store = Store(f"sqlite:///{folder}/x.db")
        upgrade(self.store)
        self.history = History(self.store, self.clock)
        self.acted: list[tuple[str, str, float | None]] = []
        self.alarms = Alarms(self.store, self.history, Partition(), self.clock, self.act)

    async def act(self, arn, alarm, value):
        self.acted.append((arn, alarm["StateValue"], value))

    async def after(self, seconds: float, *values: float) -> str:
        """Put values into the ten seconds before the new time, evaluate, and tell the state."""
        await self.clock.advance(seconds)
        for value in values:
            self.history.put(Datapoint(ERRORS, Statistics.of(value)), self.clock.now() - 10)
        await self.alarms.evaluate()
        return (await self.alarms.find())[0]["StateValue"]


@pytest.fixture
def bench(tmp_path):
    bench = Bench(tmp_path)
    yield bench
    bench.store.close()


async def test_an_alarm_of_ten_seconds_goes_off_after_two_of_them_and_recovers(bench):
    await bench.alarms.put(RULE)
    await bench.clock.advance(60)
    assert await bench.after(10) == "INSUFFICIENT_DATA"
    assert await bench.after(10, 1, 2) == "OK"
    assert await bench.after(10, 6, 3) == "OK"
    assert await bench.after(10, 7) == "ALARM"
    assert bench.acted == [
        ("arn:fine", "OK", 3.0),
        ("arn:scale:scalingPolicy:x", "ALARM", 7.0),
        ("arn:tell", "ALARM", 7.0),
    ]
    alarm = (await bench.alarms.find())[0]
    assert alarm["StateReason"].startswith("Threshold Crossed: 2 datapoints [9, 7")
    assert await bench.after(10, 0) == "OK"
    assert bench.acted[-1] == ("arn:fine", "OK", 0.0)


async def test_an_alarm_of_five_minutes_looks_at_the_newest_five_each_minute(bench):
    await bench.alarms.put(RULE | {"Period": 300, "EvaluationPeriods": 1})
    await bench.clock.advance(600)
    assert await bench.after(60, 3) == "OK"
    assert await bench.after(50) == "OK"
    assert await bench.after(10, 4) == "ALARM"  # 7 in the last five minutes, which begin amid a full five
    assert await bench.after(60) == "ALARM"
    assert await bench.after(180) == "OK"


async def test_only_scaling_actions_go_on_once_a_minute_while_the_alarm_lasts(bench):
    await bench.alarms.put(RULE | {"EvaluationPeriods": 1})
    await bench.clock.advance(60)
    for _ in range(13):
        assert await bench.after(10, 8) == "ALARM"
    assert [arn for arn, _, _ in bench.acted].count("arn:tell") == 1
    assert [arn for arn, _, _ in bench.acted].count("arn:scale:scalingPolicy:x") == 3


async def test_an_action_that_a_crash_prevented_runs_after_the_restart(bench):
    await bench.alarms.put(RULE)

    async def crash(arn, alarm, value):
        raise KeyboardInterrupt

    crashing = Alarms(bench.store, bench.history, Partition(), bench.clock, crash)
    with pytest.raises(KeyboardInterrupt):
        await crashing.set_state("errors", "ALARM", "a drill")
    await bench.alarms.evaluate()
    assert ("arn:tell", "ALARM", None) in bench.acted


async def test_a_state_that_was_set_holds_for_a_period(bench):
    await bench.alarms.put(RULE)
    await bench.alarms.set_state("errors", "ALARM", "a drill")
    assert await bench.after(9) == "ALARM"
    assert await bench.after(1) == "INSUFFICIENT_DATA"


async def test_an_alarm_on_arithmetic(bench):
    def stat(id, name):
        return {"Id": id, "ReturnData": False, "MetricStat": {
            "Metric": {"Namespace": "shop", "MetricName": name, "Dimensions": [{"Name": "Host", "Value": "a"}]},
            "Period": 10, "Stat": "Sum"}}  # fmt: skip

    rate = {"Id": "rate", "Expression": "100 * errors / FILL(calls, 1)"}
    shared = {name: RULE[name] for name in ("AlarmName", "Threshold", "ComparisonOperator")}
    await bench.alarms.put(
        shared | {"EvaluationPeriods": 1, "Metrics": [rate, stat("errors", "Errors"), stat("calls", "Calls")]}
    )
    await bench.clock.advance(60)
    bench.history.put(Datapoint(metric("shop", "Calls", {"Host": "a"}), Statistics.of(100.0)), bench.clock.now())
    assert await bench.after(10, 4) == "OK"
    assert await bench.after(10, 4) == "ALARM"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"Period": 15}, "multiple of 60"),
        ({"DatapointsToAlarm": 3}, "DatapointsToAlarm"),
        ({"TreatMissingData": "zero"}, "TreatMissingData"),
        ({"ExtendedStatistic": "p99"}, "Exactly one of Statistic"),
        ({"Statistic": None, "ExtendedStatistic": "tm99"}, "not supported"),
        ({"Threshold": None}, "Threshold is required"),
        ({"EvaluationPeriods": 100_000}, "7 days"),
        ({"AlarmActions": ["page-me"]}, "Invalid arn syntax: page-me"),
        (NO_METRIC | {"Metrics": [CALLS, {"Id": "rate", "Expression": "calls * 2 +"}]}, "cannot be understood"),
        (NO_METRIC | {"Metrics": [CALLS, {"Id": "rate", "Expression": "others * 2"}]}, "names others"),
        (NO_METRIC | {"Metrics": [{"Id": "rate", "Expression": "1"}]}, "a query with MetricStat"),
    ],
)
async def test_what_makes_no_alarm_is_refused(bench, change, told):
    with pytest.raises(ValidationError, match=told):
        await bench.alarms.put(RULE | change)
