"""What people write with version 3 of the sagemaker SDK, unmodified; run by its own interpreter (test_sdk.py)."""

from __future__ import annotations

import json
from pathlib import Path

import boto3
import numpy as np
from case import BUCKET, NAME, ROLE, captures, fit_sklearn, left, run, upload, write
from sagemaker.core import shapes
from sagemaker.core.helper.session_helper import Session, get_execution_role
from sagemaker.core.inference_config import AsyncInferenceConfig, ServerlessInferenceConfig
from sagemaker.core.resources import (
    Endpoint,
    EndpointConfig,
    InferenceComponent,
    Model,
    ModelPackage,
    ModelPackageGroup,
    MonitoringExecution,
    MonitoringSchedule,
    Tag,
    TransformJob,
)
from sagemaker.core.shapes import (
    CaptureOption,
    ContainerDefinition,
    DataCaptureConfig,
    DesiredWeightAndCapacity,
    InferenceComponentComputeResourceRequirements,
    InferenceComponentRuntimeConfig,
    InferenceComponentSpecification,
    ProductionVariant,
    TransformDataSource,
    TransformInput,
    TransformOutput,
    TransformResources,
    TransformS3DataSource,
)
from sagemaker.core.training.configs import SourceCode
from sagemaker.core.transformer import Transformer
from sagemaker.serve import ModelBuilder

SKLEARN = "683313688378.dkr.ecr.us-east-1.amazonaws.com/sagemaker-scikit-learn:1.2-1-cpu-py3"
DEEP = "763104351884.dkr.ecr.us-east-1.amazonaws.com"
ROW = json.dumps({"instances": [[1.0, 2.0, 3.0]]})


def artifact() -> str:
    return upload("model", fit_sklearn())


def build(session: Session, image: str = SKLEARN, **options: object) -> ModelBuilder:
    if "s3_model_data_url" not in options:
        options["s3_model_data_url"] = artifact()
    built = ModelBuilder(image_uri=image, role_arn=ROLE, sagemaker_session=session, **options)
    built.build(model_name=NAME)
    return built


def ask(endpoint: Endpoint, body: str = ROW) -> object:
    return json.loads(endpoint.invoke(body=body, content_type="application/json").body.read())


def output(key: str) -> str:
    return boto3.client("s3").get_object(Bucket=BUCKET, Key=key)["Body"].read().decode()


def resources(session: Session) -> object:
    """The low level: one class a resource, whose answers are checked strictly."""
    model = Model.create(
        model_name=NAME,
        execution_role_arn=ROLE,
        primary_container=ContainerDefinition(image=SKLEARN, model_data_url=artifact()),
    )
    config = EndpointConfig.create(
        endpoint_config_name=NAME,
        production_variants=[
            ProductionVariant(
                variant_name="AllTraffic", model_name=NAME, initial_instance_count=1, instance_type="ml.m5.large"
            )
        ],
        tags=[shapes.Tag(key="team", value="sums")],
    )
    endpoint = Endpoint.create(endpoint_name=NAME, endpoint_config_name=NAME)
    endpoint.wait_for_status("InService", timeout=60)
    answer = endpoint.invoke(body=ROW, content_type="application/json", target_variant="AllTraffic").body.read()
    variant = DesiredWeightAndCapacity(variant_name="AllTraffic", desired_instance_count=2)
    endpoint.update_weights_and_capacities(desired_weights_and_capacities=[variant])
    endpoint.wait_for_status("InService", timeout=60)
    found = {
        "answer": json.loads(answer),
        "listed": [one.endpoint_name for one in Endpoint.get_all(name_contains=NAME, status_equals="InService")],
        "instances": endpoint.refresh().production_variants[0].current_instance_count,
        "configs": [one.endpoint_config_name for one in EndpointConfig.get_all(name_contains=NAME)],
        "models": [one.model_name for one in Model.get_all(name_contains=NAME)],
        "monitors": list(MonitoringSchedule.get_all(endpoint_name=NAME)),
        "runs": list(MonitoringExecution.get_all(endpoint_name=NAME)),
        "tags": [tag.value for tag in Tag.get_all(resource_arn=EndpointConfig.get(NAME).endpoint_config_arn)],
    }
    endpoint.delete()
    endpoint.wait_for_delete()
    config.delete()
    model.delete()
    return found | {"left": left(NAME)}


