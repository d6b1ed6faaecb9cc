"""Requests with a SigV4 signature each, made by botocore's own signer, to send faster than boto3 could."""

from __future__ import annotations

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from load import request_bytes


def signed_requests(url: str, keys: dict[str, str], bodies: list[bytes]) -> list[bytes]:
    """One request a body, valid for the five minutes that AWS allows. `keys` is what `fourfold env` prints."""
    credentials = Credentials(keys["AWS_ACCESS_KEY_ID"], keys["AWS_SECRET_ACCESS_KEY"])
    signer = SigV4Auth(credentials, "sagemaker", keys["AWS_DEFAULT_REGION"])
    requests = []
    for body in bodies:
        request = AWSRequest("POST", url, {"Content-Type": "application/json"}, body)
        signer.add_auth(request)
        requests.append(request_bytes(url, dict(request.headers.items()), body))
    return requests
