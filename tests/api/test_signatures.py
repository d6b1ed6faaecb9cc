"""Who may come in: SigV4 as header and presigned, bearer tokens, and AWS's own error for each way to be wrong."""

from __future__ import annotations

import base64
import json
import time
import uuid
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from botocore.auth import SigV4Auth, SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import ClientError
from hypothesis import given
from hypothesis import strategies as st

from fourfold.api.canonical import Headers
from fourfold.api.heads import Shape
from fourfold.api.keys import Keys
from fourfold.api.signatures.verifier import Verifier
from fourfold.clock import ManualClock
from fourfold.errors import AuthenticationError
from fourfold.pool.multimodel import TARGET_MODEL
from tests.api.signing import presigned, signed

URL = "http://127.0.0.1:4004/endpoints/fraud/invocations"
NOW = 1_790_000_000.0


class Door:
    """A verifier with one key, on a clock that stands."""

    def __init__(self, folder: Any, now: float = NOW) -> None:
        self.keys = Keys(folder)
        key = self.keys.create()
        self.key = {"access_key_id": key.access_key_id, "secret_access_key": key.secret_access_key}
        self.api_key = key.api_key
        self.clock = ManualClock(now)
        self.verifier = Verifier(self.keys, self.clock)

    def ask(self, headers: dict[str, str], url: str = URL, body: bytes = b"", method: str = "POST") -> Any:
        target = url.partition("4004")[2].encode()
        pairs = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        return self.verifier.verify(method.encode(), target, pairs, body)

    def refusal(self, *args: Any, **members: Any) -> str:
        with pytest.raises(AuthenticationError) as error:
            self.ask(*args, **members)
        assert error.value.message
        return error.value.code


@pytest.fixture
def door(tmp_path) -> Door:
    return Door(tmp_path / "keys")


def test_a_signed_request_comes_in_and_tells_who_it_is(door):
    headers, _ = signed(door.key, "POST", URL, body=b"row", at=NOW, region="eu-west-1")
    identity = door.ask(headers, body=b"row")
    assert identity.access_key_id == door.key["access_key_id"]
    assert (identity.service, identity.region) == ("sagemaker", "eu-west-1")


def test_each_way_to_be_wrong_has_awss_code(door):
    headers, _ = signed(door.key, "POST", URL, body=b"row", at=NOW)
    authorization = headers["authorization"]
    assert door.refusal(headers, body=b"another") == "InvalidSignatureException"
    assert door.refusal(headers, body=b"row", method="PUT") == "InvalidSignatureException"
    assert door.refusal(headers, url=URL.replace("fraud", "other"), body=b"row") == "InvalidSignatureException"
    assert door.refusal(headers, url=URL + "?a=b", body=b"row") == "InvalidSignatureException"
    assert door.refusal(headers | {"x-amz-date": "20260101T000000Z"}, body=b"row") == "InvalidSignatureException"
    wrong = authorization[:-1] + ("0" if authorization[-1] != "0" else "1")
    assert door.refusal(headers | {"authorization": wrong}, body=b"row") == "InvalidSignatureException"
    other = authorization.replace(door.key["access_key_id"], "AKIAIOSFODNN7EXAMPLE")
    assert door.refusal(headers | {"authorization": other}, body=b"row") == "UnrecognizedClientException"
    liar, _ = signed(door.key | {"secret_access_key": "guessed"}, "POST", URL, body=b"row", at=NOW)
    assert door.refusal(liar, body=b"row") == "InvalidSignatureException"
    assert door.refusal({"host": "x"}) == "MissingAuthenticationTokenException"
    assert door.refusal({"authorization": "Basic dXNlcjpwYXNz"}) == "IncompleteSignatureException"
    for part in ("Credential=", "SignedHeaders=", "Signature="):
        assert door.refusal({"authorization": authorization.replace(part, "X=")}) == "IncompleteSignatureException"
    short = authorization.replace("/aws4_request", "")
    assert door.refusal(headers | {"authorization": short}, body=b"row") == "IncompleteSignatureException"


