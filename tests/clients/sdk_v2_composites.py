"""Several models, versions and instances with version 2 of the sagemaker SDK, unmodified (test_sdk.py runs it)."""

from __future__ import annotations

import json
import tarfile

import boto3
import numpy as np
import sagemaker
from case import BUCKET, NAME, ROLE, fit_sklearn, left, pack, run, upload, write
from sagemaker.compute_resource_requirements.resource_requirements import ResourceRequirements
from sagemaker.deserializers import CSVDeserializer, JSONDeserializer, NumpyDeserializer
from sagemaker.enums import EndpointType
from sagemaker.model import Model, ModelPackage
from sagemaker.multidatamodel import MultiDataModel
from sagemaker.pipeline import PipelineModel
from sagemaker.predictor import Predictor
from sagemaker.serializers import CSVSerializer, JSONSerializer, NumpySerializer

SKLEARN = sagemaker.image_uris.retrieve("sklearn", "us-east-1", version="1.2-1")
ROW = [[1.0, 2.0, 3.0]]


def model(session: sagemaker.Session, name: str = NAME) -> Model:
    return Model(
        image_uri=SKLEARN,
        model_data=upload(name, fit_sklearn()),
        role=ROLE,
        predictor_cls=Predictor,
        name=name,
        sagemaker_session=session,
    )


def multi_model(session: sagemaker.Session) -> object:
    """Models added before and after the endpoint is there, called by name."""
    models = MultiDataModel(
        name=NAME,
        model_data_prefix=f"s3://{BUCKET}/many/",
        image_uri=SKLEARN,
        role=ROLE,
        predictor_cls=Predictor,
        sagemaker_session=session,
    )
    models.add_model(pack("one", f"model.joblib={fit_sklearn('one.joblib')}"))
    predictor = models.deploy(
        1, "ml.m5.large", endpoint_name=NAME, serializer=JSONSerializer(), deserializer=JSONDeserializer()
    )
    models.add_model(pack("two", f"model.joblib={fit_sklearn('two.joblib', 2.0)}"), "later/two.tar.gz")
    listed = sorted(models.list_models())
    answers = [predictor.predict(ROW, target_model=name)["predictions"] for name in listed]
    predictor.delete_endpoint()
    return {"listed": listed, "answers": np.round(answers, 3).tolist()}


def pipeline(session: sagemaker.Session) -> object:
    """Two containers, one after the other, CSV between them; then the same as a transform job."""
    code = (
        "def model_fn(model_dir):\n    return None\n"
        "def transform_fn(model, data, content_type, accept):\n"
        "    return ','.join(str(2 * float(value)) for value in data.split(',')), 'text/csv'\n"
    )
    double = Model(
        image_uri=SKLEARN,
        model_data=upload("double", f"code/inference.py={write('inference.py', code)}"),
        role=ROLE,
        sagemaker_session=session,
    )
    both = PipelineModel(models=[double, model(session, "sum")], role=ROLE, name=NAME, sagemaker_session=session)
    both.deploy(1, "ml.m5.large", endpoint_name=NAME)
    predictor = Predictor(NAME, session, serializer=CSVSerializer(), deserializer=CSVDeserializer())
    answer = predictor.predict(ROW)
    session.upload_string_as_file_body("1,2,3\n4,5,6\n", BUCKET, "in/rows.csv")
    job = both.transformer(1, "ml.m5.large", output_path=f"s3://{BUCKET}/out", assemble_with="Line", accept="text/csv")
    job.transform(f"s3://{BUCKET}/in/", content_type="text/csv", split_type="Line", logs=False)
    rows = boto3.client("s3").get_object(Bucket=BUCKET, Key="out/rows.csv.out")["Body"].read().decode().split()
    both.delete_model()
    predictor.delete_endpoint()
    return {"answer": answer, "rows": rows, "left": left(NAME)}


def registry(session: sagemaker.Session) -> object:
    """Registered, approved, deployed from the package; and from its ARN alone."""
    package = model(session).register(
        content_types=["application/json"],
        response_types=["application/json"],
        inference_instances=["ml.m5.large"],
        transform_instances=["ml.m5.large"],
        model_package_group_name=NAME,
        approval_status="PendingManualApproval",
    )
    package.update_approval_status("Approved")
    package.predictor_cls = Predictor
    both = {"serializer": JSONSerializer(), "deserializer": JSONDeserializer()}
    first = package.deploy(1, "ml.m5.large", endpoint_name=NAME, **both)
    second = ModelPackage(
        role=ROLE, model_package_arn=package.model_package_arn, predictor_cls=Predictor, sagemaker_session=session
    ).deploy(1, "ml.m5.large", endpoint_name=f"{NAME}-again", **both)
    return [predictor.predict(ROW) for predictor in (first, second)]


