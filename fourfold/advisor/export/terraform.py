"""A plan as Terraform for the `hashicorp/aws` provider: the same deployment as the CloudFormation template."""

from __future__ import annotations

from typing import Any

from fourfold.advisor import requests, workload
from fourfold.advisor.export.hcl import Block, Encoded, Raw, block
from fourfold.advisor.export.policies import allow, document, only_from, trust
from fourfold.advisor.export.runs import schedule
from fourfold.advisor.search import Plan
from fourfold.advisor.sizing import Sizing

VARIABLES = {
    "region": ("AWS region", None),
    "model_bucket": ("Bucket that holds the model artifact", None),
    "model_key": ("Key of the artifact, a tar.gz", "model.tar.gz"),
    "image_account": ("Account whose ECR holds the serving image", None),
    "image_repository": ("ECR repository of the serving image", None),
    "image_tag": ("Tag of the serving image", "latest"),
}


def files(plan: Plan) -> dict[str, str]:
    size = plan.sizing
    assert size is not None
    name = requests.name_of(plan.scenario)
    parts = [_head(plan), *_model(plan, name)]
    if plan.mode == "batch":
        parts += [*_bucket(name), *_transform(plan, name)]
    else:
        parts += _endpoint(plan)
        if plan.mode == "asynchronous":
            parts += [*_bucket(name), *_notifications(name)]
        if size.instance is not None and size.count > size.floor:
            parts += _scaling(plan, size)
    parts += _alarms(plan, name)
    return {"main.tf": "\n".join(parts), "variables.tf": "\n".join(_variables(plan))}


def _head(plan: Plan) -> str:
    title = f"# {plan.mode} inference, {plan.cost.total:,.2f} USD a month as planned\n\n"
    provider = {"aws": {"source": "hashicorp/aws", "version": ">= 5.40"}}
    return (
        title
        + block("terraform", {"required_providers": Block(provider)})
        + "\n"
        + block('provider "aws"', {"region": Raw("var.region")})
        + "\n"
        + block('data "aws_caller_identity" "this"', {})
        + "\n"
        + block('data "aws_partition" "this"', {})
    )


def _variables(plan: Plan) -> list[str]:
    region = plan.scenario.region or "us-east-1"
    variables = []
    for name, (text, default) in VARIABLES.items():
        members: dict[str, Any] = {"description": text, "type": Raw("string")}
        default = region if name == "region" else default
        variables.append(block(f'variable "{name}"', members | ({"default": default} if default else {})))
    return variables


def _model(plan: Plan, name: str) -> list[str]:
    statements = [
        allow("s3:GetObject", "arn:${data.aws_partition.this.partition}:s3:::${var.model_bucket}/${var.model_key}"),
        allow("ecr:GetAuthorizationToken", "*"),
        allow(
            ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"],
            _arn("ecr", "repository/${var.image_repository}", "${var.image_account}"),
        ),
        allow(
            ["logs:CreateLogGroup", "logs:CreateLogStream", "logs:DescribeLogStreams", "logs:PutLogEvents"],
            _arn("logs", "log-group:/aws/sagemaker/*"),
        ),
        {
            **allow("cloudwatch:PutMetricData", "*"),
            "Condition": {"StringLike": {"cloudwatch:namespace": ["AWS/SageMaker", "/aws/sagemaker/*"]}},
        },
    ]
    if plan.mode in ("batch", "asynchronous"):
        statements += [
            allow(["s3:GetObject", "s3:PutObject"], "${aws_s3_bucket.data.arn}/*"),
            allow("s3:ListBucket", Raw("aws_s3_bucket.data.arn")),
        ]
    if plan.mode == "asynchronous":
        statements.append(allow("sns:Publish", [Raw("aws_sns_topic.success.arn"), Raw("aws_sns_topic.error.arn")]))
    image = "${var.image_account}.dkr.ecr.${var.region}.amazonaws.com/${var.image_repository}:${var.image_tag}"
    container = {"image": image, "model_data_url": "s3://${var.model_bucket}/${var.model_key}"}
    return [
        *_role("execution", name, "sagemaker.amazonaws.com", statements),
        block(
            'resource "aws_sagemaker_model" "this"',
            {
                "name": name,
                "execution_role_arn": Raw("aws_iam_role.execution.arn"),
                "primary_container": Block(container),
                "depends_on": [Raw("aws_iam_role_policy.execution")],
            },
        ),
    ]


