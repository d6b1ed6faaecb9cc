"""SNS on the wire: topics and subscriptions, the links in what they send, and native routes.

Anyone who has them may use the links, for a receiver has no keys of this server:

GET  /?Action=ConfirmSubscription&…      confirms, for who has the token
GET  /?Action=Unsubscribe&…              unsubscribes, for who has the ARN
GET  /SimpleNotificationService-….pem    the certificate that signatures are checked with

GET  /fourfold/topics                        every topic: subscriptions, deliveries pending and given up
GET  /fourfold/topics/{name}/dead-letters    what was given up, newest first
POST /fourfold/topics/{name}/redrive         try that once more
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any, ClassVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from fourfold.api.aws import Service
from fourfold.api.fastlane import request_id
from fourfold.api.native import Handler, parts
from fourfold.api.protocol import ApiCall, HttpRequest, operation
from fourfold.control.envelopes import CERTIFICATE_PATH
from fourfold.control.topics import EntryIdsNotDistinct, InvalidParameter, TooManyEntries, Topics
from fourfold.errors import ValidationException
from fourfold.records import Partition
from fourfold.store.topics import DeadLetter, Subscription, Topic

Document = dict[str, Any]

PAGE = 100
"""Entries of a page, as in SNS."""
SECRET = "FourfoldSigningSecret"  # noqa: S105 - an attribute's name
"""The topic attribute with the key of the `x-fourfold-signature` header."""
PENDING = "PendingConfirmation"
MOST_ENTRIES = 10
"""Messages of one PublishBatch, as in SNS."""
MOST_LISTED = 1000
"""Topics that the native route lists."""


class Sns:
    """The operations of the `sns` service."""

    service: ClassVar = "sns"

    def __init__(self, topics: Topics, partition: Partition) -> None:
        self._topics = topics
        self._partition = partition

    # Topics

    @operation("CreateTopic")
    async def create_topic(self, call: ApiCall) -> Document:
        pairs = {tag["Key"]: tag["Value"] for tag in call.params.get("Tags", [])}
        return {"TopicArn": await self._topics.create(call.params["Name"], call.params.get("Attributes", {}), pairs)}

    @operation("DeleteTopic")
    async def delete_topic(self, call: ApiCall) -> Document:
        await self._topics.delete(call.params["TopicArn"])
        return {}

    @operation("ListTopics")
    async def list_topics(self, call: ApiCall) -> Document:
        found = await self._topics.topics(call.params.get("NextToken", ""), PAGE + 1)
        arns = [topic.arn for topic in found[:PAGE]]
        return {"Topics": [{"TopicArn": arn} for arn in arns], "NextToken": arns[-1] if len(found) > PAGE else None}

    @operation("GetTopicAttributes")
    async def get_topic_attributes(self, call: ApiCall) -> Document:
        topic, subscriptions = await self._topics.get(call.params["TopicArn"])
        fixed = {
            "TopicArn": topic.arn,
            "Owner": self._partition.account,
            "SubscriptionsConfirmed": str(subscriptions.get(True, 0)),
            "SubscriptionsPending": str(subscriptions.get(False, 0)),
            "SubscriptionsDeleted": "0",
            SECRET: topic.secret,
        }
        return {"Attributes": {"DisplayName": "", "SignatureVersion": "1"} | topic.attributes | fixed}

    @operation("SetTopicAttributes")
    async def set_topic_attributes(self, call: ApiCall) -> Document:
        params = call.params
        await self._topics.set_attribute(params["TopicArn"], params["AttributeName"], params.get("AttributeValue", ""))
        return {}

    # Subscriptions

    @operation("Subscribe")
    async def subscribe(self, call: ApiCall) -> Document:
        params = call.params
        subscription = await self._topics.subscribe(
            params["TopicArn"], params["Protocol"], params.get("Endpoint", ""), params.get("Attributes", {})
        )
        known = subscription.confirmed or params.get("ReturnSubscriptionArn")
        return {"SubscriptionArn": subscription.arn if known else "pending confirmation"}

    @operation("ConfirmSubscription")
    async def confirm_subscription(self, call: ApiCall) -> Document:
        params = call.params
        guarded = {"AuthenticateOnUnsubscribe": "true"} if params.get("AuthenticateOnUnsubscribe") == "true" else {}
        return {"SubscriptionArn": (await self._topics.confirm(params["TopicArn"], params["Token"], guarded)).arn}

    @operation("Unsubscribe")
    async def unsubscribe(self, call: ApiCall) -> Document:
        await self._topics.unsubscribe(call.params["SubscriptionArn"])
        return {}

    @operation("ListSubscriptions")
    async def list_subscriptions(self, call: ApiCall) -> Document:
        return await self._subscriptions(None, call.params)

    @operation("ListSubscriptionsByTopic")
    async def list_subscriptions_by_topic(self, call: ApiCall) -> Document:
        return await self._subscriptions(call.params["TopicArn"], call.params)

    async def _subscriptions(self, topic: str | None, params: Mapping[str, Any]) -> Document:
        found = await self._topics.subscriptions(topic, params.get("NextToken", ""), PAGE + 1)
        page = [self._summary(subscription) for subscription in found[:PAGE]]
        return {"Subscriptions": page, "NextToken": found[PAGE - 1].arn if len(found) > PAGE else None}

    def _summary(self, subscription: Subscription) -> Document:
        return {
            "SubscriptionArn": subscription.arn if subscription.confirmed else PENDING,
            "Owner": self._partition.account,
            "Protocol": subscription.protocol,
            "Endpoint": subscription.endpoint,
            "TopicArn": subscription.topic,
        }

    @operation("GetSubscriptionAttributes")
    async def get_subscription_attributes(self, call: ApiCall) -> Document:
        found = await self._topics.get_subscription(call.params["SubscriptionArn"])
        fixed = self._summary(found) | {
            "SubscriptionArn": found.arn,
            PENDING: "false" if found.confirmed else "true",
            "ConfirmationWasAuthenticated": "false",
        }
        return {"Attributes": {"RawMessageDelivery": "false"} | found.attributes | fixed}

    @operation("SetSubscriptionAttributes")
    async def set_subscription_attributes(self, call: ApiCall) -> Document:
        params = call.params
        await self._topics.set_subscription_attribute(
            params["SubscriptionArn"], params["AttributeName"], params.get("AttributeValue", "")
        )
        return {}

    # Messages

    @operation("Publish")
    async def publish(self, call: ApiCall) -> Document:
        params = call.params
        topic = params.get("TopicArn") or params.get("TargetArn")
        if topic is None:
            raise InvalidParameter("Invalid parameter: TopicArn: this server publishes to topics only.")
        return {"MessageId": await self._publish(topic, params)}

    @operation("PublishBatch")
    async def publish_batch(self, call: ApiCall) -> Document:
        topic, entries = call.params["TopicArn"], call.params["PublishBatchRequestEntries"]
        if len(entries) > MOST_ENTRIES:
            raise TooManyEntries(f"The batch request contains {len(entries)} entries; {MOST_ENTRIES} is the most.")
        if len({entry["Id"] for entry in entries}) < len(entries):
            raise EntryIdsNotDistinct("Two or more batch entries in the request have the same Id.")
        await self._topics.get(topic)
        successful, failed = [], []
        for entry in entries:
            try:
                successful.append({"Id": entry["Id"], "MessageId": await self._publish(topic, entry)})
            except InvalidParameter as error:
                refused = {"Id": entry["Id"], "Code": error.code, "Message": error.message, "SenderFault": True}
                failed.append(refused)
        return {"Successful": successful, "Failed": failed}

    async def _publish(self, topic: str, message: Mapping[str, Any]) -> str:
        text, by_protocol = message["Message"], {}
        if message.get("MessageStructure") == "json":
            by_protocol = _by_protocol(text)
            text = by_protocol.pop("default")
        attributes = {name: _attribute(name, value) for name, value in message.get("MessageAttributes", {}).items()}
        return await self._topics.publish(
            topic, message.get("Subject", ""), text, attributes=attributes, by_protocol=by_protocol
        )


def _by_protocol(text: str) -> dict[str, str]:
    try:
        texts = msgspec.json.decode(text, type=dict[str, str])
    except msgspec.DecodeError as error:
        raise InvalidParameter(f"Invalid parameter: Message Structure: {error}") from None
    if "default" not in texts:
        raise InvalidParameter("Invalid parameter: Message Structure - No default entry in JSON message body")
    return texts


def _attribute(name: str, value: Mapping[str, Any]) -> dict[str, str]:
    if "StringValue" not in value and "BinaryValue" not in value:
        raise InvalidParameter(f"Invalid parameter: MessageAttributes: {name} has no value.")
    binary = value.get("BinaryValue")
    text = value["StringValue"] if binary is None else base64.b64encode(binary).decode()
    return {"DataType": value["DataType"], "Value": text}


class ByLink:
    """The two operations that a link in a message calls. Nobody has signed for them."""

    service: ClassVar = "sns"

    def __init__(self, topics: Topics) -> None:
        self._topics = topics

    @operation("ConfirmSubscription")
    async def confirm_subscription(self, call: ApiCall) -> Document:
        return {"SubscriptionArn": (await self._topics.confirm(call.params["TopicArn"], call.params["Token"], {})).arn}

    @operation("Unsubscribe")
    async def unsubscribe(self, call: ApiCall) -> Document:
        await self._topics.unsubscribe(call.params["SubscriptionArn"], authenticated=False)
        return {}


class Links:
    """ASGI application for the links in what topics send."""

    def __init__(self, topics: Topics) -> None:
        self._topics = topics
        self._service = Service(ByLink(topics))

    def matches(self, scope: Scope) -> bool:
        """Is it one of the links? A signed request is not: it goes the way of all others."""
        path: str = scope["path"]
        if scope["method"] != "GET" or any(name == b"authorization" for name, _ in scope["headers"]):
            return False
        query = scope["query_string"]
        return path.startswith(CERTIFICATE_PATH) or (
            path == "/" and (b"Action=ConfirmSubscription" in query or b"Action=Unsubscribe" in query)
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        if request.url.path == "/":
            call = HttpRequest("GET", "/", request.url.query, request.headers, b"")
            answer = await self._service.answer(call, "", request_id().decode())
            response = Response(answer.body, answer.status, answer.headers)
        else:
            response = await self._certificate(request.url.path)
        await response(scope, receive, send)

    async def _certificate(self, path: str) -> Response:
        signer = await self._topics.signer()
        if path != signer.path:
            return Response("There is no such certificate.\n", 404, media_type="text/plain")
        return Response(signer.certificate, media_type="application/x-pem-file")


def topic_routes(topics: Topics, partition: Partition) -> dict[str, Handler]:
    """The native routes, for the gateway."""

    async def look(request: Request) -> Response:
        name, what = (*parts(request), "", "")[:2]
        if not name:
            return _json([await summary(topic) for topic in await topics.topics(limit=MOST_LISTED)])
        if what != "dead-letters":
            raise _unknown()
        letters = await topics.dead_letters(partition.arn(name, "sns"))
        return _json([_letter(letter) for letter in letters])

    async def act(request: Request) -> Response:
        name, what = (*parts(request), "", "")[:2]
        if what != "redrive":
            raise _unknown()
        return _json({"redriven": await topics.redrive(partition.arn(name, "sns"))})

    async def summary(topic: Topic) -> Document:
        _, subscriptions = await topics.get(topic.arn)
        counts = await topics.counts(topic.arn)
        return {
            "name": topic.name,
            "arn": topic.arn,
            "confirmed": subscriptions.get(True, 0),
            "unconfirmed": subscriptions.get(False, 0),
            "pending": counts.get("pending", 0),
            "dead": counts.get("dead", 0),
        }

    return {"GET topics": look, "POST topics": act}


def _letter(letter: DeadLetter) -> Document:
    return {
        "subscription": letter.subscription,
        "endpoint": letter.endpoint,
        "message_id": letter.message.id,
        "type": letter.message.type,
        "subject": letter.message.subject,
        "message": letter.message.text,
        "published_at": letter.created_at,
        "attempts": letter.attempts,
        "reason": letter.reason,
    }


def _unknown() -> ValidationException:
    return ValidationException(
        "The native routes of topics are GET /fourfold/topics, GET /fourfold/topics/{name}/dead-letters and "
        "POST /fourfold/topics/{name}/redrive."
    )


def _json(value: Any) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")
