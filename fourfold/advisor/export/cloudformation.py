"""A plan as a CloudFormation template: model, endpoint or transform schedule, scaling, topics, alarms, roles.

Roles may do what the deployment needs and no more: read one artifact, pull one image, write their own logs and metrics.
"""

from __future__ import annotations

import json
from typing import Any

import yaml

from fourfold.advisor import requests, workload
from fourfold.advisor.export.policies import allow, document, only_from, trust
from fourfold.advisor.export.runs import schedule
from fourfold.advisor.search import Plan
from fourfold.advisor.sizing import Sizing

Resources = dict[str, dict[str, Any]]


def files(plan: Plan) -> dict[str, str]:
    text = yaml.dump(template(plan), Dumper=_Dumper, sort_keys=False, width=118)
    return {"template.yaml": text}


def template(plan: Plan) -> dict[str, Any]:
    """The template as plain data."""
    size = plan.sizing
    assert size is not None
    name = requests.name_of(plan.scenario)
    resources: Resources = {"ExecutionRole": _execution_role(plan), "Model": _model()}
    outputs: dict[str, Any] = {}
    if plan.mode == "batch":
        resources |= _bucket() | _transform(plan, name)
        outputs["DataBucketName"] = {"Description": "Input goes under input/", "Value": _ref("DataBucket")}
    else:
        resources |= _endpoint(plan)
        outputs["EndpointName"] = {"Description": "Name to invoke", "Value": _get("Endpoint", "EndpointName")}
        if size.instance is not None and size.count > size.floor:
            resources |= _scaling(plan, size)
        if plan.mode == "asynchronous":
            resources |= _bucket() | _notifications()
            outputs["DataBucketName"] = {"Description": "Input and output objects", "Value": _ref("DataBucket")}
            outputs["ResultQueueUrl"] = {"Description": "A message for each answer", "Value": _ref("ResultQueue")}
    resources |= _alarms(plan)
    return {
        "AWSTemplateFormatVersion": "2010-09-09",
        "Description": f"{name}: {plan.mode} inference, {plan.cost.total:,.2f} USD a month as planned",
        "Parameters": _parameters(),
        "Resources": resources,
        "Outputs": outputs,
    }


def _parameters() -> dict[str, Any]:
    return {
        "ModelBucket": {"Type": "String", "Description": "Bucket that holds the model artifact"},
        "ModelKey": {"Type": "String", "Description": "Key of the artifact, a tar.gz", "Default": "model.tar.gz"},
        "ImageAccount": {
            "Type": "String",
            "Description": "Account whose ECR holds the serving image",
            "AllowedPattern": "[0-9]{12}",
        },
        "ImageRepository": {"Type": "String", "Description": "ECR repository of the serving image"},
        "ImageTag": {"Type": "String", "Description": "Tag of the serving image", "Default": "latest"},
    }


def _model() -> dict[str, Any]:
    return {
        "Type": "AWS::SageMaker::Model",
        "Properties": {
            "ExecutionRoleArn": _get("ExecutionRole", "Arn"),
            "PrimaryContainer": {
                "Image": _sub(
                    "${ImageAccount}.dkr.ecr.${AWS::Region}.${AWS::URLSuffix}/${ImageRepository}:${ImageTag}"
                ),
                "ModelDataUrl": _sub("s3://${ModelBucket}/${ModelKey}"),
            },
        },
    }