def _endpoint(plan: Plan) -> list[str]:
    members = plan.configuration["CreateEndpointConfig"]
    variant = members["ProductionVariants"][0]
    body: dict[str, Any] = {"variant_name": variant["VariantName"], "model_name": Raw("aws_sagemaker_model.this.name")}
    if "ServerlessConfig" in variant:
        serverless = variant["ServerlessConfig"]
        sizes = {"memory_size_in_mb": serverless["MemorySizeInMB"], "max_concurrency": serverless["MaxConcurrency"]}
        if "ProvisionedConcurrency" in serverless:
            sizes["provisioned_concurrency"] = serverless["ProvisionedConcurrency"]
        body["serverless_config"] = Block(sizes)
    else:
        body |= {
            "instance_type": variant["InstanceType"],
            "initial_instance_count": variant["InitialInstanceCount"],
            "initial_variant_weight": 1,
        }
    config: dict[str, Any] = {"name": members["EndpointConfigName"], "production_variants": Block(body)}
    if "AsyncInferenceConfig" in members:
        client = members["AsyncInferenceConfig"]["ClientConfig"]["MaxConcurrentInvocationsPerInstance"]
        topics = {
            "success_topic": Raw("aws_sns_topic.success.arn"),
            "error_topic": Raw("aws_sns_topic.error.arn"),
        }
        output = {
            "s3_output_path": "s3://${aws_s3_bucket.data.id}/output/",
            "s3_failure_path": "s3://${aws_s3_bucket.data.id}/failure/",
            "notification_config": Block(topics),
        }
        config["async_inference_config"] = Block(
            {
                "client_config": Block({"max_concurrent_invocations_per_instance": client}),
                "output_config": Block(output),
            }
        )
    return [
        block('resource "aws_sagemaker_endpoint_configuration" "this"', config),
        block(
            'resource "aws_sagemaker_endpoint" "this"',
            {
                "name": plan.configuration["CreateEndpoint"]["EndpointName"],
                "endpoint_config_name": Raw("aws_sagemaker_endpoint_configuration.this.name"),
            },
        ),
        block('output "endpoint_name"', {"value": Raw("aws_sagemaker_endpoint.this.name")}),
    ]


def _scaling(plan: Plan, size: Sizing) -> list[str]:
    target = {
        "service_namespace": "sagemaker",
        "resource_id": "endpoint/${aws_sagemaker_endpoint.this.name}/variant/" + requests.VARIANT,
        "scalable_dimension": "sagemaker:variant:DesiredInstanceCount",
    }
    own = {name: Raw(f"aws_appautoscaling_target.this.{name}") for name in target}
    policy = plan.configuration["PutScalingPolicy"]
    return [
        block(
            'resource "aws_appautoscaling_target" "this"',
            {**target, "min_capacity": size.floor, "max_capacity": size.count},
        ),
        block(
            'resource "aws_appautoscaling_policy" "load"',
            {
                "name": policy["PolicyName"],
                "policy_type": "TargetTrackingScaling",
                **own,
                "target_tracking_scaling_policy_configuration": _tracking(
                    policy["TargetTrackingScalingPolicyConfiguration"]
                ),
            },
        ),
        *(_scheduled(action, own) for action in plan.configuration.get("PutScheduledAction", [])),
        *(_from_zero(own) if size.floor == 0 else []),
    ]


def _tracking(tracking: dict[str, Any]) -> Block:
    body: dict[str, Any] = {
        "target_value": tracking["TargetValue"],
        "scale_in_cooldown": tracking["ScaleInCooldown"],
        "scale_out_cooldown": tracking["ScaleOutCooldown"],
    }
    if "PredefinedMetricSpecification" in tracking:
        kind = tracking["PredefinedMetricSpecification"]["PredefinedMetricType"]
        return Block(body | {"predefined_metric_specification": Block({"predefined_metric_type": kind})})
    metric = tracking["CustomizedMetricSpecification"]
    customized = {
        "metric_name": metric["MetricName"],
        "namespace": metric["Namespace"],
        "statistic": metric["Statistic"],
        "dimensions": Block({"name": "EndpointName", "value": Raw("aws_sagemaker_endpoint.this.name")}),
    }
    return Block(body | {"customized_metric_specification": Block(customized)})


