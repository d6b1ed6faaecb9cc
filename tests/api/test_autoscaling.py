"""Application Auto Scaling as clients use it, on endpoints that run."""

from __future__ import annotations

import pytest
from botocore.exceptions import ClientError

from tests.test_serve import eventually

PLACE = {
    "ServiceNamespace": "sagemaker",
    "ResourceId": "endpoint/trees/variant/AllTraffic",
    "ScalableDimension": "sagemaker:variant:DesiredInstanceCount",
}


@pytest.fixture(scope="module")
def scaling(server, onnx_model):
    server.deploy("trees", onnx_model)
    return server.client("application-autoscaling")


def test_targets_policies_actions_and_tags_are_kept(scaling):
    arn = scaling.register_scalable_target(**PLACE, MinCapacity=1, MaxCapacity=3, Tags={"team": "a"})
    found = scaling.describe_scalable_targets(ServiceNamespace="sagemaker", ResourceIds=[PLACE["ResourceId"]])
    (target,) = found["ScalableTargets"]
    assert (target["MinCapacity"], target["MaxCapacity"]) == (1, 3)
    assert scaling.list_tags_for_resource(ResourceARN=arn["ScalableTargetARN"])["Tags"] == {"team": "a"}
    scaling.untag_resource(ResourceARN=arn["ScalableTargetARN"], TagKeys=["team"])
    configuration = {
        "TargetValue": 70.0,
        "PredefinedMetricSpecification": {"PredefinedMetricType": "SageMakerVariantInvocationsPerInstance"},
        "ScaleInCooldown": 60,
    }
    put = {}
    for name in ("one", "two"):
        put[name] = scaling.put_scaling_policy(
            **PLACE,
            PolicyName=name,
            PolicyType="TargetTrackingScaling",
            TargetTrackingScalingPolicyConfiguration=configuration,
        )
    pages = scaling.get_paginator("describe_scaling_policies").paginate(
        ServiceNamespace="sagemaker", PaginationConfig={"PageSize": 1}
    )
    policies = [policy for page in pages for policy in page["ScalingPolicies"]]
    assert [policy["PolicyName"] for policy in policies] == ["one", "two"]
    assert policies[0]["TargetTrackingScalingPolicyConfiguration"] == configuration
    assert [policy["Alarms"] for policy in policies] == [answer["Alarms"] for answer in put.values()]
    scaling.put_scheduled_action(
        **PLACE, ScheduledActionName="night", Schedule="cron(0 22 * * ? *)", ScalableTargetAction={"MaxCapacity": 2}
    )
    (action,) = scaling.describe_scheduled_actions(ServiceNamespace="sagemaker")["ScheduledActions"]
    assert (action["ScheduledActionName"], action["Schedule"]) == ("night", "cron(0 22 * * ? *)")
    scaling.delete_scheduled_action(**PLACE, ScheduledActionName="night")
    for name in ("one", "two"):
        scaling.delete_scaling_policy(**PLACE, PolicyName=name)
    with pytest.raises(scaling.exceptions.ObjectNotFoundException):
        scaling.delete_scaling_policy(**PLACE, PolicyName="one")
    scaling.deregister_scalable_target(**PLACE)
    assert scaling.describe_scalable_targets(ServiceNamespace="sagemaker")["ScalableTargets"] == []


def test_a_tracking_policy_is_set_off_by_alarms_that_anybody_can_look_at(server, scaling, onnx_model):
    server.deploy("tracked", onnx_model)
    place = PLACE | {"ResourceId": "endpoint/tracked/variant/AllTraffic"}
    scaling.register_scalable_target(**place, MinCapacity=1, MaxCapacity=3)
    predefined = {"PredefinedMetricType": "SageMakerVariantInvocationsPerInstance"}
    policy = scaling.put_scaling_policy(
        **place, PolicyName="calls", PolicyType="TargetTrackingScaling",
        TargetTrackingScalingPolicyConfiguration={"TargetValue": 70.0, "PredefinedMetricSpecification": predefined},
    )  # fmt: skip
    cloudwatch = server.client("cloudwatch")

    def alarms() -> list[dict]:
        return cloudwatch.describe_alarms(AlarmNamePrefix="TargetTracking-endpoint/tracked/")["MetricAlarms"]

    high, low = alarms()
    assert [(one["AlarmName"], one["AlarmArn"]) for one in (high, low)] == [
        (one["AlarmName"], one["AlarmARN"]) for one in policy["Alarms"]
    ]
    assert low["AlarmName"].startswith("TargetTracking-endpoint/tracked/variant/AllTraffic-AlarmLow-")
    assert low["AlarmActions"] == high["AlarmActions"] == [policy["PolicyARN"]]
    assert (high["MetricName"], high["Threshold"], low["Threshold"]) == ("InvocationsPerInstance", 70.0, 63.0)

    eventually(lambda: alarms()[1]["StateValue"] == "ALARM", 30)  # nobody calls
    assert alarms()[0]["StateValue"] == "INSUFFICIENT_DATA"
    server.client("sagemaker").delete_endpoint(EndpointName="tracked")
    eventually(lambda: alarms() == [])
    ids = [place["ResourceId"]]
    assert scaling.describe_scalable_targets(ServiceNamespace="sagemaker", ResourceIds=ids)["ScalableTargets"] == []