def _execution_role(plan: Plan) -> dict[str, Any]:
    statements = [
        allow("s3:GetObject", _sub("arn:${AWS::Partition}:s3:::${ModelBucket}/${ModelKey}")),
        allow("ecr:GetAuthorizationToken", "*"),
        allow(
            ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"],
            _sub("arn:${AWS::Partition}:ecr:${AWS::Region}:${ImageAccount}:repository/${ImageRepository}"),
        ),
        allow(
            ["logs:CreateLogGroup", "logs:CreateLogStream", "logs:DescribeLogStreams", "logs:PutLogEvents"],
            _sub("arn:${AWS::Partition}:logs:${AWS::Region}:${AWS::AccountId}:log-group:/aws/sagemaker/*"),
        ),
        {
            **allow("cloudwatch:PutMetricData", "*"),
            "Condition": {"StringLike": {"cloudwatch:namespace": ["AWS/SageMaker", "/aws/sagemaker/*"]}},
        },
    ]
    if plan.mode in ("batch", "asynchronous"):
        statements += [
            allow(["s3:GetObject", "s3:PutObject"], _sub("${DataBucket.Arn}/*")),
            allow("s3:ListBucket", _get("DataBucket", "Arn")),
        ]
    if plan.mode == "asynchronous":
        statements.append(allow("sns:Publish", [_ref("SuccessTopic"), _ref("ErrorTopic")]))
    return _role("sagemaker.amazonaws.com", "serve", statements)


def _endpoint(plan: Plan) -> Resources:
    members = plan.configuration["CreateEndpointConfig"]
    variants = [
        {**v, "ModelName": _get("Model", "ModelName"), "InitialVariantWeight": 1} for v in members["ProductionVariants"]
    ]
    properties: dict[str, Any] = {"ProductionVariants": variants}
    if "AsyncInferenceConfig" in members:
        properties["AsyncInferenceConfig"] = {
            "ClientConfig": members["AsyncInferenceConfig"]["ClientConfig"],
            "OutputConfig": {
                "S3OutputPath": _sub("s3://${DataBucket}/output/"),
                "S3FailurePath": _sub("s3://${DataBucket}/failure/"),
                "NotificationConfig": {"SuccessTopic": _ref("SuccessTopic"), "ErrorTopic": _ref("ErrorTopic")},
            },
        }
    return {
        "EndpointConfig": {"Type": "AWS::SageMaker::EndpointConfig", "Properties": properties},
        "Endpoint": {
            "Type": "AWS::SageMaker::Endpoint",
            "Properties": {
                "EndpointName": plan.configuration["CreateEndpoint"]["EndpointName"],
                "EndpointConfigName": _get("EndpointConfig", "EndpointConfigName"),
            },
        },
    }


def _scaling(plan: Plan, size: Sizing) -> Resources:
    target = {k: v for k, v in plan.configuration["RegisterScalableTarget"].items() if k != "ResourceId"}
    target["ResourceId"] = _sub(f"endpoint/${{Endpoint.EndpointName}}/variant/{requests.VARIANT}")
    actions = plan.configuration.get("PutScheduledAction", [])
    if actions:
        target["ScheduledActions"] = [
            {k: a[k] for k in ("ScheduledActionName", "Schedule", "ScalableTargetAction")} for a in actions
        ]
    policy = plan.configuration["PutScalingPolicy"]
    tracking = policy["TargetTrackingScalingPolicyConfiguration"]
    metric = tracking.get("CustomizedMetricSpecification")
    if metric:
        dimensions = [{"Name": "EndpointName", "Value": _get("Endpoint", "EndpointName")}]
        tracking = {**tracking, "CustomizedMetricSpecification": {**metric, "Dimensions": dimensions}}
    resources: Resources = {
        "ScalableTarget": {"Type": "AWS::ApplicationAutoScaling::ScalableTarget", "Properties": target},
        "LoadPolicy": {
            "Type": "AWS::ApplicationAutoScaling::ScalingPolicy",
            "Properties": {
                "PolicyName": policy["PolicyName"],
                "PolicyType": "TargetTrackingScaling",
                "ScalingTargetId": _ref("ScalableTarget"),
                "TargetTrackingScalingPolicyConfiguration": tracking,
            },
        },
    }
    return resources | (_from_zero() if size.floor == 0 else {})


