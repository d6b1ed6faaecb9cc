"""What is exported is accepted by the tools that read it."""

from __future__ import annotations

import ast
import contextlib
import itertools
import json
import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from fourfold.advisor import export, search, tradeoffs
from fourfold.advisor.export import cloudformation
from fourfold.advisor.prices import shipped
from fourfold.advisor.scenario import MODES, Mode, Scenario
from fourfold.advisor.search import Plan
from fourfold.errors import ValidationException
from tests.server import LiveServer

PRICES = shipped()
BASE = Scenario(id="shop 1", processing_s=0.3, payload_mb=0.02, memory_gb=2, pattern="diurnal", requests_per_day=2e6)
RARE = replace(BASE, pattern="intermittent", requests_per_day=20)
WARM = replace(RARE, latency_p99_ms=800, tolerates_cold_start=False)
GPU = Scenario(id="video", gpu=True, processing_s=200, payload_mb=300, requests_per_day=50, pattern="spiky")

BURSTS = Scenario(
    id="a-shop-whose-name-is-as-long-as-a-name-can-be", processing_s=0.1, payload_mb=0.05, memory_gb=2,
    latency_p99_ms=500, pattern="spiky", requests_per_day=5e6,
)  # fmt: skip
MIXED = tradeoffs.mixed(BURSTS, PRICES)
assert MIXED is not None

PLANS = [
    *search.plans(BASE, PRICES).values(),
    search.plan(RARE, "asynchronous", PRICES),
    search.plan(WARM, "serverless", PRICES),
    search.plan(GPU, "real-time", PRICES),
    *MIXED.parts.values(),
]
NAMES = [f"{p.mode}, {p.scenario.id}, {p.scenario.requests_per_day:g} a day" for p in PLANS]


@pytest.fixture(params=PLANS, ids=NAMES)
def plan(request: pytest.FixtureRequest) -> Plan:
    found: Plan = request.param
    return found


def plan_for(mode: Mode, scenario: Scenario = BASE) -> Plan:
    return search.plan(scenario, mode, PRICES)