def _scheduled(action: dict[str, Any], own: dict[str, Raw]) -> str:
    hour = action["ScheduledActionName"][-2:]
    capacity = action["ScalableTargetAction"]
    return block(
        f'resource "aws_appautoscaling_scheduled_action" "hour_{hour}"',
        {
            "name": action["ScheduledActionName"],
            **own,
            "schedule": action["Schedule"],
            "scalable_target_action": Block(
                {"min_capacity": capacity["MinCapacity"], "max_capacity": capacity["MaxCapacity"]}
            ),
        },
    )


def _from_zero(own: dict[str, Raw]) -> list[str]:
    step = Block({"metric_interval_lower_bound": 0, "scaling_adjustment": 1})
    return [
        block(
            'resource "aws_appautoscaling_policy" "from_zero"',
            {
                "name": "from-zero",
                "policy_type": "StepScaling",
                **own,
                "step_scaling_policy_configuration": Block(
                    {
                        "adjustment_type": "ChangeInCapacity",
                        "metric_aggregation_type": "Average",
                        "cooldown": 300,
                        "step_adjustment": step,
                    }
                ),
            },
        ),
        _alarm(
            "backlog_without_capacity",
            "HasBacklogWithoutCapacity",
            {"statistic": "Average", "threshold": 1, "evaluation_periods": 2},
            "aws_appautoscaling_policy.from_zero.arn",
            variant=False,
        ),
    ]


def _notifications(name: str) -> list[str]:
    send = allow("sqs:SendMessage", Raw("aws_sqs_queue.results.arn"))
    statement = only_from("sns.amazonaws.com", Raw("aws_sns_topic.success.arn"), send)
    return [
        block('resource "aws_sns_topic" "success"', {"name": f"{name}-success"}),
        block('resource "aws_sns_topic" "error"', {"name": f"{name}-error"}),
        block(
            'resource "aws_sqs_queue" "results"',
            {"name": f"{name}-results", "message_retention_seconds": 1209600, "sqs_managed_sse_enabled": True},
        ),
        block(
            'resource "aws_sqs_queue_policy" "results"',
            {"queue_url": Raw("aws_sqs_queue.results.id"), "policy": Encoded(document([statement]))},
        ),
        block(
            'resource "aws_sns_topic_subscription" "results"',
            {
                "protocol": "sqs",
                "topic_arn": Raw("aws_sns_topic.success.arn"),
                "endpoint": Raw("aws_sqs_queue.results.arn"),
                "raw_message_delivery": True,
            },
        ),
        block('output "result_queue_url"', {"value": Raw("aws_sqs_queue.results.id")}),
    ]


def _transform(plan: Plan, name: str) -> list[str]:
    members = dict(plan.configuration["CreateTransformJob"])
    members |= {
        "TransformJobName": f"{name[:26]}-<aws.scheduler.execution-id>",
        "ModelName": Raw("aws_sagemaker_model.this.name"),
        "TransformInput": {
            **members["TransformInput"],
            "DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": "s3://${aws_s3_bucket.data.id}/input/"}},
        },
        "TransformOutput": {**members["TransformOutput"], "S3OutputPath": "s3://${aws_s3_bucket.data.id}/output/"},
    }
    where = _arn("sagemaker", f"transform-job/{name[:26]}-*")
    target = {
        "arn": "arn:${data.aws_partition.this.partition}:scheduler:::aws-sdk:sagemaker:createTransformJob",
        "role_arn": Raw("aws_iam_role.schedule.arn"),
        "input": Encoded(members),
    }
    return [
        *_role("schedule", name, "scheduler.amazonaws.com", [allow("sagemaker:CreateTransformJob", where)]),
        block(
            'resource "aws_scheduler_schedule" "transform"',
            {
                "name": f"{name}-transform",
                "schedule_expression": schedule(workload.of(plan.scenario).runs_per_month),
                "flexible_time_window": Block({"mode": "OFF"}),
                "target": Block(target),
            },
        ),
    ]