def components(session: Session) -> object:
    """A model as an inference component: made, called, with another copy, deleted."""
    built = build(session)
    variant = ProductionVariant(variant_name="AllTraffic", initial_instance_count=1, instance_type="ml.m5.4xlarge")
    EndpointConfig.create(endpoint_config_name=NAME, execution_role_arn=ROLE, production_variants=[variant])
    endpoint = Endpoint.create(endpoint_name=NAME, endpoint_config_name=NAME)
    endpoint.wait_for_status("InService")
    needs = InferenceComponentComputeResourceRequirements(min_memory_required_in_mb=256, number_of_cpu_cores_required=1)
    component = InferenceComponent.create(
        inference_component_name=NAME,
        endpoint_name=NAME,
        variant_name="AllTraffic",
        specification=InferenceComponentSpecification(
            model_name=built.built_model.model_name, compute_resource_requirements=needs
        ),
        runtime_config=InferenceComponentRuntimeConfig(copy_count=1),
    )
    component.wait_for_status("InService")
    answer = endpoint.invoke(body=ROW, content_type="application/json", inference_component_name=NAME).body.read()
    component.update_runtime_configs(desired_runtime_config=InferenceComponentRuntimeConfig(copy_count=2))
    component.wait_for_status("InService")
    listed = [one.inference_component_name for one in InferenceComponent.get_all(endpoint_name_equals=NAME)]
    copies = component.refresh().runtime_config.current_copy_count
    component.delete()
    component.wait_for_delete()
    endpoint.delete()
    built.built_model.delete()
    return {"answer": json.loads(answer), "listed": listed, "copies": copies, "left": left(NAME)}


def builder(session: Session) -> object:
    """ModelBuilder: build asks iam, deploy asks sts and logs."""
    endpoint = build(session).deploy(endpoint_name=NAME, instance_type="ml.m5.large", initial_instance_count=1)
    return ask(endpoint)


def serverless(session: Session) -> object:
    config = ServerlessInferenceConfig(memory_size_in_mb=2048, max_concurrency=5)
    return ask(build(session).deploy(endpoint_name=NAME, inference_config=config))


CODE = """
import os
import numpy as np

def model_fn(model_dir):
    weights = np.load(os.path.join(model_dir, "weights.npy"))
    return WEIGHTS
"""


def lifetime(session: Session, image: str, code: str, body: object) -> object:
    """A handler in `source_code`: deployed, called, grown, with data capture on and off, deleted."""
    write("src/inference.py", code)
    np.save("weights.npy", np.ones((3, 1), np.float32))
    built = build(
        session,
        image,
        s3_model_data_url=upload("model", "weights.npy"),
        source_code=SourceCode(source_dir=str(Path("src").absolute()), entry_script="inference.py"),
    )
    endpoint = built.deploy(endpoint_name=NAME, instance_type="ml.m5.large", initial_instance_count=1)
    answers, seen, configs = [ask(endpoint, json.dumps(body))], [], []
    for number, capturing in enumerate((False, True, False)):
        capture = DataCaptureConfig(
            enable_capture=capturing,
            initial_sampling_percentage=100,
            destination_s3_uri=f"s3://{BUCKET}/capture",
            capture_options=[CaptureOption(capture_mode="Input"), CaptureOption(capture_mode="Output")],
        )
        variant = ProductionVariant(
            variant_name="AllTraffic", model_name=NAME, initial_instance_count=2, instance_type="ml.m5.large"
        )
        configs.append(
            EndpointConfig.create(
                endpoint_config_name=f"{NAME}-{number}", production_variants=[variant], data_capture_config=capture
            )
        )
        endpoint.endpoint_config_name = f"{NAME}-{number}"
        endpoint.update()
        endpoint.wait_for_status("InService")
        seen.append(captures(NAME))
    answers.append(ask(endpoint, json.dumps(body)))
    endpoint.delete()
    endpoint.wait_for_delete()
    for config in configs:
        config.delete()
    built.built_model.delete()
    return {"answers": answers, "captures": seen, "left": left(NAME)}


def pytorch(session: Session) -> object:
    code = CODE.replace("WEIGHTS", "weights") + "def predict_fn(data, model):\n    return np.asarray(data) @ model\n"
    return lifetime(session, f"{DEEP}/pytorch-inference:2.3-cpu-py311", code, [[1.0, 2.0, 3.0]])


def tensorflow(session: Session) -> object:
    code = CODE.replace("WEIGHTS", "weights") + "def predict_fn(data, model):\n    return np.asarray(data) @ model\n"
    return lifetime(session, f"{DEEP}/tensorflow-inference:2.16-cpu", code, [[1.0, 2.0, 3.0]])


def hugging_face(session: Session) -> object:
    code = CODE.replace("WEIGHTS", "lambda inputs, scale=1: [{'sum': (scale * np.asarray(inputs) @ weights).tolist()}]")
    image = f"{DEEP}/huggingface-pytorch-inference:2.1.0-transformers4.37.0-cpu-py310-ubuntu22.04"
    return lifetime(session, image, code, {"inputs": [[1.0, 2.0, 3.0]], "parameters": {"scale": 2}})