@pytest.mark.parametrize(("offset", "comes_in"), [(-301, False), (-299, True), (299, True), (301, False)])
def test_a_signature_holds_for_five_minutes_around_its_time(door, offset, comes_in):
    headers, _ = signed(door.key, "POST", URL, at=NOW + offset)
    if comes_in:
        assert door.ask(headers)
        return
    with pytest.raises(AuthenticationError, match="expired" if offset < 0 else "not yet current") as error:
        door.ask(headers)
    assert error.value.code == "InvalidSignatureException"


def test_a_header_that_is_signed_must_be_there_as_it_was(door):
    headers, _ = signed(door.key, "POST", URL, at=NOW, more={"content-type": "text/csv", "x-amz-meta": "a   b "})
    with pytest.raises(AuthenticationError):
        door.ask(headers | {"content-type": "application/json"})
    with pytest.raises(AuthenticationError):
        door.ask({name: value for name, value in headers.items() if name != "content-type"})


def test_services_of_the_query_protocol_have_codes_of_their_own(door):
    headers, _ = signed(door.key, "POST", URL, at=NOW, service="sts")
    assert door.refusal(headers, body=b"changed") == "SignatureDoesNotMatch"
    unknown = headers["authorization"].replace(door.key["access_key_id"], "AKIAIOSFODNN7EXAMPLE")
    assert door.refusal(headers | {"authorization": unknown}) == "InvalidClientTokenId"


def test_the_day_of_the_scope_is_the_day_of_the_signature(door):
    headers, _ = signed(door.key, "POST", URL, at=NOW)
    day = headers["x-amz-date"][:8]
    other = headers["authorization"].replace(f"/{day}/", "/20200101/")
    assert door.refusal(headers | {"authorization": other}) == "InvalidSignatureException"


async def test_a_new_day_has_a_new_signing_key(door):
    for _ in range(3):
        headers, _ = signed(door.key, "POST", URL, at=door.clock.now())
        assert door.ask(headers)
        await door.clock.advance(86400)


def test_keys_that_are_made_or_deleted_count_at_once(door):
    key = door.keys.create()
    other = Keys(door.keys._folder)
    headers = {"authorization": f"Bearer {key.api_key}"}
    assert door.ask(headers).access_key_id == key.access_key_id
    other.delete(key.access_key_id)
    door.keys.refresh()
    assert door.refusal(headers) == "UnrecognizedClientException"


def test_bearer_tokens(door):
    for authorization in (f"Bearer {door.api_key}", f"bearer  {door.api_key} "):
        assert door.ask({"authorization": authorization}).access_key_id == door.key["access_key_id"]
    for token in ("", "ff_", "ff_wrong", door.api_key + "x", door.api_key[:-1], "sagemaker-api-key-%%%"):
        assert door.refusal({"authorization": f"Bearer {token}"}) in (
            "UnrecognizedClientException", "IncompleteSignatureException",
        )  # fmt: skip


def test_a_presigned_request_comes_in_until_it_expires(door):
    url = presigned(door.key, "POST", URL, b"row", 300, at=NOW - 299)
    headers = {"host": "127.0.0.1:4004"}
    assert door.ask(headers, url=url, body=b"row").service == "sagemaker"
    assert door.refusal(headers, url=url, body=b"other") == "InvalidSignatureException"
    assert door.refusal(headers, url=url.replace("fraud", "other"), body=b"row") == "InvalidSignatureException"
    assert door.refusal(headers, url=url.replace("X-Amz-Date", "X-Date"), body=b"row") == "IncompleteSignatureException"
    for age, expires in ((301, 300), (0, 0), (0, 7 * 86400 + 1), (-301, 300)):
        url = presigned(door.key, "POST", URL, b"row", expires, at=NOW - age)
        assert door.refusal(headers, url=url, body=b"row") == "InvalidSignatureException", (age, expires)


def test_the_sagemaker_sdks_token_is_a_presigned_address(tmp_path):
    door = Door(tmp_path / "keys", time.time())
    credentials = Credentials(door.key["access_key_id"], door.key["secret_access_key"])
    request = AWSRequest("POST", "https://sagemaker.us-east-1.amazonaws.com/?Action=CallWithBearerToken")
    SigV4QueryAuth(credentials, "sagemaker", "us-east-1", expires=3600).add_auth(request)
    token = base64.b64encode(request.url.encode()).decode()
    assert door.ask({"authorization": f"Bearer sagemaker-api-key-{token}"}).service == "sagemaker"
    changed = base64.b64encode(request.url.replace("Expires=3600", "Expires=9999").encode()).decode()
    assert door.refusal({"authorization": f"Bearer sagemaker-api-key-{changed}"}) == "InvalidSignatureException"


