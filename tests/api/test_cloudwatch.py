"""CloudWatch as clients use it: metrics of what ran, metrics of their own, alarms; over JSON and over query."""

from __future__ import annotations

import json
import threading
import urllib.parse
import urllib.request
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import ClientError

from tests.test_serve import ROW, eventually


def last(minutes: int = 10) -> dict[str, datetime]:
    now = datetime.now(UTC)
    return {"StartTime": now - timedelta(minutes=minutes), "EndTime": now + timedelta(minutes=1)}


def total(server, name: str, statistic: str = "Sum") -> float:
    dimensions = [{"Name": "EndpointName", "Value": "trees"}, {"Name": "VariantName", "Value": "AllTraffic"}]
    found = server.client("cloudwatch").get_metric_statistics(
        Namespace="AWS/SageMaker", MetricName=name, Dimensions=dimensions, Period=60, Statistics=[statistic], **last()
    )
    return sum(point[statistic] for point in found["Datapoints"])


def test_calls_and_errors_are_metrics_within_seconds(server, onnx_model):
    server.deploy("trees", onnx_model)
    runtime = server.client("sagemaker-runtime")
    for _ in range(5):
        runtime.invoke_endpoint(EndpointName="trees", ContentType="application/json", Body=ROW)
    with pytest.raises(ClientError):
        runtime.invoke_endpoint(EndpointName="trees", ContentType="application/json", Body=b"no json")
    eventually(lambda: total(server, "Invocations") == 6)
    assert total(server, "Invocation4XXErrors") == 1
    assert total(server, "InvocationModelErrors", "SampleCount") == 6
    assert 0 < total(server, "ModelLatency", "Maximum") < 60e6
    assert total(server, "OverheadLatency", "SampleCount") == 6
    cloudwatch = server.client("cloudwatch")
    listed = cloudwatch.list_metrics(Namespace="AWS/SageMaker", Dimensions=[{"Name": "EndpointName", "Value": "trees"}])
    assert {"Invocations", "ModelLatency", "ConcurrentRequestsPerModel"} <= {m["MetricName"] for m in listed["Metrics"]}
    (cpu,) = cloudwatch.list_metrics(MetricName="CPUUtilization")["Metrics"]
    assert cpu["Namespace"] == "/aws/sagemaker/Endpoints"


def test_own_metrics_outlive_a_kill(own_server):
    cloudwatch = own_server.client("cloudwatch")
    where = [{"Name": "Host", "Value": "a"}]
    cloudwatch.put_metric_data(
        Namespace="shop",
        MetricData=[
            {"MetricName": "Orders", "Dimensions": where, "Value": 3, "Unit": "Count"},
            {"MetricName": "Orders", "Dimensions": where, "Values": [1, 5], "Counts": [2, 1], "Unit": "Count"},
        ],
    )
    own_server.kill()
    own_server.start()
    stat = {"Metric": {"Namespace": "shop", "MetricName": "Orders", "Dimensions": where}, "Period": 300, "Stat": "Sum"}
    answer = own_server.client("cloudwatch").get_metric_data(
        MetricDataQueries=[
            {"Id": "orders", "MetricStat": stat},
            {"Id": "doubled", "Expression": "IF(orders > 4, SUM(METRICS()) * 2)", "Label": "twice"},
        ],
        **last(),
    )
    found = {result["Id"]: (result["Label"], sum(result["Values"])) for result in answer["MetricDataResults"]}
    assert found == {"orders": ("Orders", 10.0), "doubled": ("twice", 20.0)}


def test_much_at_once_is_put_and_what_is_too_much_is_refused(server):
    cloudwatch = server.client("cloudwatch")

    def put(count: int = 1, namespace: str = "bulk", **datum) -> None:
        datum = datum or {"Value": 1}
        cloudwatch.put_metric_data(Namespace=namespace, MetricData=[{"MetricName": "Rows"} | datum] * count)

    put(1000)  # boto3 compresses what is so large
    found = cloudwatch.get_metric_statistics(
        Namespace="bulk", MetricName="Rows", Period=60, Statistics=["Sum"], **last()
    )
    assert sum(point["Sum"] for point in found["Datapoints"]) == 1000
    twice = [{"Name": "Host", "Value": value} for value in "ab"]
    for wrong in (
        {"count": 1001}, {"namespace": "AWS/SageMaker"}, {"Value": 1, "Dimensions": twice}, {"Value": 1e200},
        {"Values": [1.0] * 151},
    ):  # fmt: skip
        with pytest.raises(ClientError) as refused:
            put(**wrong)
        assert refused.value.response["Error"]["Code"] == "InvalidParameterValue"


def test_alarms_are_kept_listed_set_and_deleted(server):
    cloudwatch = server.client("cloudwatch")
    for name in ("first", "second"):
        cloudwatch.put_metric_alarm(
            AlarmName=name, Namespace="shop", MetricName="Orders", Statistic="Sum", Period=60, EvaluationPeriods=1,
            Threshold=1, ComparisonOperator="LessThanThreshold", TreatMissingData="ignore",
        )  # fmt: skip
    alarms = cloudwatch.get_paginator("describe_alarms").paginate(PaginationConfig={"PageSize": 1})
    assert [alarm["AlarmName"] for page in alarms for alarm in page["MetricAlarms"]] == ["first", "second"]
    cloudwatch.set_alarm_state(AlarmName="first", StateValue="ALARM", StateReason="a drill")
    (alarm,) = cloudwatch.describe_alarms(StateValue="ALARM")["MetricAlarms"]
    assert (alarm["AlarmName"], alarm["StateReason"], alarm["Threshold"]) == ("first", "a drill", 1.0)
    with pytest.raises(cloudwatch.exceptions.ResourceNotFound):
        cloudwatch.delete_alarms(AlarmNames=["first", "third"])
    cloudwatch.delete_alarms(AlarmNames=["first", "second"])
    assert cloudwatch.describe_alarms()["MetricAlarms"] == []


