"""SNS as a client and a receiver meet it: boto3 on one side, a real HTTP server on the other, kills in between."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from botocore.exceptions import ClientError
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding

from tests.server import LiveServer
from tests.test_serve import eventually
from tests.topics.receiver import Receiver

FAST = json.dumps({"healthyRetryPolicy": {"numRetries": 1, "minDelayTarget": 0.05, "maxDelayTarget": 0.05}})


@pytest.fixture(scope="module")
def server(tmp_path_factory, queues):
    server = LiveServer(tmp_path_factory.mktemp("sns") / "data", "--sqs-endpoint", queues.url)
    yield server
    assert server.stop() == 0


@pytest.fixture(scope="module")
def queues():
    """An SQS endpoint with one queue, `jobs`."""
    queues = Queues()
    yield queues
    queues.close()


@pytest.fixture
def receiver():
    receiver = Receiver()
    yield receiver
    receiver.close()


class Queues:
    def __init__(self) -> None:
        self.sent: list[dict] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                params = json.loads(self.rfile.read(int(self.headers["content-length"])))
                status, answer = outer.answer(self.headers["x-amz-target"], params)
                body = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("content-type", "application/x-amz-json-1.0")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def answer(self, target: str, params: dict) -> tuple[int, dict]:
        if target == "AmazonSQS.GetQueueUrl":
            if params["QueueName"] != "jobs":
                kind = "com.amazonaws.sqs#QueueDoesNotExist"
                return 400, {"__type": kind, "message": "The specified queue does not exist."}
            return 200, {"QueueUrl": f"{self.url}/123456789012/jobs"}
        self.sent.append(params)
        digest = hashlib.md5(params["MessageBody"].encode()).hexdigest()
        return 200, {"MessageId": "m", "MD5OfMessageBody": digest}

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def subscribe(server: LiveServer, topic: str, receiver: Receiver, path: str = "/hook", **attributes: str) -> str:
    """Subscribe and wait until the receiver has confirmed; returns the subscription's ARN."""
    sns = server.client("sns")
    arn = sns.subscribe(
        TopicArn=topic, Protocol="http", Endpoint=receiver.url + path, Attributes=attributes, ReturnSubscriptionArn=True
    )["SubscriptionArn"]
    eventually(
        lambda: sns.get_subscription_attributes(SubscriptionArn=arn)["Attributes"]["PendingConfirmation"] == "false"
    )
    return arn


def visit(url: str) -> tuple[int, bytes]:
    """GET without credentials: status and body."""
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def dead_letters(server: LiveServer, name: str) -> list[dict]:
    return json.loads(server.get(f"/fourfold/topics/{name}/dead-letters"))


def test_subscribe_confirm_publish_unsubscribe(server, receiver):
    sns = server.client("sns")
    topic = sns.create_topic(Name="hello", Tags=[{"Key": "team", "Value": "a"}])["TopicArn"]
    assert topic == "arn:aws:sns:us-east-1:123456789012:hello"
    assert sns.create_topic(Name="hello")["TopicArn"] == topic
    answer = sns.subscribe(TopicArn=topic, Protocol="http", Endpoint=receiver.url + "/hook")
    assert answer["SubscriptionArn"] == "pending confirmation"

    def confirmed() -> list[dict]:
        found = sns.list_subscriptions_by_topic(TopicArn=topic)["Subscriptions"]
        return [one for one in found if one["SubscriptionArn"] != "PendingConfirmation"]

    eventually(confirmed)
    [subscription] = confirmed()
    assert subscription in sns.list_subscriptions()["Subscriptions"]
    attributes = sns.get_topic_attributes(TopicArn=topic)["Attributes"]
    assert (attributes["SubscriptionsConfirmed"], attributes["SubscriptionsPending"]) == ("1", "0")

    message_id = sns.publish(
        TopicArn=topic,
        Subject="A subject",
        Message='{"ä": 1}',
        MessageAttributes={
            "kind": {"DataType": "String", "StringValue": "x"},
            "raw": {"DataType": "Binary", "BinaryValue": b"\0\1"},
        },
    )["MessageId"]
    eventually(lambda: receiver.notifications)
    [got] = receiver.notifications
    envelope = got.json()
    assert got.path == "/hook"
    assert got.headers["x-amz-sns-message-id"] == envelope["MessageId"] == message_id
    assert got.headers["x-amz-sns-topic-arn"] == envelope["TopicArn"] == topic
    assert got.headers["x-amz-sns-subscription-arn"] == subscription["SubscriptionArn"]
    assert got.headers["content-type"] == "text/plain; charset=UTF-8"
    assert (envelope["Type"], envelope["Subject"], envelope["Message"]) == ("Notification", "A subject", '{"ä": 1}')
    assert envelope["MessageAttributes"] == {
        "kind": {"Type": "String", "Value": "x"},
        "raw": {"Type": "Binary", "Value": "AAE="},
    }

    assert visit(envelope["UnsubscribeURL"])[0] == 200
    assert sns.list_subscriptions_by_topic(TopicArn=topic)["Subscriptions"] == []
    sns.delete_topic(TopicArn=topic)
    assert topic not in [one["TopicArn"] for one in sns.list_topics()["Topics"]]