def _from_zero() -> Resources:
    """With no instance there is no metric per instance to track: an alarm on a waiting backlog starts the first one."""
    return {
        "FromZeroPolicy": {
            "Type": "AWS::ApplicationAutoScaling::ScalingPolicy",
            "Properties": {
                "PolicyName": "from-zero",
                "PolicyType": "StepScaling",
                "ScalingTargetId": _ref("ScalableTarget"),
                "StepScalingPolicyConfiguration": {
                    "AdjustmentType": "ChangeInCapacity",
                    "MetricAggregationType": "Average",
                    "Cooldown": 300,
                    "StepAdjustments": [{"MetricIntervalLowerBound": 0, "ScalingAdjustment": 1}],
                },
            },
        },
        "BacklogWithoutCapacity": _alarm(
            "Requests wait and no instance is up",
            "HasBacklogWithoutCapacity",
            {"Statistic": "Average", "Threshold": 1, "EvaluationPeriods": 2},
            [_ref("FromZeroPolicy")],
            variant=False,
        ),
    }


def _notifications() -> Resources:
    """A topic for each outcome, and a queue in which the successful answers can be fetched."""
    send = allow("sqs:SendMessage", _get("ResultQueue", "Arn"))
    return {
        "SuccessTopic": _topic(),
        "ErrorTopic": _topic(),
        "ResultQueue": {
            "Type": "AWS::SQS::Queue",
            "DeletionPolicy": "Delete",
            "UpdateReplacePolicy": "Delete",
            "Properties": {"MessageRetentionPeriod": 1209600, "SqsManagedSseEnabled": True},
        },
        "ResultQueuePolicy": {
            "Type": "AWS::SQS::QueuePolicy",
            "Properties": {
                "Queues": [_ref("ResultQueue")],
                "PolicyDocument": document([only_from("sns.amazonaws.com", _ref("SuccessTopic"), send)]),
            },
        },
        "ResultSubscription": {
            "Type": "AWS::SNS::Subscription",
            "Properties": {
                "Protocol": "sqs",
                "TopicArn": _ref("SuccessTopic"),
                "Endpoint": _get("ResultQueue", "Arn"),
                "RawMessageDelivery": True,
            },
        },
    }


def _transform(plan: Plan, name: str) -> Resources:
    """EventBridge Scheduler starts the job; the execution id keeps its name unique."""
    job = f"{name[:26]}-<aws.scheduler.execution-id>"
    members = json.loads(json.dumps(plan.configuration["CreateTransformJob"]))
    members |= {"TransformJobName": job, "ModelName": "${Model.ModelName}"}
    members["TransformInput"]["DataSource"]["S3DataSource"]["S3Uri"] = "s3://${DataBucket}/input/"
    members["TransformOutput"]["S3OutputPath"] = "s3://${DataBucket}/output/"
    where = f"arn:${{AWS::Partition}}:sagemaker:${{AWS::Region}}:${{AWS::AccountId}}:transform-job/{name[:26]}-*"
    return {
        "ScheduleRole": _role("scheduler.amazonaws.com", "start", [allow("sagemaker:CreateTransformJob", _sub(where))]),
        "Schedule": {
            "Type": "AWS::Scheduler::Schedule",
            "Properties": {
                "Description": f"Starts the batch transform of {name}",
                "ScheduleExpression": schedule(workload.of(plan.scenario).runs_per_month),
                "FlexibleTimeWindow": {"Mode": "OFF"},
                "Target": {
                    "Arn": _sub("arn:${AWS::Partition}:scheduler:::aws-sdk:sagemaker:createTransformJob"),
                    "RoleArn": _get("ScheduleRole", "Arn"),
                    "Input": _sub(json.dumps(members)),
                },
            },
        },
    }