def test_alarms_scale_out_and_in(server, scaling):
    sagemaker, cloudwatch = server.client("sagemaker"), server.client("cloudwatch")
    scaling.register_scalable_target(**PLACE, MinCapacity=1, MaxCapacity=3)
    for name, bound, adjustment in (("more", "Lower", 2), ("less", "Upper", -2)):
        policy = scaling.put_scaling_policy(
            **PLACE,
            PolicyName=name,
            PolicyType="StepScaling",
            StepScalingPolicyConfiguration={
                "AdjustmentType": "ChangeInCapacity",
                "StepAdjustments": [{f"MetricInterval{bound}Bound": 0.0, "ScalingAdjustment": adjustment}],
                "Cooldown": 0,
            },
        )
        cloudwatch.put_metric_alarm(
            AlarmName=name, Namespace="shop", MetricName="Queue", Statistic="Sum", Period=60, EvaluationPeriods=1,
            Threshold=5, ComparisonOperator="GreaterThanThreshold" if name == "more" else "LessThanThreshold",
            AlarmActions=[policy["PolicyARN"]],
        )  # fmt: skip

    def instances() -> int:
        return sagemaker.describe_endpoint(EndpointName="trees")["ProductionVariants"][0]["CurrentInstanceCount"]

    def newest() -> dict:
        found = scaling.describe_scaling_activities(ServiceNamespace="sagemaker")["ScalingActivities"]
        return found[0] if found else {}

    found = scaling.describe_scaling_policies(ServiceNamespace="sagemaker", PolicyNames=["more"])["ScalingPolicies"]
    assert [alarm["AlarmName"] for alarm in found[0]["Alarms"]] == ["more"]
    cloudwatch.set_alarm_state(AlarmName="more", StateValue="ALARM", StateReason="a drill")
    eventually(lambda: instances() == 3)
    eventually(lambda: newest().get("StatusCode") == "Successful")
    assert newest()["Description"] == "Setting desired instance count to 3."
    assert "monitor alarm more in state ALARM triggered policy more" in newest()["Cause"]
    cloudwatch.set_alarm_state(AlarmName="less", StateValue="ALARM", StateReason="a drill")
    eventually(lambda: instances() == 1)
    assert (
        len(scaling.describe_scaling_activities(ServiceNamespace="sagemaker", MaxResults=1)["ScalingActivities"]) == 1
    )


def metric(id: str, name: str = "Invocations", stat: str = "Sum", **more) -> dict:
    return {
        "Id": id,
        "MetricStat": {"Metric": {"Namespace": "AWS/SageMaker", "MetricName": name}, "Stat": stat},
        **more,
    }


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"TargetValue": 0.0}, "greater than 0"),
        ({"ScaleInCooldown": -1}, "must not be negative"),
        (
            {"PredefinedMetricSpecification": {"PredefinedMetricType": "ECSServiceAverageCPUUtilization"}},
            "no metric of",
        ),
        (
            {
                "PredefinedMetricSpecification": {
                    "PredefinedMetricType": "SageMakerInferenceComponentInvocationsPerCopy"
                }
            },
            "no metric of the dimension",
        ),
        ({"CustomizedMetricSpecification": {"MetricName": "a", "Namespace": "b"}}, "needs Statistic"),
        ({"CustomizedMetricSpecification": {"Metrics": [metric("m", stat="tm99")]}}, "not supported"),
        ({"CustomizedMetricSpecification": {"Metrics": [metric("m"), {"Id": "e", "Expression": "m"}]}}, "Exactly one"),
        (
            {
                "CustomizedMetricSpecification": {
                    "Metrics": [metric("m", ReturnData=False), {"Id": "e", "Expression": "m / n"}]
                }
            },
            "no Id of a query",
        ),
    ],
)
def test_policies_that_cannot_be_followed_are_refused(scaling, change, told):
    scaling.register_scalable_target(**PLACE, MinCapacity=1, MaxCapacity=3)
    predefined = {"PredefinedMetricType": "SageMakerVariantInvocationsPerInstance"}
    configuration = {"TargetValue": 70.0, "PredefinedMetricSpecification": predefined} | change
    if "CustomizedMetricSpecification" in change:
        del configuration["PredefinedMetricSpecification"]
    with pytest.raises(ClientError, match=told) as error:
        scaling.put_scaling_policy(
            **PLACE, PolicyName="bad", PolicyType="TargetTrackingScaling",
            TargetTrackingScalingPolicyConfiguration=configuration,
        )  # fmt: skip
    assert error.value.response["Error"]["Code"] == "ValidationException"
    assert scaling.describe_scaling_policies(ServiceNamespace="sagemaker", PolicyNames=["bad"])["ScalingPolicies"] == []


