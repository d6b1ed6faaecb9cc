"""Topics: who wants to hear of what, and the loop that tells them.

    publish ─► a delivery for each confirmed subscriber, durable ─► attempts, further and further apart ─► arrived
                                                                                                       └► dead letter

`publish` returns when the deliveries are on disk; from then on each is made at least once, whatever dies on the way. A
receiver that is slow or down holds up nobody else: each has its own share of what is under way.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec
from sqlalchemy.engine import Connection

from fourfold.clock import Clock, sleep_or_event
from fourfold.control import filter_policies
from fourfold.control.couriers import Courier, Refused, Undelivered
from fourfold.control.envelopes import CONFIRMATION, FAREWELL, NOTIFICATION, pack
from fourfold.errors import ResourceNotFound, ValidationException
from fourfold.records import Partition
from fourfold.store import Store, resources, tags
from fourfold.store import topics as rows
from fourfold.store.resources import Resource
from fourfold.store.topics import Delivery, Message, Subscription, Topic

if TYPE_CHECKING:
    from fourfold.control.certificates import Signer

log = logging.getLogger(__name__)

MOST_ATTEMPTS = 20
FIRST_BACKOFF = 1.0
MOST_BACKOFF = 300.0
"""Without a DeliveryPolicy of its own a subscriber is tried for a little over an hour; SNS allows an hour at most."""
AT_ONCE = 32
"""Deliveries under way at a time."""
AT_ONCE_EACH = 4
"""So many under way to one subscriber, and no more are begun; also how many are begun at a time."""
LEASE = 60.0
"""Seconds after which another may try what one began; longer than any courier takes."""
LONGEST_SLEEP = 3600.0
CONTENDED = 0.1
"""Seconds until the next look at what is due but being claimed by another gateway."""
DEAD_DAYS = 14
UNCONFIRMED_DAYS = 3
"""How long dead letters, and subscriptions that nobody confirmed or took back, are kept. The latter as in SNS."""

MOST_MESSAGE_BYTES = 256 * 1024
TOPIC_ATTRIBUTES = frozenset(
    ("DisplayName", "Policy", "DeliveryPolicy", "SignatureVersion", "KmsMasterKeyId", "TracingConfig")
)
SUBSCRIPTION_ATTRIBUTES = frozenset(("RawMessageDelivery", "DeliveryPolicy", "FilterPolicy", "FilterPolicyScope"))
"""Attributes that may be given. They have to be obeyed, so one that is not known is refused."""

_KEY_KIND = "signing-key"
_KEY_NAME = "notifications"


class TopicNotFound(ResourceNotFound):
    """No such topic or subscription."""

    code = "NotFound"
    status = 404


class InvalidParameter(ValidationException):
    code = "InvalidParameter"


class TooManyEntries(InvalidParameter):
    code = "TooManyEntriesInBatchRequest"


class EntryIdsNotDistinct(InvalidParameter):
    code = "BatchEntryIdsNotDistinct"


class Topics:
    """Topics and subscriptions, and what is on its way to subscribers.

    Args:
        store: where all of it is kept.
        partition: for ARNs.
        clock: when.
        couriers: who carries to subscribers of a protocol (http, https, sqs); others cannot subscribe.
        url: this server's address as subscribers reach it; messages hold links to it.
        owner: whose claims are this server's; the same after a restart.
    """

    def __init__(
        self,
        store: Store,
        partition: Partition,
        clock: Clock,
        couriers: Mapping[str, Courier],
        url: str,
        owner: str = "local",
    ) -> None:
        self._store = store
        self._partition = partition
        self._clock = clock
        self._couriers = couriers
        self._url = url
        self._owner = owner
        self._signer: asyncio.Task[Signer] | None = None
        self._wake = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._under_way: Counter[str] = Counter()

    # Topics

    async def create(self, name: str, attributes: dict[str, str], pairs: dict[str, str]) -> str:
        """CreateTopic; returns the ARN, also of a topic that is there already.

        Raises:
            InvalidParameter: the name, an attribute, or attributes other than those of the topic that is there.
        """
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,256}", name):
            hint = " FIFO topics are not supported here." if name.endswith(".fifo") else ""
            raise InvalidParameter(
                f"Invalid parameter: Topic Name: letters, digits, hyphens and underscores, 256 at most.{hint}"
            )
        _check_topic_attributes(attributes)
        topic = Topic(self._arn(name), name, secrets.token_urlsafe(32), attributes, self._clock.now())

        def write(db: Connection) -> None:
            known = rows.get_topic(db, topic.arn)
            if known is None:
                rows.add_topic(db, topic)
                tags.put(db, topic.arn, pairs)
            elif attributes.items() - known.attributes.items():
                raise InvalidParameter("Invalid parameter: Topic already exists with different attributes.")

        await self._store.run(write)
        return topic.arn

    async def delete(self, arn: str) -> None:
        """DeleteTopic: with its subscriptions and what is on its way to them. Nothing where there is no such topic."""

        def write(db: Connection) -> None:
            rows.delete_topic(db, arn)
            tags.remove(db, arn)

        await self._store.run(write)

    async def topics(self, after: str = "", limit: int = 100) -> list[Topic]:
        """Topics by ARN, those behind `after`."""
        return await self._store.run(lambda db: rows.list_topics(db, after, limit))

    async def get(self, arn: str) -> tuple[Topic, dict[bool, int]]:
        """A topic, and how many of its subscriptions are confirmed and are not. Raises TopicNotFound."""
        return await self._store.run(lambda db: (_topic(db, arn), rows.count_subscriptions(db, arn)))

    async def set_attribute(self, arn: str, name: str, value: str) -> None:
        """SetTopicAttributes. Raises TopicNotFound, InvalidParameter."""
        _check_topic_attributes({name: value})

        def write(db: Connection) -> None:
            rows.set_topic_attributes(db, arn, _topic(db, arn).attributes | {name: value})

        await self._store.run(write)

    # Subscriptions

    async def subscribe(self, topic: str, protocol: str, endpoint: str, attributes: dict[str, str]) -> Subscription:
        """Subscribe an endpoint. A URL is sent a SubscriptionConfirmation and hears nothing before it is confirmed.

        An endpoint that is subscribed already keeps its subscription; a URL that has not confirmed is asked again.

        Raises:
            TopicNotFound: there is no such topic.
            InvalidParameter: a protocol that is not served, an endpoint that does not fit it, or a wrong attribute.
        """
        self._check_endpoint(protocol, endpoint)
        _check_known(attributes, SUBSCRIPTION_ATTRIBUTES)
        _check_subscription_attributes(attributes)
        now = self._clock.now()
        made = Subscription(
            f"{topic}:{uuid.uuid4()}", topic, protocol, endpoint, protocol == "sqs", secrets.token_hex(64),
            attributes, now,
        )  # fmt: skip

        def write(db: Connection) -> Subscription:
            found = _topic(db, topic)
            subscription = rows.find_subscription(db, topic, protocol, endpoint)
            if subscription is not None and subscription.ended:
                rows.delete_subscription(db, subscription.arn)
            if subscription is None or subscription.ended:
                subscription = made
                rows.add_subscription(db, subscription)
            if not subscription.confirmed:
                rows.send(db, topic, _confirmation(found, now), now, only=subscription.arn)
            return subscription

        subscription = await self._store.run(write)
        self._wake.set()
        return subscription

    async def confirm(self, topic: str, token: str, attributes: dict[str, str]) -> Subscription:
        """ConfirmSubscription. Raises TopicNotFound, or InvalidParameter for a token that is not its own."""

        def write(db: Connection) -> Subscription:
            _topic(db, topic)
            found = rows.confirm(db, topic, token, attributes)
            if found is None:
                raise InvalidParameter("Invalid parameter: Token: it belongs to no subscription of this topic.")
            return found

        return await self._store.run(write)

    async def unsubscribe(self, arn: str, *, authenticated: bool = True) -> None:
        """Unsubscribe; nothing where there is no such subscription.

        A URL is sent an UnsubscribeConfirmation, with which it may take its subscription back for a while.

        Raises:
            InvalidParameter: who asks is not known, and the subscription was confirmed with AuthenticateOnUnsubscribe.
        """

        now = self._clock.now()

        def write(db: Connection) -> None:
            found = rows.get_subscription(db, arn)
            if found is None:
                return
            if not authenticated and found.attributes.get("AuthenticateOnUnsubscribe") == "true":
                raise InvalidParameter("Invalid parameter: this subscription can be ended by a signed request only.")
            if found.confirmed and found.protocol != "sqs":
                rows.end_subscription(db, arn, secrets.token_hex(64), now)
                rows.send(db, found.topic, _farewell(found, now), now, only=arn)
            else:
                rows.delete_subscription(db, arn)

        await self._store.run(write)
        self._wake.set()

    async def get_subscription(self, arn: str) -> Subscription:
        """Raises TopicNotFound."""
        return await self._store.run(lambda db: _subscription(db, arn))

    async def set_subscription_attribute(self, arn: str, name: str, value: str) -> None:
        """SetSubscriptionAttributes. Raises TopicNotFound, InvalidParameter."""
        _check_known([name], SUBSCRIPTION_ATTRIBUTES)

        def write(db: Connection) -> None:
            attributes = _subscription(db, arn).attributes | {name: value}
            _check_subscription_attributes(attributes)
            rows.set_subscription_attributes(db, arn, attributes)

        await self._store.run(write)

    async def subscriptions(self, topic: str | None, after: str = "", limit: int = 100) -> list[Subscription]:
        """Subscriptions by ARN, those behind `after`. Raises TopicNotFound for an unknown topic."""

        def read(db: Connection) -> list[Subscription]:
            if topic is not None:
                _topic(db, topic)
            return rows.list_subscriptions(db, topic, after, limit)

        return await self._store.run(read)

    # Messages

    async def publish(
        self,
        topic: str,
        subject: str,
        message: str,
        *,
        attributes: Mapping[str, Any] | None = None,
        by_protocol: Mapping[str, str] | None = None,
    ) -> str:
        """Send a message to everybody who subscribes; returns its id when all that must not be lost is on disk.

        Args:
            topic: its ARN.
            subject: may be empty.
            message: the text.
            attributes: message attributes, each with DataType and Value.
            by_protocol: other texts for some protocols.

        Raises:
            TopicNotFound: there is no such topic.
            InvalidParameter: the message is empty or over 256 KiB, or the subject over 100 characters.
        """
        written = await self._store.run(
            lambda db: self.deposit(db, topic, subject, message, attributes=attributes, by_protocol=by_protocol)
        )
        self._wake.set()
        return written

    def deposit(
        self,
        db: Connection,
        topic: str,
        subject: str,
        message: str,
        *,
        attributes: Mapping[str, Any] | None = None,
        by_protocol: Mapping[str, str] | None = None,
    ) -> str:
        """`publish` within a transaction of the caller's, so that both are durable or neither; call `wake` after it."""
        size = len(message.encode()) + sum(len(text.encode()) for text in (by_protocol or {}).values())
        if not message:
            raise InvalidParameter("Invalid parameter: Empty message")
        if size > MOST_MESSAGE_BYTES:
            raise InvalidParameter(f"Invalid parameter: Message too long: {size:,} bytes of {MOST_MESSAGE_BYTES:,}.")
        if len(subject) > 100 or "\n" in subject:
            raise InvalidParameter("Invalid parameter: Subject: one line of 100 characters at most.")
        _topic(db, topic)
        now = self._clock.now()
        content = Message(
            NOTIFICATION, str(uuid.uuid4()), message, now, subject, dict(attributes or {}), dict(by_protocol or {})
        )
        unwanted = [
            subscription.arn
            for subscription in rows.filtering(db, topic)
            if not filter_policies.wants(subscription.attributes, message, content.attributes)
        ]
        rows.send(db, topic, content, now, without=unwanted)
        return content.id

    def wake(self) -> None:
        """There may be something to deliver."""
        self._wake.set()

    async def dead_letters(self, topic: str, limit: int = 100) -> list[rows.DeadLetter]:
        """What was given up, newest first. Raises TopicNotFound."""

        def read(db: Connection) -> list[rows.DeadLetter]:
            _topic(db, topic)
            return rows.dead_letters(db, topic, limit)

        return await self._store.run(read)

    async def redrive(self, topic: str) -> int:
        """Try the dead letters once more; returns how many. Raises TopicNotFound."""

        def write(db: Connection) -> int:
            _topic(db, topic)
            return rows.redrive(db, topic, self._clock.now())

        count = await self._store.run(write)
        self._wake.set()
        return count

    async def counts(self, topic: str) -> dict[str, int]:
        """Deliveries of a topic by state: pending, dead."""
        return await self._store.run(lambda db: rows.count_deliveries(db, topic))

    async def signer(self) -> Signer:
        """Signs what is sent. Its key is made when it is first needed, and kept in the store."""
        if self._signer is None or (self._signer.done() and self._signer.exception() is not None):
            self._signer = asyncio.create_task(self._load_signer())
        return await asyncio.shield(self._signer)

    async def _load_signer(self) -> Signer:
        await asyncio.to_thread(import_module, "fourfold.control.certificates")  # slow, hence here and not on the loop
        from fourfold.control.certificates import Signer, new_key

        known = await self._store.run(lambda db: resources.get(db, _KEY_KIND, _KEY_NAME))
        if known is None:
            now = self._clock.now()
            key, certificate = await asyncio.to_thread(new_key, now)
            made = Resource(
                _KEY_KIND, _KEY_NAME, self._partition.arn(f"{_KEY_KIND}/{_KEY_NAME}", "sns"), now, now,
                document={"key": key, "certificate": certificate},
            )  # fmt: skip

            def write(db: Connection) -> Resource:
                first = resources.get(db, _KEY_KIND, _KEY_NAME)  # another gateway may have been faster
                if first is None:
                    resources.insert(db, made)
                return first or made

            known = await self._store.run(write)
        return Signer(**known.document)

    # Delivery

    async def run(self) -> None:
        """Deliver what is due, for ever. What a former life of this owner had begun is taken up again."""
        await self._store.run(lambda db: rows.release(db, self._owner, self._clock.now()))
        sweep_at = 0.0
        try:
            while True:
                self._wake.clear()
                now = self._clock.now()
                if now >= sweep_at:
                    sweep_at = now + LONGEST_SLEEP
                    await self._sweep(now)
                next_due = await self._begin(now)
                if len(self._tasks) >= AT_ONCE:
                    await self._wake.wait()
                elif next_due > now:
                    await sleep_or_event(self._clock, min(next_due, sweep_at) - now, self._wake)
        finally:
            for task in self._tasks:
                task.cancel()

    async def _sweep(self, now: float) -> None:
        await self._store.run(lambda db: rows.sweep(db, now - DEAD_DAYS * 86400, now - UNCONFIRMED_DAYS * 86400))

    async def _begin(self, now: float) -> float:
        """Begin what is due, as far as there is room; returns when the next is due."""
        room = AT_ONCE - len(self._tasks)
        if room <= 0:
            return now
        busy = [arn for arn, count in self._under_way.items() if count >= AT_ONCE_EACH]
        claimed, next_due = await self._store.run(
            lambda db: rows.claim(db, self._owner, now, LEASE, min(room, AT_ONCE_EACH), busy)
        )
        for delivery in claimed:
            self._under_way[delivery.subscription.arn] += 1
            task = asyncio.create_task(self._deliver(delivery))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        if next_due is None:
            return now + LONGEST_SLEEP
        return next_due if claimed else max(next_due, now + CONTENDED)

    async def _deliver(self, delivery: Delivery) -> None:
        arn = delivery.subscription.arn
        try:
            await self._attempt(delivery)
        except Exception:
            # Its lease runs out and it is tried again.
            log.exception("delivery failed inside the server", extra={"subscription": arn, "delivery": delivery.id})
        finally:
            self._under_way[arn] -= 1
            if not self._under_way[arn]:
                del self._under_way[arn]
            self._wake.set()

    async def _attempt(self, delivery: Delivery) -> None:
        subscription = delivery.subscription
        signer = await self.signer()
        parcel = await asyncio.to_thread(pack, delivery, signer, self._url, self._clock.now())
        try:
            courier = self._couriers.get(subscription.protocol)
            if courier is None:
                raise Refused(f"This server does not deliver over {subscription.protocol} any more.")
            await courier.carry(parcel, subscription.endpoint)
        except Undelivered as error:
            await self._not_delivered(delivery, error)
            return
        await self._store.run(lambda db: rows.arrived(db, delivery))

    async def _not_delivered(self, delivery: Delivery, error: Undelivered) -> None:
        now = self._clock.now()
        attempts, first, most = _policy(delivery.subscription)
        what = {"subscription": delivery.subscription.arn, "attempt": delivery.attempt, "reason": error.message}
        if isinstance(error, Refused) or delivery.attempt >= attempts:
            log.error("notification given up", extra=what)
            await self._store.run(lambda db: rows.bury(db, delivery, now, error.message))
            return
        pause = min(most, first * 2.0 ** min(delivery.attempt - 1, 20))
        log.warning("notification not delivered", extra=what | {"retry_in": pause})
        await self._store.run(lambda db: rows.postpone(db, delivery, now + pause, error.message))

    def _arn(self, name: str) -> str:
        return self._partition.arn(name, "sns")

    def _check_endpoint(self, protocol: str, endpoint: str) -> None:
        if protocol not in self._couriers:
            hint = " Start the server with --sqs-endpoint URL for sqs." if protocol == "sqs" else ""
            raise InvalidParameter(
                f"Invalid parameter: Protocol: {protocol!r} is none of {', '.join(sorted(self._couriers))}.{hint}"
            )
        if protocol == "sqs":
            fits = re.fullmatch(r"arn:[\w-]+:sqs:[\w-]+:\d{12}:[\w-]{1,80}", endpoint) is not None
        else:
            fits = _is_url(endpoint, protocol)
        if not fits:
            wanted = "the ARN of a queue" if protocol == "sqs" else f"a URL that begins with {protocol}://"
            raise InvalidParameter(f"Invalid parameter: Endpoint: {endpoint!r} is not {wanted}.")


