"""CBOR: what is written is read again, what is broken is refused, and botocore's own client of CBOR is understood."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import boto3
import botocore.session
import pytest
from botocore.exceptions import ClientError
from hypothesis import given
from hypothesis import strategies as st

from fourfold.api import cbor
from tests.server import LiveServer

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.binary() | st.text(),
    lambda inner: st.lists(inner, max_size=30) | st.dictionaries(st.text(), inner, max_size=30),
    max_leaves=60,
)


@given(values)
def test_what_is_written_is_read_again(value: object) -> None:
    assert cbor.decode(cbor.encode(value)) == value


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    with contextlib.suppress(cbor.CborError):
        cbor.decode(data)


@pytest.mark.parametrize(
    ("data", "value"),
    [
        ("bf6161f56162f6ff", {"a": True, "b": None}),  # a map, a list, a text of unknown length
        ("9f0102ff", [1, 2]),
        ("7f61616162ff", "ab"),
        ("f93c00", 1.0),
        ("fa7f800000", math.inf),
        ("c11a514b67b0", 1363896240),
    ],
)
def test_forms_that_others_write(data: str, value: object) -> None:
    assert cbor.decode(bytes.fromhex(data)) == value


@pytest.mark.parametrize(
    "data", ["", "a161", "8201", "ff", "81ff", "0101", "a10102", "c000", "81" * 100 + "00", "5bffffffffffffffff"]
)
def test_broken(data: str) -> None:
    with pytest.raises(cbor.CborError):
        cbor.decode(bytes.fromhex(data))


@pytest.fixture
def cloudwatch(server: LiveServer) -> Iterator[Any]:
    """botocore's client, made to speak CBOR."""
    session = botocore.session.Session()
    loader = session.get_component("data_loader")
    load = loader.load_service_model

    def only_cbor(service: str, kind: str, api_version: str | None = None) -> Any:
        model = load(service, kind, api_version)
        if (service, kind) != ("cloudwatch", "service-2"):
            return model
        if "smithy-rpc-v2-cbor" not in model["metadata"].get("protocols", []):
            pytest.skip("this botocore knows no CBOR")
        return {**model, "metadata": {**model["metadata"], "protocols": ["smithy-rpc-v2-cbor"]}}

    loader.load_service_model = only_cbor
    client = boto3.Session(botocore_session=session).client(
        "cloudwatch",
        endpoint_url=server.url,
        region_name="us-east-1",
        aws_access_key_id=server.keys["access_key_id"],
        aws_secret_access_key=server.keys["secret_access_key"],
    )
    yield client
    client.close()


def test_an_sdk_that_speaks_cbor(cloudwatch: Any) -> None:
    began = datetime.fromtimestamp(int(time.time()) // 60 * 60, UTC)
    data = [{"MetricName": "Warmth", "Timestamp": began, "Value": 21.5, "Unit": "None"}]
    cloudwatch.put_metric_data(Namespace="Cbor", MetricData=data)
    alarm = {"Namespace": "Cbor", "MetricName": "Warmth", "Statistic": "Maximum", "Period": 60, "EvaluationPeriods": 1}
    cloudwatch.put_metric_alarm(AlarmName="warm", Threshold=30.0, ComparisonOperator="GreaterThanThreshold", **alarm)
    (told,) = cloudwatch.describe_alarms(AlarmNames=["warm"])["MetricAlarms"]
    assert (told["Threshold"], told["Period"]) == (30.0, 60)
    assert abs(told["AlarmConfigurationUpdatedTimestamp"].timestamp() - time.time()) < 300
    assert [one["MetricName"] for one in cloudwatch.list_metrics(Namespace="Cbor")["Metrics"]] == ["Warmth"]
    with pytest.raises(ClientError) as refused:
        cloudwatch.put_metric_alarm(AlarmName="cold", ComparisonOperator="Sideways", **alarm)
    assert refused.value.response["Error"]["Code"] in (
        "ValidationError",
        "ValidationException",
        "InvalidParameterValue",
    )