def test_confirming_with_the_token_through_the_api(server):
    quiet = Receiver(confirm=False)
    sns = server.client("sns")
    topic = sns.create_topic(Name="token")["TopicArn"]
    sns.subscribe(TopicArn=topic, Protocol="http", Endpoint=quiet.url)
    eventually(lambda: quiet.received)
    [asked] = quiet.received
    assert asked.type == asked.json()["Type"] == "SubscriptionConfirmation"
    arn = sns.confirm_subscription(TopicArn=topic, Token=asked.json()["Token"], AuthenticateOnUnsubscribe="true")[
        "SubscriptionArn"
    ]
    sns.publish(TopicArn=topic, Message="x")
    eventually(lambda: quiet.notifications)
    status, answer = visit(quiet.notifications[0].json()["UnsubscribeURL"])
    assert status == 400
    assert b"signed request" in answer
    sns.unsubscribe(SubscriptionArn=arn)
    assert sns.list_subscriptions_by_topic(TopicArn=topic)["Subscriptions"] == []
    quiet.close()


@pytest.mark.parametrize(("version", "digest"), [("1", hashes.SHA1()), ("2", hashes.SHA256())])
def test_both_signatures_hold_as_a_receiver_checks_them(server, receiver, version, digest):
    sns = server.client("sns")
    topic = sns.create_topic(Name=f"signed-{version}", Attributes={"SignatureVersion": version})["TopicArn"]
    subscribe(server, topic, receiver)
    sns.publish(TopicArn=topic, Subject="s", Message="m")
    sns.publish(TopicArn=topic, Message="without a subject")
    eventually(lambda: len(receiver.notifications) == 2)
    sns.unsubscribe(SubscriptionArn=receiver.notifications[0].headers["x-amz-sns-subscription-arn"])
    eventually(lambda: receiver.received[-1].type == "UnsubscribeConfirmation")
    secret = sns.get_topic_attributes(TopicArn=topic)["Attributes"]["FourfoldSigningSecret"]
    for got in receiver.received:
        envelope = got.json()
        assert envelope["SignatureVersion"] == version
        certificate = x509.load_pem_x509_certificate(visit(envelope["SigningCertURL"])[1])
        # The members that SNS's documentation lists, in its order.
        members = ["Message", "MessageId", "SubscribeURL", "Subject", "Timestamp", "Token", "TopicArn", "Type"]
        text = "".join(f"{name}\n{envelope[name]}\n" for name in members if name in envelope)
        signature = base64.b64decode(envelope["Signature"])
        certificate.public_key().verify(signature, text.encode(), padding.PKCS1v15(), digest)

        stamp, _, given = got.headers["x-fourfold-signature"].removeprefix("t=").partition(",v1=")
        wanted = hmac.new(secret.encode(), f"{stamp}.".encode() + got.body, hashlib.sha256).hexdigest()
        assert hmac.compare_digest(given, wanted)
        assert abs(int(stamp) - time.time()) < 60


def test_raw_delivery_is_the_message_alone(server, receiver):
    sns = server.client("sns")
    topic = sns.create_topic(Name="raw")["TopicArn"]
    subscribe(server, topic, receiver, RawMessageDelivery="true")
    message = {"default": "for all", "http": "for http"}
    sns.publish(TopicArn=topic, Message=json.dumps(message), MessageStructure="json")
    eventually(lambda: receiver.notifications)
    [got] = receiver.notifications
    assert got.body == b"for http"
    assert got.headers["x-amz-sns-rawdelivery"] == "true"