names = st.text("abcXYZ019-._~ /%é", min_size=1, max_size=12)


@given(
    path=st.lists(names, max_size=3),
    query=st.lists(st.tuples(names, names), max_size=3, unique_by=lambda pair: pair[0]),
    body=st.binary(max_size=50),
    header=st.text("abc  -", max_size=10),
)
def test_whatever_botocore_signs_comes_in(tmp_path_factory, path, query, body, header):
    door = Door(tmp_path_factory.mktemp("keys"), time.time())
    target = "/" + "/".join(quote(part, safe="") for part in path)
    if query:
        target += "?" + "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in query)
    request = AWSRequest("POST", f"http://127.0.0.1:4004{target}", data=body, headers={"X-Amz-Thing": header})
    credentials = Credentials(door.key["access_key_id"], door.key["secret_access_key"])
    SigV4Auth(credentials, "sagemaker", "us-east-1").add_auth(request)
    headers = dict(request.headers.items()) | {"host": "127.0.0.1:4004"}
    assert door.ask(headers, url=f"http://127.0.0.1:4004{target}", body=body)


# Heads that come again


class Repeating:
    """A client whose head the fast lane has read, and sends again with another body."""

    def __init__(self, door: Door, signs: tuple[str, ...] = ()) -> None:
        self.door = door
        self.signs = signs
        raw, target, pairs = self.head(b"first")
        shape = Shape.of(raw, target, pairs)
        assert shape is not None
        self.shape = shape
        self.known = door.verifier.known(b"POST", target, pairs, shape.holes)

    def head(self, body: bytes, at: float = NOW, model: str = "a/m1.onnx") -> tuple[bytes, bytes, Headers]:
        varying = {
            "content-length": str(len(body)),
            "amz-sdk-invocation-id": str(uuid.uuid4()),
            TARGET_MODEL: model,
        }
        more = {name: varying.pop(name) for name in self.signs}
        headers, _ = signed(self.door.key, "POST", URL, body=body, at=at, more=more)
        pairs = [(name.encode(), value.encode()) for name, value in (headers | varying).items()]
        target = URL.partition("4004")[2].encode()
        lines = b"".join(b"%b: %b\r\n" % pair for pair in pairs)
        return b"POST %b HTTP/1.1\r\n%b\r\n" % (target, lines), target, pairs

    def send(self, head: bytes, body: bytes) -> None:
        assert self.shape.fits(head + body, len(body)), "another head"
        self.known.admit(head + body, body)

    def refused(self, head: bytes, body: bytes) -> str:
        with pytest.raises(AuthenticationError) as error:
            self.send(head, body)
        return error.value.code


@pytest.mark.parametrize(
    "signs",
    [(), ("amz-sdk-invocation-id",), ("content-length",), ("amz-sdk-invocation-id", "content-length"), (TARGET_MODEL,)],
)
def test_a_head_that_comes_again_is_checked_again(door, signs):
    client = Repeating(door, signs)
    for body, at in ((b"other", NOW), (b"third", NOW - 299), (b"later", NOW + 299)):
        client.send(client.head(body, at)[0], body)
    head, _, pairs = client.head(b"other")
    stamp, signature = dict(pairs)[b"x-amz-date"], dict(pairs)[b"authorization"][-64:]
    assert client.refused(head, b"oTher") == "InvalidSignatureException"
    assert client.refused(head.replace(signature, signature[::-1]), b"other") == "InvalidSignatureException"
    for other in (stamp[:-2] + b"9Z", b"20200101T000000Z", b"2026\r\nx: 123:30Z", b"x" * 16):
        assert client.refused(head.replace(stamp, other), b"other") == "InvalidSignatureException"
    for at in (NOW - 301, NOW + 301):
        assert client.refused(client.head(b"other", at)[0], b"other") == "InvalidSignatureException"
    if "amz-sdk-invocation-id" in signs:
        invocation = dict(pairs)[b"amz-sdk-invocation-id"]
        assert client.refused(head.replace(invocation, invocation[::-1]), b"other") == "InvalidSignatureException"
    client.send(client.head(b"other", model="b/m2.onnx")[0], b"other")
    if TARGET_MODEL in signs:
        assert client.refused(head.replace(b"a/m1.onnx", b"a/m2.onnx"), b"other") == "InvalidSignatureException"
    door.keys.delete(door.key["access_key_id"])
    assert client.refused(head, b"other") == "UnrecognizedClientException"