def _bucket(name: str) -> list[str]:
    bucket = Raw("aws_s3_bucket.data.id")
    blocked = {"block_public_acls": True, "block_public_policy": True}
    return [
        block('resource "aws_s3_bucket" "data"', {"bucket_prefix": f"{name.lower()[:30]}-data-"}),
        block(
            'resource "aws_s3_bucket_public_access_block" "data"',
            {"bucket": bucket, **blocked, "ignore_public_acls": True, "restrict_public_buckets": True},
        ),
        block(
            'resource "aws_s3_bucket_server_side_encryption_configuration" "data"',
            {
                "bucket": bucket,
                "rule": Block({"apply_server_side_encryption_by_default": Block({"sse_algorithm": "AES256"})}),
            },
        ),
        block('output "data_bucket"', {"value": bucket}),
    ]


def _alarms(plan: Plan, name: str) -> list[str]:
    parts = [block('resource "aws_sns_topic" "alarm"', {"name": f"{name}-alarm"})]
    if plan.mode == "batch":
        return parts + _failed_jobs(name)
    notify = "aws_sns_topic.alarm.arn"
    errors = {"statistic": "Sum", "threshold": 1, "evaluation_periods": 5, "datapoints_to_alarm": 3}
    parts.append(_alarm("server_errors", "Invocation5XXErrors", errors, notify))
    if plan.mode == "asynchronous":
        age = {"statistic": "Maximum", "threshold": 3600, "evaluation_periods": 5}
        parts.append(_alarm("old_requests", "ApproximateAgeOfOldestRequest", age, notify, variant=False))
    else:
        target = plan.scenario.latency_p99_ms or 2 * plan.latency_ms["p99"]
        latency = {"extended_statistic": "p99", "threshold": round(target * 1000), "evaluation_periods": 5}
        parts.append(_alarm("latency", "ModelLatency", latency, notify))
    return parts


def _failed_jobs(name: str) -> list[str]:
    pattern = {
        "source": ["aws.sagemaker"],
        "detail-type": ["SageMaker Transform Job State Change"],
        "detail": {"TransformJobStatus": ["Failed"], "TransformJobName": [{"prefix": f"{name[:26]}-"}]},
    }
    publish = allow("sns:Publish", Raw("aws_sns_topic.alarm.arn"))
    statement = only_from("events.amazonaws.com", Raw("aws_cloudwatch_event_rule.failed.arn"), publish)
    return [
        block(
            'resource "aws_cloudwatch_event_rule" "failed"',
            {"name": f"{name}-failed", "event_pattern": Encoded(pattern)},
        ),
        block(
            'resource "aws_cloudwatch_event_target" "failed"',
            {"rule": Raw("aws_cloudwatch_event_rule.failed.name"), "arn": Raw("aws_sns_topic.alarm.arn")},
        ),
        block(
            'resource "aws_sns_topic_policy" "alarm"',
            {"arn": Raw("aws_sns_topic.alarm.arn"), "policy": Encoded(document([statement]))},
        ),
    ]


def _alarm(name: str, metric: str, figures: dict[str, Any], action: str, *, variant: bool = True) -> str:
    dimensions: dict[str, Any] = {"EndpointName": Raw("aws_sagemaker_endpoint.this.name")}
    if variant:
        dimensions["VariantName"] = requests.VARIANT
    return block(
        f'resource "aws_cloudwatch_metric_alarm" "{name}"',
        {
            "alarm_name": "${aws_sagemaker_endpoint.this.name}-" + name.replace("_", "-"),
            "namespace": "AWS/SageMaker",
            "metric_name": metric,
            "dimensions": dimensions,
            "period": 60,
            "comparison_operator": "GreaterThanOrEqualToThreshold",
            "treat_missing_data": "notBreaching",
            **figures,
            "alarm_actions": [Raw(action)],
        },
    )


def _role(label: str, name: str, service: str, statements: list[dict[str, Any]]) -> list[str]:
    return [
        block(
            f'resource "aws_iam_role" "{label}"',
            {"name_prefix": f"{name[:20]}-{label}-", "assume_role_policy": Encoded(trust(service))},
        ),
        block(
            f'resource "aws_iam_role_policy" "{label}"',
            {"role": Raw(f"aws_iam_role.{label}.id"), "policy": Encoded(document(statements))},
        ),
    ]


def _arn(service: str, resource: str, account: str = "${data.aws_caller_identity.this.account_id}") -> str:
    return f"arn:${{data.aws_partition.this.partition}}:{service}:${{var.region}}:{account}:{resource}"