def test_cfn_lint_has_nothing_to_say(tmp_path: Path) -> None:
    paths = []
    for number, plan in enumerate(PLANS):
        paths += export.write(plan, "cloudformation", tmp_path / str(number))
    ran = subprocess.run(
        [str(Path(sys.executable).with_name("cfn-lint")), "--include-checks", "I", "--", *map(str, paths)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (ran.returncode, ran.stdout) == (0, ""), ran.stdout + ran.stderr


def statements(resources: dict[str, Any]) -> list[dict[str, Any]]:
    roles = [r for r in resources.values() if r["Type"] == "AWS::IAM::Role"]
    return [s for r in roles for p in r["Properties"]["Policies"] for s in p["PolicyDocument"]["Statement"]]


def test_roles_name_what_they_may_do_and_to_what(plan: Plan) -> None:
    for statement in statements(cloudformation.template(plan)["Resources"]):
        actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
        assert not any("*" in action for action in actions)
        if statement["Resource"] == "*":  # these two know no resources
            assert actions in (["ecr:GetAuthorizationToken"], ["cloudwatch:PutMetricData"])


def test_the_parts_of_a_mixed_plan_stand_beside_each_other() -> None:
    assert MIXED is not None
    base, overflow = (part.configuration["CreateEndpoint"] for part in MIXED.parts.values())
    assert base["EndpointName"].endswith("-base-endpoint")
    assert overflow["EndpointName"].endswith("-overflow-endpoint")


def test_every_reference_in_a_template_leads_somewhere(plan: Plan) -> None:
    template = cloudformation.template(plan)
    known = {*template["Resources"], *template["Parameters"]}

    def visit(value: Any) -> None:
        if isinstance(value, dict):
            if "Ref" in value:
                assert value["Ref"] in known
            if "Fn::GetAtt" in value:
                assert value["Fn::GetAtt"][0] in known
            for inner in value.values():
                visit(inner)
        elif isinstance(value, list):
            for inner in value:
                visit(inner)

    visit(template)


def test_a_template_has_what_its_mode_needs() -> None:
    def types(mode: Mode, scenario: Scenario = BASE) -> set[str]:
        return {
            r["Type"].split("::", 1)[1] for r in cloudformation.template(plan_for(mode, scenario))["Resources"].values()
        }

    assert {"SageMaker::Endpoint", "ApplicationAutoScaling::ScalingPolicy", "CloudWatch::Alarm"} <= types("real-time")
    assert {"SQS::Queue", "SNS::Topic", "S3::Bucket", "SageMaker::EndpointConfig"} <= types("asynchronous")
    assert {"Scheduler::Schedule", "S3::Bucket", "Events::Rule"} <= types("batch")
    assert "SageMaker::Endpoint" not in types("batch")
    assert "ApplicationAutoScaling::ScalableTarget" not in types("serverless")


def test_the_scheduled_job_is_a_valid_request() -> None:
    from botocore.session import get_session
    from botocore.validate import ParamValidator

    resources = cloudformation.template(plan_for("batch"))["Resources"]
    members = json.loads(resources["Schedule"]["Properties"]["Target"]["Input"]["Fn::Sub"])
    shape = get_session().get_service_model("sagemaker").operation_model("CreateTransformJob").input_shape
    report = ParamValidator().validate(members, shape)
    assert not report.has_errors(), report.generate_report()


@pytest.mark.parametrize(
    ("runs", "expression"),
    [(1, "cron(0 1 1 * ? *)"), (4, "cron(0 1 ? * MON *)"), (30, "cron(0 1 * * ? *)"), (365, "rate(2 hours)")],
)
def test_schedules(runs: float, expression: str) -> None:
    assert cloudformation.schedule(runs) == expression


def test_terraform_is_hcl_and_its_references_lead_somewhere(plan: Plan, tmp_path: Path) -> None:
    hcl2 = pytest.importorskip("hcl2")
    export.write(plan, "terraform", tmp_path)
    main = (tmp_path / "main.tf").read_text()
    parsed = hcl2.loads(main)
    variables = hcl2.loads((tmp_path / "variables.tf").read_text())["variable"]
    declared = {(_bare(kind), _bare(name)) for r in parsed["resource"] for kind, of in r.items() for name in of}
    for kind, name in re.findall(r"(?<!data\.)\b(aws_[a-z0-9_]+)\.([a-z_0-9]+)\.", main):
        assert (kind, name) in declared
    looked_up = {(_bare(k), _bare(n)) for r in parsed.get("data", ()) for k, of in r.items() for n in of}
    assert set(re.findall(r"\bdata\.(aws_[a-z0-9_]+)\.([a-z_0-9]+)", main)) <= looked_up
    computed = {_bare(name) for r in parsed.get("locals", ()) for name in r}
    assert set(re.findall(r"\blocal\.([a-z_0-9]+)", main)) <= computed
    names = {_bare(name) for v in variables for name in v}
    assert set(re.findall(r"\bvar\.([a-z_]+)", main)) <= names
    for line, following in itertools.pairwise(main.splitlines()):  # as `terraform fmt` would leave them
        one, other = (re.fullmatch(r"( *)(\S+ *)= .*[^[({]", text) for text in (line, following))
        assert not one or not other or one[1] != other[1] or len(one[2]) == len(other[2]), following


def _bare(name: str) -> str:
    return name.strip('"')


def test_the_script_is_python_that_explains_itself(plan: Plan, tmp_path: Path) -> None:
    (path,) = export.write(plan, "boto3", tmp_path)
    ast.parse(path.read_text())
    environment = {"AWS_DEFAULT_REGION": "us-east-1", "PATH": ""}
    ran = subprocess.run(
        [sys.executable, str(path), "--help"], capture_output=True, text=True, check=False, env=environment
    )
    assert ran.returncode == 0, ran.stderr
    assert "--role-arn" in ran.stdout


def test_the_diagram_comes_as_svg_and_mermaid(plan: Plan, tmp_path: Path) -> None:
    assert {p.name for p in export.write(plan, "diagram", tmp_path)} == {"architecture.svg", "architecture.mmd"}


def test_the_template_is_plain_yaml_without_anchors(plan: Plan, tmp_path: Path) -> None:
    (path,) = export.write(plan, "cloudformation", tmp_path / "new" / "folder")
    text = path.read_text()
    assert yaml.safe_load(text) == cloudformation.template(plan)
    assert "&id" not in text


def test_what_cannot_be_exported_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValidationException, match="cloudformation, boto3, terraform, diagram"):
        export.write(plan_for("batch"), "pulumi", tmp_path)
    with pytest.raises(ValidationException, match="no GPU"):
        export.write(plan_for("serverless", GPU), "boto3", tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValidationException, match="cannot be written"):
        export.write(plan_for("batch"), "boto3", tmp_path / "file")


def test_modes_are_all_covered() -> None:
    assert {p.mode for p in PLANS} == set(MODES)


HANDLER = """
import json

def model_fn(model_dir):
    return 3

def transform_fn(factor, body, content_type, accept):
    lines = body.decode() if isinstance(body, bytes) else body
    answers = [[factor * x for row in json.loads(line) for x in row] for line in lines.splitlines()]
    return "\\n".join(map(json.dumps, answers)), accept
"""


@dataclass
class Site:
    """A live server with the handler's artifact in a bucket, and the exported script of one plan."""

    server: LiveServer
    script: Path

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {
            "AWS_ENDPOINT_URL": self.server.url,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": self.server.keys["access_key_id"],
            "AWS_SECRET_ACCESS_KEY": self.server.keys["secret_access_key"],
        }
        command = [sys.executable, str(self.script), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


OPTIONS = ("--model-data", "s3://artifacts/model.tar.gz", "--role-arn", "arn:aws:iam::123456789012:role/serve")


@pytest.fixture
def exported(server: LiveServer, tmp_path: Path) -> Callable[[Plan], Site]:
    (tmp_path / "inference.py").write_text(HANDLER)
    with tarfile.open(tmp_path / "model.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "inference.py", "code/inference.py")
    s3 = server.client("s3")
    with contextlib.suppress(s3.exceptions.BucketAlreadyOwnedByYou):
        s3.create_bucket(Bucket="artifacts")
    s3.upload_file(str(tmp_path / "model.tar.gz"), "artifacts", "model.tar.gz")
    return lambda plan: Site(server, export.write(plan, "boto3", tmp_path)[0])


@pytest.mark.parametrize("mode", ["real-time", "serverless"])
def test_the_script_leaves_a_working_endpoint_on_fourfold_and_takes_it_away(
    mode: Mode, exported: Callable[[Plan], Site]
) -> None:
    steady = replace(BASE, id=f"thrice-{mode}", pattern="steady", requests_per_day=1000)
    site = exported(plan_for(mode, steady))
    made = site.run(*OPTIONS)
    assert made.returncode == 0, made.stderr
    answer = site.server.client("sagemaker-runtime").invoke_endpoint(
        EndpointName=f"thrice-{mode}-endpoint", ContentType="application/json", Body=b"[[1, 2]]"
    )
    assert json.loads(answer["Body"].read()) == [3, 6]
    variant = site.server.client("sagemaker").describe_endpoint(EndpointName=f"thrice-{mode}-endpoint")[
        "ProductionVariants"
    ][0]
    assert ("CurrentServerlessConfig" in variant) is (mode == "serverless")
    assert site.run(*OPTIONS).returncode == 0  # again: nothing is made twice
    assert site.run("--delete").returncode == 0
    assert site.server.client("sagemaker").list_models()["Models"] == []


def test_the_script_leaves_an_endpoint_that_follows_the_day(exported: Callable[[Plan], Site]) -> None:
    day = Scenario(id="wave", pattern="diurnal", requests_per_day=900_000, processing_s=0.1, memory_gb=1)
    site = exported(plan_for("real-time", day))
    made = site.run(*OPTIONS)
    assert made.returncode == 0, made.stderr
    scaling = site.server.client("application-autoscaling")
    resource = {"ServiceNamespace": "sagemaker", "ResourceId": "endpoint/wave-endpoint/variant/AllTraffic"}
    (policy,) = scaling.describe_scaling_policies(**resource)["ScalingPolicies"]
    assert policy["PolicyType"] == "TargetTrackingScaling"
    assert len(scaling.describe_scheduled_actions(**resource)["ScheduledActions"]) == 2
    assert site.run("--delete").returncode == 0
    assert scaling.describe_scalable_targets(ServiceNamespace="sagemaker")["ScalableTargets"] == []


def test_the_script_runs_a_transform_job_and_leaves_a_schedule(exported: Callable[[Plan], Site]) -> None:
    nightly = Scenario(id="nightly", rows=3, processing_s=0.01, runs_per_month=30, whole_dataset=True)
    site = exported(plan_for("batch", nightly))
    s3 = site.server.client("s3")
    s3.create_bucket(Bucket="tables")
    s3.put_object(Bucket="tables", Key="input/rows.jsonl", Body=b"[[1]]\n[[2]]\n[[3]]\n")
    ran = site.run(*OPTIONS, "--bucket", "tables")
    assert ran.returncode == 0, ran.stderr
    assert "Completed" in ran.stdout
    assert s3.get_object(Bucket="tables", Key="output/rows.jsonl.out")["Body"].read().split() == [
        b"[3]",
        b"[6]",
        b"[9]",
    ]
    schedule = (*OPTIONS, "--bucket", "tables", "--schedule-role-arn", "arn:aws:iam::123456789012:role/schedule")
    for _ in range(2):
        planned = site.run(*schedule)
        assert planned.returncode == 0, planned.stderr
    (kept,) = site.server.client("scheduler").list_schedules()["Schedules"]
    assert kept["Name"] == "nightly-transform"
    assert site.run("--delete").returncode == 0
    assert site.server.client("scheduler").list_schedules()["Schedules"] == []


def test_the_script_leaves_an_asynchronous_endpoint_that_scales_to_zero(exported: Callable[[Plan], Site]) -> None:
    site = exported(plan_for("asynchronous", replace(RARE, id="later")))
    s3 = site.server.client("s3")
    s3.create_bucket(Bucket="work")
    s3.put_object(Bucket="work", Key="input/one.json", Body=b"[[1, 2]]")
    made = site.run(*OPTIONS, "--bucket", "work")
    assert made.returncode == 0, made.stderr
    answer = site.server.client("sagemaker-runtime").invoke_endpoint_async(
        EndpointName="later-endpoint", ContentType="application/json", InputLocation="s3://work/input/one.json"
    )
    bucket, _, key = answer["OutputLocation"].removeprefix("s3://").partition("/")
    s3.get_waiter("object_exists").wait(Bucket=bucket, Key=key, WaiterConfig={"Delay": 1, "MaxAttempts": 30})
    assert json.loads(s3.get_object(Bucket=bucket, Key=key)["Body"].read()) == [3, 6]
    (target,) = site.server.client("application-autoscaling").describe_scalable_targets(ServiceNamespace="sagemaker")[
        "ScalableTargets"
    ]
    assert target["MinCapacity"] == 0
    assert site.run("--delete").returncode == 0