def test_a_head_of_the_shape_but_for_what_may_change_is_another(door):
    client = Repeating(door)
    head, _, pairs = client.head(b"other")
    invocation = dict(pairs)[b"amz-sdk-invocation-id"]
    for changed in (
        head.replace(b"host", b"hos1"),
        head.replace(b"content-length: 5", b"content-length: 6"),
        head.replace(invocation, b"a\r\nx: " + invocation[6:]),
        head.replace(b"a/m1.onnx", b"a\r\nx: nnx"),
        head.replace(b"a/m1.onnx", b" /m1.onnx"),
        head.replace(door.key["access_key_id"].encode(), b"AKIAIOSFODNN7EXAMPLE"),
    ):
        assert not client.shape.fits(changed + b"other", 5)
        assert len(changed) == len(head)


def test_a_bearer_token_that_comes_again_is_looked_up_again(door):
    key = door.keys.create()
    known = door.verifier.known(b"POST", b"/", [(b"authorization", f"Bearer {key.api_key}".encode())], {})
    known.admit(b"", b"")
    door.keys.delete(key.access_key_id)
    with pytest.raises(AuthenticationError):
        known.admit(b"", b"")


def test_what_must_be_read_whole_is_not_known(door):
    for authorization in ("", "Basic x", "Bearer sagemaker-api-key-x", "AWS4-HMAC-SHA256 Credential=a"):
        headers = [(b"authorization", authorization.encode()), (b"x-amz-date", b"20260101T000000Z")]
        assert door.verifier.known(b"POST", b"/", headers, {}) is None


# On a running server


def test_the_errors_reach_boto3_in_every_protocol(server):
    for service, call, code in (
        ("sagemaker", lambda client: client.list_models(), "UnrecognizedClientException"),
        ("sagemaker-runtime", lambda client: client.invoke_endpoint(EndpointName="x", Body=b""),
         "UnrecognizedClientException"),
        ("sts", lambda client: client.get_caller_identity(), "InvalidClientTokenId"),
        ("scheduler", lambda client: client.list_schedules(), "UnrecognizedClientException"),
        ("s3", lambda client: client.list_buckets(), "InvalidAccessKeyId"),
    ):  # fmt: skip
        client = server.client(service)
        client._request_signer._credentials.access_key = "AKIAIOSFODNN7EXAMPLE"
        with pytest.raises(ClientError) as error:
            call(client)
        assert error.value.response["Error"]["Code"] == code, service
        assert error.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403


def test_nothing_but_health_is_served_to_a_stranger(server):
    paths = ["/", "/metrics", "/fourfold/endpoints/x/logs", "/endpoints/x/invocations", "/bucket/key", "/schedules"]
    for path in [*paths, "/endpoints/x/invocations-response-stream", "/healthz/", "/endpoints//invocations"]:
        for method in ("GET", "POST", "PUT", "DELETE"):
            answer = httpx.request(method, server.url + path)
            assert answer.status_code == 403, (method, path)
    assert httpx.get(server.url + "/healthz").status_code == 200


def test_an_invocation_with_a_presigned_address(server, onnx_model):
    server.deploy("presigned", onnx_model)
    body = json.dumps([[0.1, 0.2, 0.3, 0.4]]).encode()
    url = presigned(server.keys, "POST", f"{server.url}/endpoints/presigned/invocations", body, 60)
    headers = {"content-type": "application/json"}
    assert httpx.post(url, content=body, headers=headers).status_code == 200
    refused = httpx.post(url, content=body + b" ", headers=headers)
    assert (refused.status_code, refused.headers["x-amzn-errortype"]) == (403, "InvalidSignatureException")
