"""The S3 door as boto3 sees it, and the folders behind it."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import re
import urllib.error
import urllib.request
import zlib
from typing import Any

import httpx
import pytest
from boto3.s3.transfer import TransferConfig
from botocore.exceptions import ClientError
from hypothesis import given
from hypothesis import strategies as st

from fourfold.api.s3 import OPERATIONS
from fourfold.errors import S3Error
from fourfold.storage.buckets import About, Buckets
from tests.api.signing import signed

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def s3(server) -> Any:
    client = server.client("s3")
    client.create_bucket(Bucket="things")
    return client


def refused(call: Any, **members: Any) -> tuple[str, int]:
    """Code and status with which a call is refused."""
    with pytest.raises(ClientError) as error:
        call(**members)
    answer = error.value.response
    return answer["Error"]["Code"], answer["ResponseMetadata"]["HTTPStatusCode"]


def keys(page: dict[str, Any]) -> list[str]:
    return [one["Key"] for one in page.get("Contents", [])]


# Buckets


def test_buckets_come_and_go(s3):
    s3.create_bucket(Bucket="passing")
    assert "passing" in [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]]
    s3.head_bucket(Bucket="passing")
    assert s3.get_bucket_location(Bucket="passing")["LocationConstraint"] in (None, "us-east-1")
    s3.delete_bucket(Bucket="passing")
    assert refused(s3.head_bucket, Bucket="passing") == ("404", 404)


def test_a_bucket_that_holds_something_stays(s3):
    s3.create_bucket(Bucket="full")
    s3.put_object(Bucket="full", Key="k", Body=b"")
    assert refused(s3.delete_bucket, Bucket="full") == ("BucketNotEmpty", 409)


def test_missing_buckets_and_keys_have_awss_codes(s3):
    assert refused(s3.get_object, Bucket="things", Key="none") == ("NoSuchKey", 404)
    assert refused(s3.head_object, Bucket="things", Key="none") == ("404", 404)
    assert refused(s3.get_object, Bucket="no-such-bucket", Key="none") == ("NoSuchBucket", 404)
    assert refused(s3.list_objects_v2, Bucket="no-such-bucket") == ("NoSuchBucket", 404)
    assert refused(s3.put_object, Bucket="no-such-bucket", Key="k", Body=b"") == ("NoSuchBucket", 404)


# Objects


def test_an_object_is_a_plain_file_with_its_metadata(server, s3):
    body = bytes(range(256)) * 100
    put = s3.put_object(
        Bucket="things", Key="a/b c/ü.bin", Body=body, ContentType="text/csv", Metadata={"owner": "risk"}
    )
    assert put["ETag"] == f'"{hashlib.md5(body).hexdigest()}"'
    assert (server.folder / "buckets/things/a/b c/ü.bin").read_bytes() == body
    got = s3.get_object(Bucket="things", Key="a/b c/ü.bin")
    assert got["Body"].read() == body
    assert (got["ContentType"], got["Metadata"], got["ETag"]) == ("text/csv", {"owner": "risk"}, put["ETag"])
    head = s3.head_object(Bucket="things", Key="a/b c/ü.bin")
    assert (head["ContentLength"], head["ContentType"]) == (len(body), "text/csv")


def test_a_file_copied_in_by_hand_is_an_object(server, s3):
    folder = server.folder / "buckets" / "byhand" / "sub"
    folder.mkdir(parents=True)
    (folder / "rows.csv").write_bytes(b"1,2\n")
    assert "byhand" in [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]]
    assert keys(s3.list_objects_v2(Bucket="byhand")) == ["sub/rows.csv"]
    assert s3.get_object(Bucket="byhand", Key="sub/rows.csv")["Body"].read() == b"1,2\n"
    s3.put_object(Bucket="byhand", Key="sub/rows.csv", Body=b"7", ContentType="text/csv", Metadata={"a": "1"})
    (folder / "rows.csv").write_bytes(b"3,4,5\n")
    assert s3.head_object(Bucket="byhand", Key="sub/rows.csv")["Metadata"] == {}
    assert s3.head_object(Bucket="byhand", Key="sub/rows.csv")["ContentLength"] == 6
    assert s3.get_object(Bucket="byhand", Key="sub/rows.csv")["Body"].read() == b"3,4,5\n"


@pytest.mark.parametrize(
    ("asked", "got", "said"),
    [
        ("bytes=0-3", b"0123", "bytes 0-3/10"),
        ("bytes=7-", b"789", "bytes 7-9/10"),
        ("bytes=-2", b"89", "bytes 8-9/10"),
        ("bytes=8-100", b"89", "bytes 8-9/10"),
    ],
)
def test_a_range_of_an_object(s3, asked, got, said):
    s3.put_object(Bucket="things", Key="digits", Body=b"0123456789")
    answer = s3.get_object(Bucket="things", Key="digits", Range=asked)
    assert (answer["Body"].read(), answer["ContentRange"]) == (got, said)
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 206


def test_a_range_outside_of_an_object_is_416(s3):
    s3.put_object(Bucket="things", Key="digits", Body=b"0123456789")
    assert refused(s3.get_object, Bucket="things", Key="digits", Range="bytes=10-") == ("InvalidRange", 416)


def test_copies_keep_or_replace_the_metadata(s3):
    s3.put_object(Bucket="things", Key="from", Body=b"abc", Metadata={"a": "1"}, ContentType="text/plain")
    s3.copy_object(Bucket="things", Key="kept", CopySource={"Bucket": "things", "Key": "from"})
    got = s3.get_object(Bucket="things", Key="kept")
    assert (got["Body"].read(), got["Metadata"], got["ContentType"]) == (b"abc", {"a": "1"}, "text/plain")
    s3.copy_object(
        Bucket="things", Key="new", CopySource="things/from", MetadataDirective="REPLACE", Metadata={"b": "2"}
    )
    assert s3.head_object(Bucket="things", Key="new")["Metadata"] == {"b": "2"}
    assert refused(s3.copy_object, Bucket="things", Key="x", CopySource="things/none") == ("NoSuchKey", 404)


def test_deleting_one_object_or_many(s3):
    s3.create_bucket(Bucket="emptied")
    for number in range(5):
        s3.put_object(Bucket="emptied", Key=f"k{number}", Body=b"")
    s3.delete_object(Bucket="emptied", Key="k0")
    s3.delete_object(Bucket="emptied", Key="never there")
    named = [{"Key": key} for key in ("k1", "k2", "none")]
    deleted = s3.delete_objects(Bucket="emptied", Delete={"Objects": named})
    assert sorted(one["Key"] for one in deleted["Deleted"]) == ["k1", "k2", "none"]
    assert keys(s3.list_objects_v2(Bucket="emptied")) == ["k3", "k4"]
    s3.delete_objects(Bucket="emptied", Delete={"Objects": [{"Key": "k3"}, {"Key": "k4"}], "Quiet": True})
    s3.delete_bucket(Bucket="emptied")


# Lists


@pytest.fixture(scope="module")
def listed(s3) -> Any:
    s3.create_bucket(Bucket="listed")
    for key in ("a/1", "a/2", "a/b/3", "c", "d/4", "é"):
        s3.put_object(Bucket="listed", Key=key, Body=b"x")
    return s3


def test_lists_in_the_order_of_keys_with_prefix_and_delimiter(listed):
    assert keys(listed.list_objects_v2(Bucket="listed")) == ["a/1", "a/2", "a/b/3", "c", "d/4", "é"]
    assert keys(listed.list_objects_v2(Bucket="listed", Prefix="a/")) == ["a/1", "a/2", "a/b/3"]
    page = listed.list_objects_v2(Bucket="listed", Delimiter="/")
    assert keys(page) == ["c", "é"]
    assert [one["Prefix"] for one in page["CommonPrefixes"]] == ["a/", "d/"]
    page = listed.list_objects_v2(Bucket="listed", Prefix="a/", Delimiter="/")
    assert (keys(page), [one["Prefix"] for one in page["CommonPrefixes"]]) == (["a/1", "a/2"], ["a/b/"])
    assert keys(listed.list_objects_v2(Bucket="listed", StartAfter="a/2")) == ["a/b/3", "c", "d/4", "é"]


@pytest.mark.parametrize("operation", ["list_objects", "list_objects_v2"])
def test_lists_in_pages(listed, operation):
    pages = list(listed.get_paginator(operation).paginate(Bucket="listed", PaginationConfig={"PageSize": 4}))
    assert [keys(page) for page in pages] == [["a/1", "a/2", "a/b/3", "c"], ["d/4", "é"]]
    assert [page["IsTruncated"] for page in pages] == [True, False]


# Large objects


def test_an_object_in_parts(s3):
    upload = s3.create_multipart_upload(Bucket="things", Key="large", Metadata={"a": "1"})["UploadId"]
    name = {"Bucket": "things", "Key": "large", "UploadId": upload}
    bodies = [b"a" * 5 * MIB, b"b" * 5 * MIB, b"c"]
    tags = [s3.upload_part(**name, PartNumber=n, Body=body)["ETag"] for n, body in enumerate(bodies, 1)]
    assert [part["Size"] for part in s3.list_parts(**name)["Parts"]] == [5 * MIB, 5 * MIB, 1]
    assert upload in [one["UploadId"] for one in s3.list_multipart_uploads(Bucket="things")["Uploads"]]
    parts = [{"PartNumber": number, "ETag": tag} for number, tag in enumerate(tags, 1)]
    done = s3.complete_multipart_upload(**name, MultipartUpload={"Parts": parts})
    assert done["ETag"].endswith('-3"')
    got = s3.get_object(Bucket="things", Key="large")
    assert got["Body"].read() == b"".join(bodies)
    assert got["Metadata"] == {"a": "1"}


def test_an_upload_that_is_given_up_leaves_nothing(s3):
    upload = s3.create_multipart_upload(Bucket="things", Key="given-up")["UploadId"]
    name = {"Bucket": "things", "Key": "given-up", "UploadId": upload}
    s3.upload_part(**name, PartNumber=1, Body=b"x")
    s3.abort_multipart_upload(**name)
    assert refused(s3.list_parts, **name) == ("NoSuchUpload", 404)
    assert refused(s3.get_object, Bucket="things", Key="given-up") == ("NoSuchKey", 404)
    assert "given-up" not in keys(s3.list_objects_v2(Bucket="things"))


def test_boto3s_own_transfers(s3, tmp_path):
    body = b"0123456789abcdef" * MIB  # 16 MiB: boto3 sends and fetches it in parts, side by side
    s3.upload_fileobj(io.BytesIO(body), "things", "transfer")
    s3.download_file("things", "transfer", str(tmp_path / "file"))
    assert (tmp_path / "file").read_bytes() == body


# Who may come in


@pytest.mark.parametrize("version", [2, 4])
def test_presigned_addresses_get_and_put(server, s3, version):
    """boto3 presigns in version 2 unless told otherwise, so both are served."""
    client = server.client("s3", signature_version="s3v4") if version == 4 else s3
    client.put_object(Bucket="things", Key="other", Body=b"other")

    def presigned(operation: str, **members: Any) -> str:
        return client.generate_presigned_url(operation, Params={"Bucket": "things", **members}, ExpiresIn=60)

    put = presigned("put_object", Key="si gned", ContentType="text/csv")
    assert httpx.put(put, content=b"presigned", headers={"Content-Type": "text/csv"}).status_code == 200
    assert httpx.put(put, content=b"presigned", headers={"Content-Type": "text/html"}).status_code == 403
    get = presigned("get_object", Key="si gned", ResponseContentType="text/plain")
    answer = httpx.get(get)
    assert (answer.content, answer.headers["content-type"]) == (b"presigned", "text/plain")
    assert httpx.get(get.replace("Signature=", "Signature=0")).status_code == 403
    assert httpx.get(get.replace("/si%20gned?", "/other?")).status_code == 403
    old = get.replace("Expires=", "Expires=-") if version == 4 else re.sub(r"Expires=\d+", "Expires=1", get)
    refusal = httpx.get(old)
    assert refusal.status_code == 403
    assert refusal.headers["content-type"] == "application/xml"


def test_no_key_no_objects(server, s3):
    s3.put_object(Bucket="things", Key="private", Body=b"x")
    assert status_of(f"{server.url}/things/private") == 403
    assert status_of(f"{server.url}/things/private", {"Authorization": "Bearer ff_wrong"}) == 403
    assert server.get("/things/private") == b"x"


def test_a_body_that_was_changed_on_its_way_is_refused(server, s3):
    url = f"{server.url}/things/changed"
    headers, _ = signed(server.keys, "PUT", url, digest=hashlib.sha256(b"what was signed").hexdigest(), service="s3")
    answer = httpx.put(url, content=b"what was sent!!", headers=headers)
    assert (answer.status_code, "XAmzContentSHA256Mismatch" in answer.text) == (400, True)
    assert refused(s3.head_object, Bucket="things", Key="changed") == ("404", 404)


def test_a_wrong_checksum_is_refused(server, s3):
    url = f"{server.url}/things/checked"
    for name in ("content-md5", "x-amz-checksum-crc32", "x-amz-checksum-sha256"):
        headers, _ = signed(server.keys, "PUT", url, service="s3", more={name: "AAAAAA=="})
        answer = httpx.put(url, content=b"abc", headers=headers)
        assert (answer.status_code, "BadDigest" in answer.text) == (400, True), name
    assert refused(s3.head_object, Bucket="things", Key="checked") == ("404", 404)


def test_a_body_in_signed_chunks(server, s3):
    url = f"{server.url}/things/chunked"
    pieces = [b"a" * 70_000, b"b" * 10, b""]
    digest = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
    length = {"x-amz-decoded-content-length": "70010", "content-encoding": "aws-chunked"}
    headers, signer = signed(server.keys, "PUT", url, digest=digest, service="s3", more=length)

    def chunks(change: bytes = b"") -> bytes:
        before, framed = signer.signature, b""
        for piece in pieces:
            before = signer.chunk(before, piece)
            framed += b"%x;chunk-signature=%b\r\n%b\r\n" % (len(piece), before.encode(), piece)
        return framed.replace(b"bbbbb", change, 1) if change else framed

    assert httpx.put(url, content=chunks(), headers=headers).status_code == 200
    got = s3.get_object(Bucket="things", Key="chunked")
    assert got["Body"].read() == b"".join(pieces)
    assert "ContentEncoding" not in got
    answer = httpx.put(url, content=chunks(b"ccccc"), headers=headers)
    assert (answer.status_code, "SignatureDoesNotMatch" in answer.text) == (403, True)
    for broken in (chunks()[:-20], chunks()[:80_0], b"zz\r\n", b"", b"5\r\nab"):
        assert httpx.put(url, content=broken, headers=headers).status_code in (400, 403)


def test_a_body_in_chunks_with_a_checksum_after_it(server, s3):
    url = f"{server.url}/things/trailed"
    more = {"x-amz-decoded-content-length": "3", "x-amz-trailer": "x-amz-checksum-crc32"}
    headers, _ = signed(server.keys, "PUT", url, digest="STREAMING-UNSIGNED-PAYLOAD-TRAILER", service="s3", more=more)
    crc = base64.b64encode(zlib.crc32(b"abc").to_bytes(4, "big"))
    body = b"3\r\nabc\r\n0\r\nx-amz-checksum-crc32:" + crc + b"\r\n\r\n"
    assert httpx.put(url, content=body, headers=headers).status_code == 200
    assert s3.get_object(Bucket="things", Key="trailed")["Body"].read() == b"abc"
    assert "BadDigest" in httpx.put(url, content=body.replace(b"abc", b"abd"), headers=headers).text


def test_what_is_not_implemented_says_so(s3):
    assert refused(s3.get_bucket_acl, Bucket="things") == ("NotImplemented", 501)
    assert refused(s3.get_object_tagging, Bucket="things", Key="x") == ("NotImplemented", 501)


def test_a_large_copy_goes_in_parts(s3):
    body = b"0123456789abcdef" * MIB
    s3.upload_fileobj(io.BytesIO(body), "things", "source")
    s3.copy({"Bucket": "things", "Key": "source"}, "things", "copied", Config=TransferConfig(multipart_threshold=MIB))
    assert s3.get_object(Bucket="things", Key="copied")["Body"].read() == body


def test_conditions(s3):
    etag = s3.put_object(Bucket="things", Key="conditional", Body=b"x")["ETag"]
    name = {"Bucket": "things", "Key": "conditional"}
    assert refused(s3.get_object, **name, IfNoneMatch=etag) == ("304", 304)
    assert refused(s3.get_object, **name, IfMatch='"other"')[1] == 412
    assert s3.get_object(**name, IfMatch=etag)["Body"].read() == b"x"
    assert refused(s3.put_object, **name, Body=b"y", IfNoneMatch="*") == ("PreconditionFailed", 412)


@given(st.sets(st.text("ab-/", min_size=1, max_size=5), max_size=12), st.data())
def test_lists_are_those_of_a_sorted_set_of_keys(tmp_path_factory, drawn, data):
    """Against the definition: sort, filter, roll up, cut into pages."""
    buckets = Buckets(tmp_path_factory.mktemp("lists"))
    buckets.create("bucket")
    made = set()
    for key in drawn:
        with contextlib.suppress(S3Error):  # a key that cannot be a file, or is the folder of another
            buckets.put("bucket", key, buckets.incoming("bucket", key), About())
            made.add(key)
    prefix = data.draw(st.text("ab-/", max_size=3))
    delimiter = data.draw(st.sampled_from(["", "/", "-"]))
    expected = []
    for key in sorted(made):
        if key.startswith(prefix):
            at = key.find(delimiter, len(prefix)) if delimiter else -1
            shown = key if at < 0 else key[: at + 1]
            if shown not in expected:
                expected.append(shown)
    found, after = [], ""
    while True:
        page = buckets.page("bucket", prefix, delimiter, after, 2)
        found += sorted([one.key for one in page.entries] + page.prefixes)
        if not page.last:
            break
        assert len(page.entries) + len(page.prefixes) == 2
        after = page.last
    assert found == expected


@pytest.mark.parametrize("key", ["../outside", "a/../../outside", "a//b", ".", ".fourfold/new/x", "end/"])
def test_no_key_leads_out_of_its_bucket_or_into_what_is_the_servers(server, s3, key):
    assert refused(s3.put_object, Bucket="things", Key=key, Body=b"evil") == ("InvalidArgument", 400)
    assert refused(s3.put_object, Bucket="things", Key="x" * 1025, Body=b"") == ("KeyTooLongError", 400)
    assert not (server.folder / "outside").exists()
    assert not (server.folder / "buckets" / "outside").exists()


def test_a_path_without_a_bucket_leads_to_nothing(server, s3):
    s3.put_object(Bucket="things", Key="there", Body=b"x")
    bearer = {"Authorization": f"Bearer {server.keys['api_key']}"}
    assert status_of(f"{server.url}/things/there", bearer) == 200
    assert status_of(f"{server.url}//things/there", bearer) == 404


def test_a_key_is_an_object_or_the_folder_of_others(s3):
    s3.put_object(Bucket="things", Key="both/of", Body=b"x")
    assert refused(s3.put_object, Bucket="things", Key="both", Body=b"x") == ("InvalidArgument", 400)
    assert refused(s3.put_object, Bucket="things", Key="both/of/them", Body=b"x") == ("InvalidArgument", 400)


def test_what_is_listed_as_compatible_is_an_operation_of_s3(s3):
    assert set(OPERATIONS) <= set(s3.meta.service_model.operation_names)


def status_of(url: str, headers: dict[str, str] | None = None) -> int:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers or {})) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        with error:
            return error.code