def test_a_batch_of_messages(server, receiver):
    sns = server.client("sns")
    topic = sns.create_topic(Name="batches")["TopicArn"]
    subscribe(server, topic, receiver, RawMessageDelivery="true", FilterPolicy='{"kind": [{"exists": false}]}')
    kind = {"kind": {"DataType": "String", "StringValue": "other"}}
    entries = [
        {"Id": "a", "Message": "first"},
        {"Id": "b", "Message": "x" * 262_145},
        {"Id": "c", "Message": "filtered", "MessageAttributes": kind},
        {"Id": "d", "Message": "last", "Subject": "s"},
    ]
    answer = sns.publish_batch(TopicArn=topic, PublishBatchRequestEntries=entries)
    assert [entry["Id"] for entry in answer["Successful"]] == ["a", "c", "d"]
    [failed] = answer["Failed"]
    assert (failed["Id"], failed["Code"], failed["SenderFault"]) == ("b", "InvalidParameter", True)
    eventually(lambda: len(receiver.notifications) == 2)
    assert {got.body for got in receiver.notifications} == {b"first", b"last"}
    for wrong, error in (
        (entries[:1] * 2, "BatchEntryIdsNotDistinct"),
        ([{"Id": str(number), "Message": "m"} for number in range(11)], "TooManyEntriesInBatchRequest"),
    ):
        with pytest.raises(ClientError) as refused:
            sns.publish_batch(TopicArn=topic, PublishBatchRequestEntries=wrong)
        assert refused.value.response["Error"]["Code"] == error


def test_a_receiver_that_fails_is_tried_again_and_then_listed(server):
    flaky = Receiver(503, 200, 500, 429, 404)
    sns = server.client("sns")
    topic = sns.create_topic(Name="flaky")["TopicArn"]
    subscribe(server, topic, flaky, DeliveryPolicy=FAST)
    sns.publish(TopicArn=topic, Message="arrives")
    eventually(lambda: flaky.messages == ["arrives"] * 2)
    assert dead_letters(server, "flaky") == []
    sns.publish(TopicArn=topic, Message="given up")
    eventually(lambda: dead_letters(server, "flaky"))
    [letter] = dead_letters(server, "flaky")
    assert (letter["message"], letter["attempts"]) == ("given up", 2)
    assert "answered 429" in letter["reason"]
    sns.publish(TopicArn=topic, Message="refused")
    eventually(lambda: len(dead_letters(server, "flaky")) == 2)
    assert dead_letters(server, "flaky")[0]["attempts"] == 1
    flaky.close()


def test_the_command_line_shows_dead_letters_and_sends_them_again(server):
    gone = Receiver()
    sns = server.client("sns")
    topic = sns.create_topic(Name="cli")["TopicArn"]
    subscribe(server, topic, gone, DeliveryPolicy=FAST)
    gone.statuses = [404]
    sns.publish(TopicArn=topic, Message="lost and found")
    eventually(lambda: dead_letters(server, "cli"))

    def run(*arguments: str) -> str:
        options = ["--endpoint-url", server.url, "--data-dir", str(server.folder)]
        command = [sys.executable, "-m", "fourfold", "topics", *arguments, *options]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assert json.loads(run("list", "--json"))[0].keys() >= {"name", "confirmed", "pending", "dead"}
    assert "lost and found" in run("dead-letters", "cli")
    assert run("redrive", "cli") == "1 messages are on their way again\n"
    eventually(lambda: gone.messages == ["lost and found"] * 2)
    assert json.loads(run("dead-letters", "cli", "--json")) == []
    gone.close()


def test_a_queue_subscribes_at_once(server, queues):
    sns = server.client("sns")
    topic = sns.create_topic(Name="queue")["TopicArn"]
    arn = sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint="arn:aws:sqs:us-east-1:123456789012:jobs")
    assert arn["SubscriptionArn"].startswith(topic)
    sns.publish(TopicArn=topic, Message="to a queue")
    eventually(lambda: queues.sent)
    [sent] = queues.sent
    assert sent["QueueUrl"].endswith("/jobs")
    assert json.loads(sent["MessageBody"])["Message"] == "to a queue"
    assert sent["MessageAttributes"]["x-fourfold-signature"]["StringValue"].startswith("t=")

    sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint="arn:aws:sqs:us-east-1:123456789012:nowhere")
    sns.publish(TopicArn=topic, Message="to nowhere")
    eventually(lambda: dead_letters(server, "queue"))
    assert "does not exist" in dead_letters(server, "queue")[0]["reason"]