def _topic(db: Connection, arn: str) -> Topic:
    found = rows.get_topic(db, arn)
    if found is None:
        raise TopicNotFound(f"Topic does not exist: {arn}")
    return found


def _subscription(db: Connection, arn: str) -> Subscription:
    found = rows.get_subscription(db, arn)
    if found is None:
        raise TopicNotFound(f"Subscription does not exist: {arn}")
    return found


def _confirmation(topic: Topic, now: float) -> Message:
    text = (
        f"You have chosen to subscribe to the topic {topic.arn}.\n"
        "To confirm the subscription, visit the SubscribeURL included in this message."
    )
    return Message(CONFIRMATION, str(uuid.uuid4()), text, now)


def _farewell(subscription: Subscription, now: float) -> Message:
    text = (
        f"You have chosen to deactivate subscription {subscription.arn}.\n"
        "To cancel this operation and restore the subscription, visit the SubscribeURL included in this message."
    )
    return Message(FAREWELL, str(uuid.uuid4()), text, now)


def _is_url(text: str, scheme: str) -> bool:
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError:
        return False
    return (
        url.scheme == scheme and bool(url.hostname) and port != 0 and text.isascii() and re.search(r"\s", text) is None
    )


def _check_topic_attributes(attributes: Mapping[str, str]) -> None:
    _check_known(attributes, TOPIC_ATTRIBUTES)
    if attributes.get("SignatureVersion", "1") not in ("1", "2"):
        raise InvalidParameter("Invalid parameter: Attributes: SignatureVersion is 1 or 2.")