def test_scheduled_actions_that_make_no_sense_are_refused_and_times_go_with_an_update(scaling):
    scaling.register_scalable_target(**PLACE, MinCapacity=1, MaxCapacity=3)
    action = {"ScheduledActionName": "odd", "Schedule": "cron(0 22 * * ? *)", "Timezone": "Europe/Madrid"}
    bounds = {"ScalableTargetAction": {"MinCapacity": 1, "MaxCapacity": 2}}
    for change, told in (
        ({"ScalableTargetAction": {"MinCapacity": 3, "MaxCapacity": 2}}, "must not be greater"),
        ({"StartTime": 2e9, "EndTime": 1.9e9}, "before EndTime"),
        ({"Timezone": "Mars/Base"}, "Timezone"),
        ({"Schedule": "cron(0 22 * *)"}, "6 fields"),
    ):
        with pytest.raises(ClientError, match=told):
            scaling.put_scheduled_action(**PLACE | action | bounds | change)
    scaling.put_scheduled_action(**PLACE | action | bounds, StartTime=1.9e9, EndTime=2e9)
    scaling.put_scheduled_action(**PLACE, ScheduledActionName="odd", Schedule="rate(1 day)")
    (found,) = scaling.describe_scheduled_actions(ServiceNamespace="sagemaker")["ScheduledActions"]
    assert (found["Schedule"], found["Timezone"]) == ("rate(1 day)", "Europe/Madrid")
    assert found["ScalableTargetAction"] == bounds["ScalableTargetAction"]
    assert "StartTime" not in found
    scaling.delete_scheduled_action(**PLACE, ScheduledActionName="odd")


def test_an_update_neither_removes_nor_replaces_what_is_scaled(server, scaling):
    scaling.register_scalable_target(**PLACE, MinCapacity=1, MaxCapacity=3)
    sagemaker = server.client("sagemaker")
    variant = {"VariantName": "AllTraffic", "ModelName": "trees", "InitialInstanceCount": 1}
    for name, change in (("larger", {"InstanceType": "ml.m5.4xlarge"}), ("renamed", {"VariantName": "other"})):
        sagemaker.create_endpoint_config(
            EndpointConfigName=name, ProductionVariants=[variant | {"InstanceType": "ml.m5.large"} | change]
        )
        with pytest.raises(ClientError, match="must be deregistered as scalable targets"):
            sagemaker.update_endpoint(EndpointName="trees", EndpointConfigName=name)
    with pytest.raises(ClientError, match="use the TagResource API"):
        scaling.register_scalable_target(**PLACE, Tags={"team": "b"})


def test_bad_requests_say_what_is_wrong(scaling):
    with pytest.raises(ClientError, match="must be endpoint/<name>/variant/<name>"):
        scaling.register_scalable_target(**PLACE | {"ResourceId": "trees"}, MinCapacity=1, MaxCapacity=2)
    with pytest.raises(ClientError, match="at least 1"):
        scaling.register_scalable_target(**PLACE, MinCapacity=0, MaxCapacity=2)
    with pytest.raises(ClientError, match="No scalable target"):
        scaling.put_scheduled_action(
            **PLACE | {"ResourceId": "endpoint/none/variant/x"}, ScheduledActionName="a",
            Schedule="rate(1 hour)", ScalableTargetAction={"MinCapacity": 1},
        )  # fmt: skip


def test_managed_instance_scaling_keeps_its_bounds_and_goes_with_its_endpoint(server, scaling):
    sagemaker = server.client("sagemaker")
    variant = {"VariantName": "all", "ModelName": "trees", "InstanceType": "ml.m5.large", "InitialInstanceCount": 2}
    managed = {"Status": "ENABLED", "MinInstanceCount": 2, "MaxInstanceCount": 3}
    sagemaker.create_endpoint_config(
        EndpointConfigName="managed", ProductionVariants=[variant | {"ManagedInstanceScaling": managed}]
    )
    sagemaker.create_endpoint(EndpointName="managed", EndpointConfigName="managed")
    summary = server.wait("managed")["ProductionVariants"][0]
    assert summary["ManagedInstanceScaling"] == managed

    def targets() -> list[dict]:
        ids = ["endpoint/managed/variant/all"]
        return scaling.describe_scalable_targets(ServiceNamespace="sagemaker", ResourceIds=ids)["ScalableTargets"]

    eventually(lambda: [(one["MinCapacity"], one["MaxCapacity"]) for one in targets()] == [(2, 3)])
    sagemaker.delete_endpoint(EndpointName="managed")
    eventually(lambda: targets() == [])
    with pytest.raises(ClientError, match="must be within MinInstanceCount"):
        sagemaker.create_endpoint_config(
            EndpointConfigName="odd",
            ProductionVariants=[variant | {"ManagedInstanceScaling": managed, "InitialInstanceCount": 9}],
        )