def test_dead_letters_of_schedules_go_to_their_queue(server, queues):
    server.client("scheduler").create_schedule(
        Name="broken",
        ScheduleExpression="rate(1 days)",
        FlexibleTimeWindow={"Mode": "OFF"},
        Target={
            "Arn": "arn:aws:scheduler:::aws-sdk:sagemaker:createTransformJob",
            "RoleArn": "arn:aws:iam::123456789012:role/r",
            "Input": "{}",
            "DeadLetterConfig": {"Arn": "arn:aws:sqs:us-east-1:123456789012:jobs"},
        },
    )
    eventually(lambda: [one for one in queues.sent if "ERROR_CODE" in one["MessageAttributes"]])
    sent = queues.sent[-1]
    assert sent["QueueUrl"].endswith("/jobs")
    assert sent["MessageBody"] == "{}"
    assert sent["MessageAttributes"]["ERROR_CODE"]["StringValue"] == "ValidationException"


def test_errors_have_the_codes_of_sns(server):
    sns = server.client("sns")
    nowhere = "arn:aws:sns:us-east-1:123456789012:nowhere"
    topic = sns.create_topic(Name="errors")["TopicArn"]
    for operation, params, code in (
        ("get_topic_attributes", {"TopicArn": nowhere}, "NotFound"),
        ("publish", {"TopicArn": nowhere, "Message": "x"}, "NotFound"),
        ("list_subscriptions_by_topic", {"TopicArn": nowhere}, "NotFound"),
        ("get_subscription_attributes", {"SubscriptionArn": f"{topic}:x"}, "NotFound"),
        ("publish", {"PhoneNumber": "+100", "Message": "x"}, "InvalidParameter"),
        ("publish", {"TopicArn": topic, "Message": "x", "MessageStructure": "json"}, "InvalidParameter"),
        ("subscribe", {"TopicArn": topic, "Protocol": "email", "Endpoint": "a@b.c"}, "InvalidParameter"),
        ("confirm_subscription", {"TopicArn": topic, "Token": "x"}, "InvalidParameter"),
        ("create_topic", {"Name": "no spaces"}, "InvalidParameter"),
        ("set_topic_attributes", {"TopicArn": topic, "AttributeName": "SignatureVersion", "AttributeValue": "3"},
         "InvalidParameter"),
        ("create_platform_endpoint", {"PlatformApplicationArn": "x", "Token": "x"}, "UnknownOperationException"),
    ):  # fmt: skip
        with pytest.raises(ClientError) as error:
            getattr(sns, operation)(**params)
        assert error.value.response["Error"]["Code"] == code, operation
        assert error.value.response["ResponseMetadata"]["HTTPStatusCode"] == (404 if code == "NotFound" else 400)


def test_links_let_nobody_do_anything_else(server):
    for query in ("Action=Publish&x=Action=Unsubscribe", "Action=ListTopics&Action=ConfirmSubscription"):
        assert visit(f"{server.url}/?{query}")[0] == 400
    assert visit(f"{server.url}/SimpleNotificationService-0.pem")[0] == 404


def test_lists_have_pages(server):
    sns = server.client("sns")
    for number in range(101):
        sns.create_topic(Name=f"page-{number:03}")
    pages = list(sns.get_paginator("list_topics").paginate())
    assert len(pages) > 1
    arns = [topic["TopicArn"] for page in pages for topic in page["Topics"]]
    assert len(arns) == len(set(arns)) > 100


def test_a_kill_between_publish_and_delivery_loses_nothing(own_server):
    receiver = Receiver()
    sns = own_server.client("sns")
    topic = sns.create_topic(Name="crash")["TopicArn"]
    subscribe(own_server, topic, receiver)
    sent = {str(number) for number in range(10)}
    with receiver.closed():  # connections are taken, nothing is answered
        for message in sent:
            sns.publish(TopicArn=topic, Message=message)
        own_server.kill()
    before = len(receiver.notifications)
    own_server.start()
    eventually(lambda: set(receiver.messages[before:]) == sent)
    eventually(lambda: json.loads(own_server.get("/fourfold/topics"))[0]["pending"] == 0)
    receiver.close()