def _check_subscription_attributes(attributes: Mapping[str, str]) -> None:
    if attributes.get("RawMessageDelivery", "false").lower() not in ("true", "false"):
        raise InvalidParameter("Invalid parameter: Attributes: RawMessageDelivery is true or false.")
    _retries(attributes)
    try:
        filter_policies.check(attributes)
    except filter_policies.BadPolicy as error:
        raise InvalidParameter(f"Invalid parameter: FilterPolicy: {error}") from None


def _check_known(names: Iterable[str], known: frozenset[str]) -> None:
    unknown = sorted(set(names) - known)
    if unknown:
        raise InvalidParameter(
            f"Invalid parameter: Attributes: {', '.join(unknown)} not supported here, but {', '.join(sorted(known))}."
        )


class _Retries(msgspec.Struct):
    """`healthyRetryPolicy` of a DeliveryPolicy; delays in seconds."""

    numRetries: int = MOST_ATTEMPTS - 1
    minDelayTarget: float = FIRST_BACKOFF
    maxDelayTarget: float = MOST_BACKOFF


class _DeliveryPolicy(msgspec.Struct):
    healthyRetryPolicy: _Retries = msgspec.field(default_factory=_Retries)


def _retries(attributes: Mapping[str, str]) -> _Retries:
    """Raises InvalidParameter where a DeliveryPolicy is given that makes no sense."""
    text = attributes.get("DeliveryPolicy") or "{}"
    try:
        retries = msgspec.json.decode(text, type=_DeliveryPolicy).healthyRetryPolicy
    except msgspec.DecodeError as error:
        raise InvalidParameter(f"Invalid parameter: DeliveryPolicy: {error}") from None
    if not (0 <= retries.numRetries <= 100 and 0 < retries.minDelayTarget <= retries.maxDelayTarget <= 3600):
        raise InvalidParameter(
            "Invalid parameter: DeliveryPolicy: numRetries is 0 to 100; 0 < minDelayTarget <= maxDelayTarget <= 3600."
        )
    return retries


def _policy(subscription: Subscription) -> tuple[int, float, float]:
    """Attempts, and the first and the longest pause between two, in seconds."""
    retries = _retries(subscription.attributes)
    return retries.numRetries + 1, retries.minDelayTarget, retries.maxDelayTarget
