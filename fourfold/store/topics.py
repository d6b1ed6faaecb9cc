"""Topics, who subscribes to them, and every message that is still on its way to a subscriber.

A delivery is one message for one subscriber. It is `pending` until it has arrived, and then gone; one that is given up
is `dead` and kept for people to see. Whoever delivers holds a claim with a lease and an attempt number: when the lease
runs out the next may try, and what the first one says afterwards is not believed. So any number of gateways may deliver
from one store, and a message that was published is delivered at least once whatever dies on the way.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fourfold.store.schema import metadata

topics = sa.Table(
    "topics",
    metadata,
    sa.Column("arn", sa.String, primary_key=True),
    sa.Column("name", sa.String, nullable=False),
    sa.Column("secret", sa.String, nullable=False, comment="key of the HMAC in what is delivered"),
    sa.Column("attributes", sa.JSON, nullable=False, comment="as CreateTopic and SetTopicAttributes gave them"),
    sa.Column("created_at", sa.Float, nullable=False, comment="seconds since the epoch"),
)

subscriptions = sa.Table(
    "subscriptions",
    metadata,
    sa.Column("arn", sa.String, primary_key=True),
    sa.Column("topic", sa.String, nullable=False),
    sa.Column("protocol", sa.String, nullable=False, comment="http, https, sqs"),
    sa.Column("endpoint", sa.String, nullable=False, comment="a URL, or a queue's ARN"),
    sa.Column("confirmed", sa.Boolean, nullable=False),
    sa.Column("token", sa.String, nullable=False, comment="what ConfirmSubscription must bring"),
    sa.Column("attributes", sa.JSON, nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("ended", sa.Boolean, nullable=False, server_default=sa.false(), comment="it may still be taken back"),
    sa.UniqueConstraint("topic", "protocol", "endpoint"),
)

deliveries = sa.Table(
    "deliveries",
    metadata,
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
    sa.Column("topic", sa.String, nullable=False),
    sa.Column("subscription", sa.String, nullable=False),
    sa.Column("message", sa.JSON, nullable=False, comment="type, id, subject, text, attributes, time"),
    sa.Column("state", sa.String, nullable=False, comment="pending, dead"),
    sa.Column("owner", sa.String, nullable=False, server_default="", comment="who tries it now; empty: nobody"),
    sa.Column("attempt", sa.Integer, nullable=False, comment="attempts begun; the fence: grows with each claim"),
    sa.Column("due_at", sa.Float, nullable=False, comment="when it is tried next; while it is tried, its lease's end"),
    sa.Column("reason", sa.String, nullable=False, comment="why the last attempt failed"),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Index("deliveries_by_time", "state", "due_at"),
    sa.Index("deliveries_by_subscription", "subscription"),
    sa.Index("deliveries_by_topic", "topic", "state"),
)


@dataclass(frozen=True)
class Topic:
    arn: str
    name: str
    secret: str
    attributes: dict[str, str]
    created_at: float


@dataclass(frozen=True)
class Subscription:
    arn: str
    topic: str
    protocol: str
    endpoint: str
    confirmed: bool
    token: str
    attributes: dict[str, str]
    created_at: float
    ended: bool = False


@dataclass(frozen=True)
class Message:
    """What a topic sends.

    Attributes:
        type: SNS's word: Notification, SubscriptionConfirmation or UnsubscribeConfirmation.
        id: the same for every subscriber and attempt, so that a receiver can tell a repetition.
        text: what was published.
        time: when, seconds since the epoch.
        subject: may be empty.
        attributes: MessageAttributes as Publish gave them.
        by_protocol: texts for some protocols in place of `text` (MessageStructure `json`).
    """

    type: str
    id: str
    text: str
    time: float
    subject: str = ""
    attributes: dict[str, Any] = field(default_factory=dict)
    by_protocol: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Delivery:
    """One message on its way to one subscriber, claimed by whoever has this."""

    id: int
    topic: Topic
    subscription: Subscription
    message: Message
    attempt: int
    created_at: float


@dataclass(frozen=True)
class DeadLetter:
    """A delivery that was given up."""

    id: int
    subscription: str
    endpoint: str
    message: Message
    attempts: int
    reason: str
    created_at: float


# Topics


def add_topic(db: Connection, topic: Topic) -> None:
    """Raises sqlalchemy.exc.IntegrityError where there is one of that ARN."""
    db.execute(topics.insert().values(vars(topic)))


def get_topic(db: Connection, arn: str) -> Topic | None:
    row = db.execute(sa.select(topics).where(topics.c.arn == arn)).one_or_none()
    return None if row is None else Topic(**row._mapping)


def list_topics(db: Connection, after: str = "", limit: int = 100) -> list[Topic]:
    """Topics by ARN, those behind `after`."""
    query = sa.select(topics).where(topics.c.arn > after).order_by(topics.c.arn).limit(limit)
    return [Topic(**row._mapping) for row in db.execute(query)]


def set_topic_attributes(db: Connection, arn: str, attributes: Mapping[str, str]) -> None:
    db.execute(topics.update().where(topics.c.arn == arn).values(attributes=dict(attributes)))


def delete_topic(db: Connection, arn: str) -> None:
    """Remove a topic, its subscriptions and whatever is on its way to them."""
    db.execute(deliveries.delete().where(deliveries.c.topic == arn))
    db.execute(subscriptions.delete().where(subscriptions.c.topic == arn))
    db.execute(topics.delete().where(topics.c.arn == arn))


# Subscriptions


def add_subscription(db: Connection, subscription: Subscription) -> None:
    db.execute(subscriptions.insert().values(vars(subscription)))


def get_subscription(db: Connection, arn: str) -> Subscription | None:
    return _subscription(db, subscriptions.c.arn == arn, subscriptions.c.ended.is_(False))


def find_subscription(db: Connection, topic: str, protocol: str, endpoint: str) -> Subscription | None:
    """The subscription of an endpoint to a topic; there is at most one, and it may have ended."""
    c = subscriptions.c
    return _subscription(db, c.topic == topic, c.protocol == protocol, c.endpoint == endpoint)


def list_subscriptions(
    db: Connection, topic: str | None = None, after: str = "", limit: int = 100
) -> list[Subscription]:
    """Subscriptions by ARN, those behind `after`; of one topic or of all."""
    query = sa.select(subscriptions).where(subscriptions.c.arn > after, subscriptions.c.ended.is_(False))
    if topic is not None:
        query = query.where(subscriptions.c.topic == topic)
    return [Subscription(**row._mapping) for row in db.execute(query.order_by(subscriptions.c.arn).limit(limit))]


def filtering(db: Connection, topic: str) -> list[Subscription]:
    """Confirmed subscriptions of a topic that do not want every message."""
    c = subscriptions.c
    filters = sa.cast(c.attributes, sa.String).like('%"FilterPolicy"%')
    query = sa.select(subscriptions).where(c.topic == topic, c.confirmed, filters)
    return [Subscription(**row._mapping) for row in db.execute(query)]


def count_subscriptions(db: Connection, topic: str) -> dict[bool, int]:
    """How many subscriptions of a topic are confirmed, and how many are not."""
    query = (
        sa.select(subscriptions.c.confirmed, sa.func.count())
        .where(subscriptions.c.topic == topic, subscriptions.c.ended.is_(False))
        .group_by(subscriptions.c.confirmed)
    )
    return {bool(confirmed): count for confirmed, count in db.execute(query)}


def confirm(db: Connection, topic: str, token: str, attributes: Mapping[str, str]) -> Subscription | None:
    """Confirm, or take back, the subscription that has this token, adding attributes; None where there is none."""
    found = _subscription(db, subscriptions.c.topic == topic, subscriptions.c.token == token)
    if found is not None:
        values = {"confirmed": True, "ended": False, "attributes": {**found.attributes, **attributes}}
        db.execute(subscriptions.update().where(subscriptions.c.arn == found.arn).values(values))
    return found


def set_subscription_attributes(db: Connection, arn: str, attributes: Mapping[str, str]) -> None:
    db.execute(subscriptions.update().where(subscriptions.c.arn == arn).values(attributes=dict(attributes)))


def end_subscription(db: Connection, arn: str, token: str, now: float) -> None:
    """Keep of a subscription what is needed to take it back with this token; what is on its way to it is not."""
    db.execute(deliveries.delete().where(deliveries.c.subscription == arn))
    values = {"confirmed": False, "ended": True, "token": token, "created_at": now}
    db.execute(subscriptions.update().where(subscriptions.c.arn == arn).values(values))


def delete_subscription(db: Connection, arn: str) -> bool:
    """Remove a subscription and what is on its way to it. False where there was none."""
    db.execute(deliveries.delete().where(deliveries.c.subscription == arn))
    return bool(db.execute(subscriptions.delete().where(subscriptions.c.arn == arn)).rowcount)


def _subscription(db: Connection, *where: sa.ColumnElement[bool]) -> Subscription | None:
    row = db.execute(sa.select(subscriptions).where(*where)).one_or_none()
    return None if row is None else Subscription(**row._mapping)


# Deliveries


def send(
    db: Connection, topic: str, message: Message, now: float, *, only: str | None = None, without: Collection[str] = ()
) -> None:
    """Put a message on its way to a topic's confirmed subscribers but those in `without`, or to one alone."""
    c = subscriptions.c
    to = c.arn == only if only is not None else sa.and_(c.topic == topic, c.confirmed, c.arn.not_in(list(without)))
    values = {
        "topic": sa.literal(topic), "subscription": c.arn, "message": sa.literal(vars(message), sa.JSON),
        "state": sa.literal("pending"), "attempt": sa.literal(0), "due_at": sa.literal(now), "reason": sa.literal(""),
        "created_at": sa.literal(now),
    }  # fmt: skip
    db.execute(deliveries.insert().from_select(list(values), sa.select(*values.values()).where(to)))


