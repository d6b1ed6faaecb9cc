"""Messages in the form in which SNS delivers them, signed so that a receiver can check where they come from.

Two signatures, either is enough:

    Signature, SigningCertURL     in the message, as SNS signs: RSA over its members, the certificate is behind the URL
    x-fourfold-signature          a header: `t=<seconds>,v1=<hex>`, HMAC-SHA256 with the topic's secret over
                                  `<seconds>.<body>`. Refuse old seconds, and nobody can replay a message later.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import msgspec

from fourfold.clock import iso
from fourfold.store.topics import Delivery, Message, Subscription, Topic

if TYPE_CHECKING:
    from fourfold.control.certificates import Signer

HMAC_HEADER = "x-fourfold-signature"
CONFIRMATION = "SubscriptionConfirmation"
FAREWELL = "UnsubscribeConfirmation"
NOTIFICATION = "Notification"
CERTIFICATE_PATH = "/SimpleNotificationService-"
"""Beginning of the path of a signing certificate; its fingerprint and `.pem` follow."""

_WITH_TOKEN = ("Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type")
_SIGNED = {
    NOTIFICATION: ("Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type"),
    CONFIRMATION: _WITH_TOKEN,
    FAREWELL: _WITH_TOKEN,
}
"""Members that the RSA signature covers, in its order; absent ones are left out."""


@dataclass(frozen=True)
class Parcel:
    """What is sent for one delivery."""

    headers: dict[str, str]
    body: bytes


def pack(delivery: Delivery, signer: Signer, url: str, now: float) -> Parcel:
    """The headers and body of one attempt.

    Args:
        delivery: what goes where.
        signer: signs the members.
        url: address of this server, as receivers reach it.
        now: the time that the HMAC covers, seconds since the epoch.
    """
    message, topic, subscription = delivery.message, delivery.topic, delivery.subscription
    headers = {
        "x-amz-sns-message-type": message.type,
        "x-amz-sns-message-id": message.id,
        "x-amz-sns-topic-arn": topic.arn,
        "content-type": "text/plain; charset=UTF-8",
        "user-agent": "Amazon Simple Notification Service Agent",
    }
    text = message.by_protocol.get(subscription.protocol, message.text)
    if message.type == NOTIFICATION:
        headers["x-amz-sns-subscription-arn"] = subscription.arn
    if is_raw(subscription) and message.type == NOTIFICATION:
        headers["x-amz-sns-rawdelivery"] = "true"
        body = text.encode()
    else:
        body = msgspec.json.encode(_envelope(message, text, topic, subscription, signer, url))
    headers[HMAC_HEADER] = hmac_header(topic.secret, body, now)
    return Parcel(headers, body)


def is_raw(subscription: Subscription) -> bool:
    """Does it want the message alone, without the envelope?"""
    return subscription.attributes.get("RawMessageDelivery", "false").lower() == "true"


def hmac_header(secret: str, body: bytes, now: float) -> str:
    """The value of `x-fourfold-signature`."""
    stamp = str(int(now))
    digest = hmac.new(secret.encode(), f"{stamp}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={stamp},v1={digest}"


def confirm_url(url: str, subscription: Subscription) -> str:
    """What a receiver visits to confirm its subscription, or to take it back after it has ended."""
    query = {"Action": "ConfirmSubscription", "TopicArn": subscription.topic, "Token": subscription.token}
    return f"{url}/?{urlencode(query)}"


def unsubscribe_url(url: str, subscription: Subscription) -> str:
    """What a receiver visits to end its subscription."""
    return f"{url}/?{urlencode({'Action': 'Unsubscribe', 'SubscriptionArn': subscription.arn})}"


def canonical(envelope: dict[str, Any]) -> str:
    """The text that is signed: each covered member's name and value on a line of its own."""
    return "".join(f"{name}\n{envelope[name]}\n" for name in _SIGNED[envelope["Type"]] if name in envelope)


def _envelope(
    message: Message, text: str, topic: Topic, subscription: Subscription, signer: Signer, url: str
) -> dict[str, Any]:
    version = topic.attributes.get("SignatureVersion", "1")
    envelope: dict[str, Any] = {
        "Type": message.type,
        "MessageId": message.id,
        "TopicArn": topic.arn,
        "Message": text,
        "Timestamp": iso(message.time, "milliseconds"),
        "SignatureVersion": version,
        "SigningCertURL": url + signer.path,
    }
    if message.type == NOTIFICATION:
        envelope["UnsubscribeURL"] = unsubscribe_url(url, subscription)
    else:
        envelope |= {"Token": subscription.token, "SubscribeURL": confirm_url(url, subscription)}
    if message.subject:
        envelope["Subject"] = message.subject
    if message.attributes:
        envelope["MessageAttributes"] = {
            name: {"Type": value["DataType"], "Value": value["Value"]} for name, value in message.attributes.items()
        }
    return envelope | {"Signature": signer.sign(canonical(envelope), version)}