def test_an_alarm_on_own_values_goes_off_by_itself(server):
    cloudwatch = server.client("cloudwatch")
    cloudwatch.put_metric_alarm(
        AlarmName="hot", Namespace="shop", MetricName="Heat", Statistic="Maximum", Period=10, EvaluationPeriods=1,
        Threshold=50, ComparisonOperator="GreaterThanThreshold",
    )  # fmt: skip
    cloudwatch.put_metric_data(
        Namespace="shop", MetricData=[{"MetricName": "Heat", "Value": 99, "StorageResolution": 1}]
    )
    eventually(lambda: cloudwatch.describe_alarms(AlarmNames=["hot"])["MetricAlarms"][0]["StateValue"] == "ALARM", 40)


def test_an_alarm_tells_a_topic(server):
    letters: list[dict] = []

    class Door(BaseHTTPRequestHandler):
        def do_POST(self):
            letters.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Door) as door:
        threading.Thread(target=door.serve_forever, daemon=True).start()
        sns, cloudwatch = server.client("sns"), server.client("cloudwatch")
        topic = sns.create_topic(Name="alarms")["TopicArn"]
        sns.subscribe(TopicArn=topic, Protocol="http", Endpoint=f"http://127.0.0.1:{door.server_port}/")
        eventually(lambda: letters)
        sns.confirm_subscription(TopicArn=topic, Token=letters[0]["Token"])
        cloudwatch.put_metric_alarm(
            AlarmName="loud", Namespace="shop", MetricName="Noise", Statistic="Sum", Period=60, EvaluationPeriods=1,
            Threshold=1, ComparisonOperator="GreaterThanThreshold", AlarmActions=[topic],
        )  # fmt: skip
        cloudwatch.set_alarm_state(AlarmName="loud", StateValue="ALARM", StateReason="a drill")
        eventually(lambda: len(letters) > 1)
        door.shutdown()
    assert letters[1]["Subject"] == 'ALARM: "loud" in us-east-1'
    items = cloudwatch.get_paginator("describe_alarm_history").paginate(
        AlarmName="loud", ScanBy="TimestampAscending", PaginationConfig={"PageSize": 2}
    )
    assert [
        (item["HistoryItemType"], item["HistorySummary"]) for page in items for item in page["AlarmHistoryItems"]
    ] == [
        ("ConfigurationUpdate", 'Alarm "loud" created'),
        ("StateUpdate", "Alarm updated from INSUFFICIENT_DATA to ALARM"),
        ("Action", f"Successfully executed action {topic}"),
    ]
    cloudwatch.disable_alarm_actions(AlarmNames=["loud", "missing"])
    cloudwatch.set_alarm_state(AlarmName="loud", StateValue="OK", StateReason="a drill")
    (newest,) = cloudwatch.describe_alarm_history(HistoryItemType="StateUpdate", MaxRecords=1)["AlarmHistoryItems"]
    assert json.loads(newest["HistoryData"])["newState"] == {"stateValue": "OK", "stateReason": "a drill"}
    assert not cloudwatch.describe_alarms(AlarmNames=["loud"])["MetricAlarms"][0]["ActionsEnabled"]
    message = json.loads(letters[1]["Message"])
    assert (message["OldStateValue"], message["NewStateValue"]) == ("INSUFFICIENT_DATA", "ALARM")
    assert message["Trigger"]["MetricName"] == "Noise"


def test_clients_that_send_forms_are_answered_in_xml(server):
    form = {"Action": "PutMetricData", "Version": "2010-08-01", "Namespace": "old",
            "MetricData.member.1.MetricName": "Calls", "MetricData.member.1.Value": "4"}  # fmt: skip
    assert "<PutMetricDataResponse" in _query(server, form)
    start = datetime.now(UTC) - timedelta(minutes=5)
    form = {"Action": "GetMetricStatistics", "Version": "2010-08-01", "Namespace": "old", "MetricName": "Calls",
            "StartTime": start.isoformat(), "EndTime": datetime.now(UTC).isoformat(), "Period": "60",
            "Statistics.member.1": "Sum"}  # fmt: skip
    assert "<Sum>4.0</Sum>" in _query(server, form)


def _query(server, form: dict[str, str]) -> str:
    body = urllib.parse.urlencode(form)
    request = AWSRequest("POST", server.url + "/", {"Content-Type": "application/x-www-form-urlencoded"}, body)
    SigV4Auth(
        Credentials(server.keys["access_key_id"], server.keys["secret_access_key"]), "monitoring", "us-east-1"
    ).add_auth(request)
    sent = urllib.request.Request(server.url + "/", body.encode(), dict(request.headers.items()))
    with urllib.request.urlopen(sent, timeout=20) as answer:
        return answer.read().decode()


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"Statistics": []}, "InvalidParameterCombination"),
        ({"Period": 45}, "ValidationError"),
        (
            {"Period": 10, "StartTime": datetime(2026, 1, 1), "EndTime": datetime(2026, 1, 3)},
            "InvalidParameterCombination",
        ),
        ({"EndTime": datetime(2020, 1, 1)}, "ValidationError"),
    ],
)
def test_what_cannot_be_asked_is_refused(server, change, code):
    asked = {"Namespace": "n", "MetricName": "m", "Period": 60, "Statistics": ["Sum"], **last()} | change
    asked = {name: value for name, value in asked.items() if value != []}
    with pytest.raises(ClientError) as refused:
        server.client("cloudwatch").get_metric_statistics(**asked)
    assert refused.value.response["Error"]["Code"] == code