def components(session: sagemaker.Session) -> object:
    """Two inference components on one endpoint, one of them given more; each deleted by its predictor."""
    both = [
        model(session, f"{NAME}-{number}").deploy(
            1,
            "ml.m5.4xlarge",
            endpoint_name=NAME,
            endpoint_type=EndpointType.INFERENCE_COMPONENT_BASED,
            resources=ResourceRequirements(requests={"num_cpus": 1, "memory": 256, "copies": 1}),
            serializer=JSONSerializer(),
            deserializer=JSONDeserializer(),
        )
        for number in (1, 2)
    ]
    first, second = both
    first.update_predictor(resources=ResourceRequirements(requests={"num_cpus": 1, "memory": 512, "copies": 2}))
    updated = session.describe_inference_component(first.component_name)
    found = {
        "answers": [predictor.predict(ROW)["predictions"] for predictor in both],
        "streamed": json.loads(b"".join(second.predict_stream(ROW)))["predictions"],
        "copies": updated["RuntimeConfig"]["DesiredCopyCount"],
        "memory": updated["Specification"]["ComputeResourceRequirements"]["MinMemoryRequiredInMb"],
        "related": len(first.list_related_models()[0]),
    }
    for predictor in both:
        predictor.delete_predictor(wait=True)
    first.delete_endpoint()
    return found | {"left": left(NAME)}


def recommended(session: sagemaker.Session) -> object:
    """A registered model measured under load, then deployed as the recommendation says."""
    with tarfile.open("payload.tar.gz", "w:gz") as archive:
        archive.add(write("payload.json", json.dumps(ROW)))
    sample = session.upload_data("payload.tar.gz", BUCKET, "samples")
    measured = model(session)
    measured.register(
        content_types=["application/json"],
        response_types=["application/json"],
        inference_instances=["ml.m5.large"],
        transform_instances=["ml.m5.large"],
        model_package_group_name=NAME,
        approval_status="Approved",
    )
    measured.right_size(
        sample_payload_url=sample,
        supported_content_types=["application/json"],
        supported_instance_types=["ml.m5.large"],
        framework="SAGEMAKER-SCIKIT-LEARN",
        job_name=NAME,
        log_level="Quiet",
    )
    (best,) = measured.inference_recommendations
    predictor = measured.deploy(
        inference_recommendation_id=best["RecommendationId"],
        endpoint_name=NAME,
        serializer=JSONSerializer(),
        deserializer=JSONDeserializer(),
    )
    return {"type": best["EndpointConfiguration"]["InstanceType"], "answer": predictor.predict(ROW)["predictions"]}


def serializers(session: sagemaker.Session) -> object:
    """Each pair of the SDK's serializers and deserializers, beside autoscaling by boto3 as people set it up."""
    predictor = model(session).deploy(1, "ml.m5.large", endpoint_name=NAME)
    answers = {}
    for name, serializer, deserializer in (
        ("csv", CSVSerializer(), CSVDeserializer()),
        ("json", JSONSerializer(), JSONDeserializer()),
        ("npy", NumpySerializer(), NumpyDeserializer()),
    ):
        predictor.serializer, predictor.deserializer = serializer, deserializer
        answer = predictor.predict(np.array(ROW))
        answers[name] = np.round(answer, 3).tolist() if isinstance(answer, np.ndarray) else answer
    scaling = boto3.client("application-autoscaling")
    target = {
        "ServiceNamespace": "sagemaker",
        "ResourceId": f"endpoint/{NAME}/variant/AllTraffic",
        "ScalableDimension": "sagemaker:variant:DesiredInstanceCount",
    }
    scaling.register_scalable_target(**target, MinCapacity=1, MaxCapacity=2)
    scaling.put_scaling_policy(
        **target,
        PolicyName="calls",
        PolicyType="TargetTrackingScaling",
        TargetTrackingScalingPolicyConfiguration={
            "TargetValue": 70.0,
            "PredefinedMetricSpecification": {"PredefinedMetricType": "SageMakerVariantInvocationsPerInstance"},
        },
    )
    answers["policies"] = len(scaling.describe_scaling_policies(ServiceNamespace="sagemaker")["ScalingPolicies"])
    return answers


if __name__ == "__main__":
    run(sagemaker.Session, multi_model, pipeline, registry, components, recommended, serializers)