def claim(
    db: Connection, owner: str, now: float, lease: float, limit: int, without: Collection[str] = ()
) -> tuple[list[Delivery], float | None]:
    """Deliveries that are due, oldest first, and when the next one will be.

    Args:
        owner: who claims.
        now: the time.
        lease: seconds for which they belong to the caller.
        limit: the most that are claimed.
        without: subscriptions that have enough on their way.

    Returns:
        what was claimed, and the time at which the next is due; None where nothing waits.
    """
    waiting = sa.and_(deliveries.c.state == "pending", deliveries.c.subscription.not_in(list(without)))
    rows = db.execute(
        sa.select(deliveries)
        .where(waiting, deliveries.c.due_at <= now)
        .order_by(deliveries.c.due_at, deliveries.c.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    ).all()
    for row in rows:
        db.execute(
            deliveries.update()
            .where(deliveries.c.id == row.id)
            .values(owner=owner, attempt=row.attempt + 1, due_at=now + lease)
        )
    next_due: float | None = db.execute(sa.select(sa.func.min(deliveries.c.due_at)).where(waiting)).scalar_one()
    return [_delivery(db, row) for row in rows], next_due


def _delivery(db: Connection, row: Any) -> Delivery:
    topic, subscription = get_topic(db, row.topic), _subscription(db, subscriptions.c.arn == row.subscription)
    assert topic is not None  # both take their deliveries with them when they go
    assert subscription is not None
    return Delivery(row.id, topic, subscription, Message(**row.message), row.attempt + 1, row.created_at)


def release(db: Connection, owner: str, now: float) -> None:
    """Make due what an owner claimed: it has started anew, and nothing of what it tried is under way."""
    db.execute(
        deliveries.update()
        .where(deliveries.c.owner == owner, deliveries.c.state == "pending")
        .values(owner="", due_at=now)
    )


def arrived(db: Connection, delivery: Delivery) -> None:
    """It was delivered: forget it."""
    db.execute(deliveries.delete().where(*_held(delivery)))


def postpone(db: Connection, delivery: Delivery, until: float, reason: str) -> None:
    """It was not delivered and is tried again later."""
    db.execute(deliveries.update().where(*_held(delivery)).values(owner="", due_at=until, reason=reason))


def bury(db: Connection, delivery: Delivery, now: float, reason: str) -> None:
    """It was not delivered and is given up: a dead letter."""
    db.execute(deliveries.update().where(*_held(delivery)).values(state="dead", owner="", due_at=now, reason=reason))


def dead_letters(db: Connection, topic: str, limit: int = 100) -> list[DeadLetter]:
    """A topic's dead letters, newest first."""
    query = (
        sa.select(deliveries, subscriptions.c.endpoint)
        .join(subscriptions, subscriptions.c.arn == deliveries.c.subscription)
        .where(deliveries.c.topic == topic, deliveries.c.state == "dead")
        .order_by(deliveries.c.due_at.desc(), deliveries.c.id.desc())
        .limit(limit)
    )
    return [
        DeadLetter(
            row.id, row.subscription, row.endpoint, Message(**row.message), row.attempt, row.reason, row.created_at
        )
        for row in db.execute(query)
    ]


def redrive(db: Connection, topic: str, now: float) -> int:
    """Try a topic's dead letters once more, as if they were new; returns how many."""
    dead = (deliveries.c.topic == topic, deliveries.c.state == "dead")
    values = {"state": "pending", "attempt": 0, "due_at": now, "reason": ""}
    return db.execute(deliveries.update().where(*dead).values(values)).rowcount


def count_deliveries(db: Connection, topic: str) -> dict[str, int]:
    """How many deliveries of a topic there are, by state."""
    query = sa.select(deliveries.c.state, sa.func.count().label("number")).where(deliveries.c.topic == topic)
    return {row.state: row.number for row in db.execute(query.group_by(deliveries.c.state))}


def sweep(db: Connection, dead_before: float, unconfirmed_before: float) -> None:
    """Remove what is too old: dead letters, and subscriptions that nobody confirmed or took back."""
    old = (deliveries.c.state == "dead", deliveries.c.due_at < dead_before)
    db.execute(deliveries.delete().where(*old))
    forgotten = (subscriptions.c.confirmed.is_(False), subscriptions.c.created_at < unconfirmed_before)
    gone = sa.select(subscriptions.c.arn).where(*forgotten)
    db.execute(deliveries.delete().where(deliveries.c.subscription.in_(gone)))
    db.execute(subscriptions.delete().where(*forgotten))


def _held(delivery: Delivery) -> tuple[sa.ColumnElement[bool], ...]:
    return (
        deliveries.c.id == delivery.id,
        deliveries.c.state == "pending",
        deliveries.c.attempt == delivery.attempt,
    )