def asynchronous(session: Session) -> object:
    """Objects sent to an asynchronous endpoint, their answers waited for as boto3 does it."""
    config = AsyncInferenceConfig(output_path=f"s3://{BUCKET}/out", failure_path=f"s3://{BUCKET}/bad")
    endpoint = build(session).deploy(endpoint_name=NAME, instance_type="ml.m5.large", inference_config=config)
    s3 = boto3.client("s3")
    answers = []
    for name, body in (("good", ROW), ("wrong", '{"instances": [["a"]]}')):
        s3.put_object(Bucket=BUCKET, Key=name, Body=body)
        sent = endpoint.invoke_async(
            input_location=f"s3://{BUCKET}/{name}", content_type="application/json", inference_id=name
        )
        place = sent.output_location if name == "good" else sent.failure_location
        key = place.removeprefix(f"s3://{BUCKET}/")
        s3.get_waiter("object_exists").wait(Bucket=BUCKET, Key=key)
        answers.append(output(key))
    return {"good": json.loads(answers[0]), "wrong": "The model expects" in answers[1], "id": sent.inference_id}


def transformer(session: Session) -> object:
    """Transformer of a builder and on its own, with split, join, filters and the log."""
    boto3.client("s3").put_object(Bucket=BUCKET, Key="in/rows.csv", Body="a,1,2,3\nb,4,5,6\n")
    built = build(session)
    job = built.transformer(
        instance_count=1,
        instance_type="ml.m5.large",
        strategy="MultiRecord",
        assemble_with="Line",
        accept="text/csv",
        output_path=f"s3://{BUCKET}/out",
    )
    joined = {"input_filter": "$[1:]", "join_source": "Input", "output_filter": "$[0,-1]"}
    job.transform(f"s3://{BUCKET}/in/", content_type="text/csv", split_type="Line", wait=True, logs=True, **joined)
    again = Transformer(
        NAME, 1, "ml.m5.large", output_path=f"s3://{BUCKET}/again", assemble_with="Line", sagemaker_session=session
    )
    boto3.client("s3").put_object(Bucket=BUCKET, Key="plain/rows.csv", Body="1,2,3\n")
    again.transform(f"s3://{BUCKET}/plain/", content_type="text/csv", split_type="Line", wait=True, logs=False)
    attached = Transformer.attach(again.latest_transform_job.transform_job_name, session)
    again.delete_model()
    return {
        "rows": output("out/rows.csv.out").split(),
        "again": output("again/rows.csv.out").split(),
        "attached": attached.model_name == NAME,
    }


def transform_job(session: Session) -> object:
    """The low level of batch transform."""
    build(session)
    boto3.client("s3").put_object(Bucket=BUCKET, Key="in/rows.csv", Body="1,2,3\n")
    source = TransformS3DataSource(s3_data_type="S3Prefix", s3_uri=f"s3://{BUCKET}/in/")
    job = TransformJob.create(
        transform_job_name=NAME,
        model_name=NAME,
        transform_input=TransformInput(
            data_source=TransformDataSource(s3_data_source=source), content_type="text/csv", split_type="Line"
        ),
        transform_output=TransformOutput(s3_output_path=f"s3://{BUCKET}/out"),
        transform_resources=TransformResources(instance_type="ml.m5.large", instance_count=1),
    )
    job.wait()
    listed = [found.transform_job_name for found in TransformJob.get_all(name_contains=NAME)]
    return {"status": job.transform_job_status, "rows": output("out/rows.csv.out").split(), "listed": listed}


def registry(session: Session) -> object:
    """Registered by the builder, approved, deployed from the package's ARN."""
    built = build(session)
    arn = built.register(
        model_package_group_name=NAME,
        content_types=["application/json"],
        response_types=["application/json"],
        inference_instances=["ml.m5.large"],
        transform_instances=["ml.m5.large"],
        approval_status="PendingManualApproval",
    )
    package = ModelPackage.get(arn)
    package.update(model_approval_status="Approved")
    Model.create(
        model_name=f"{NAME}-again",
        execution_role_arn=ROLE,
        primary_container=ContainerDefinition(model_package_name=arn),
    )
    variant = ProductionVariant(
        variant_name="AllTraffic", model_name=f"{NAME}-again", initial_instance_count=1, instance_type="ml.m5.large"
    )
    EndpointConfig.create(endpoint_config_name=NAME, production_variants=[variant])
    endpoint = Endpoint.create(endpoint_name=NAME, endpoint_config_name=NAME)
    endpoint.wait_for_status("InService")
    groups = [found.model_package_group_name for found in ModelPackageGroup.get_all()]
    return {"answer": ask(endpoint), "groups": NAME in groups, "status": package.refresh().model_approval_status}


def token(session: Session) -> object:
    """A bearer token of the SDK's generator, as OpenAI-compatible clients send it."""
    from sagemaker.core.token_generator import generate_token

    return generate_token(region="us-east-1")


def role(session: Session) -> object:
    """Nothing set but what `fourfold run` sets: role and bucket come from STS, whose address the SDK has fixed."""
    own = Session()
    return {"role": get_execution_role(sagemaker_session=own), "bucket": own.default_bucket()}


if __name__ == "__main__":
    run(
        Session,
        resources,
        builder,
        serverless,
        pytorch,
        tensorflow,
        hugging_face,
        asynchronous,
        transformer,
        transform_job,
        registry,
        components,
        token,
        role,
    )