def _bucket() -> Resources:
    return {
        "DataBucket": {
            "Type": "AWS::S3::Bucket",
            "DeletionPolicy": "Retain",
            "UpdateReplacePolicy": "Retain",
            "Properties": {
                "BucketEncryption": {
                    "ServerSideEncryptionConfiguration": [{"ServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}]
                },
                "PublicAccessBlockConfiguration": {
                    "BlockPublicAcls": True,
                    "BlockPublicPolicy": True,
                    "IgnorePublicAcls": True,
                    "RestrictPublicBuckets": True,
                },
            },
        }
    }


def _alarms(plan: Plan) -> Resources:
    """What should wake somebody; subscribe to AlarmTopic."""
    topic: Resources = {"AlarmTopic": _topic()}
    if plan.mode == "batch":
        return topic | _failed_jobs(requests.name_of(plan.scenario))
    notify = [_ref("AlarmTopic")]
    alarms = {
        "ServerErrors": _alarm(
            "Requests failed on the server's side",
            "Invocation5XXErrors",
            {"Statistic": "Sum", "Threshold": 1, "EvaluationPeriods": 5, "DatapointsToAlarm": 3},
            notify,
        )
    }
    if plan.mode == "asynchronous":
        alarms["OldRequests"] = _alarm(
            "Requests wait longer than planned",
            "ApproximateAgeOfOldestRequest",
            {"Statistic": "Maximum", "Threshold": 3600, "EvaluationPeriods": 5},
            notify,
            variant=False,
        )
    else:
        target = plan.scenario.latency_p99_ms or 2 * plan.latency_ms["p99"]
        alarms["Latency"] = _alarm(
            f"p99 of the model is above {target:,.0f} ms",
            "ModelLatency",
            {"ExtendedStatistic": "p99", "Threshold": round(target * 1000), "EvaluationPeriods": 5},
            notify,
        )
    return topic | alarms


def _failed_jobs(name: str) -> Resources:
    pattern = {
        "source": ["aws.sagemaker"],
        "detail-type": ["SageMaker Transform Job State Change"],
        "detail": {"TransformJobStatus": ["Failed"], "TransformJobName": [{"prefix": f"{name[:26]}-"}]},
    }
    rule, publish = _get("FailedJobs", "Arn"), allow("sns:Publish", _ref("AlarmTopic"))
    return {
        "FailedJobs": {
            "Type": "AWS::Events::Rule",
            "Properties": {
                "Description": f"Tells when a transform job of {name} has failed",
                "EventPattern": pattern,
                "Targets": [{"Id": "alarm", "Arn": _ref("AlarmTopic")}],
            },
        },
        "AlarmTopicPolicy": {
            "Type": "AWS::SNS::TopicPolicy",
            "Properties": {
                "Topics": [_ref("AlarmTopic")],
                "PolicyDocument": document([only_from("events.amazonaws.com", rule, publish)]),
            },
        },
    }


def _alarm(
    text: str, metric: str, figures: dict[str, Any], actions: list[Any], *, variant: bool = True
) -> dict[str, Any]:
    dimensions = [{"Name": "EndpointName", "Value": _get("Endpoint", "EndpointName")}]
    if variant:
        dimensions.append({"Name": "VariantName", "Value": requests.VARIANT})
    return {
        "Type": "AWS::CloudWatch::Alarm",
        "Properties": {
            "AlarmDescription": text,
            "Namespace": "AWS/SageMaker",
            "MetricName": metric,
            "Dimensions": dimensions,
            "Period": 60,
            "ComparisonOperator": "GreaterThanOrEqualToThreshold",
            "TreatMissingData": "notBreaching",
            **figures,
            "AlarmActions": actions,
        },
    }


def _topic() -> dict[str, Any]:
    # No KMS key: alarms and rules cannot publish to a topic under the key that AWS manages.
    return {"Type": "AWS::SNS::Topic"}


def _role(service: str, name: str, statements: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "Type": "AWS::IAM::Role",
        "Properties": {
            "AssumeRolePolicyDocument": trust(service),
            "Policies": [{"PolicyName": name, "PolicyDocument": document(statements)}],
        },
    }


def _ref(name: str) -> dict[str, str]:
    return {"Ref": name}


def _get(name: str, attribute: str) -> dict[str, list[str]]:
    return {"Fn::GetAtt": [name, attribute]}


def _sub(text: str) -> dict[str, str]:
    return {"Fn::Sub": text}


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]  # PyYAML has no types
    """Writes shared values out instead of as anchors, which CloudFormation does not take everywhere."""

    def ignore_aliases(self, data: object) -> bool:
        return True
