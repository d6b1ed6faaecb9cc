"""The queries on topics, the same on SQLite and PostgreSQL."""

from __future__ import annotations

import pytest

from fourfold.store import Store
from fourfold.store import topics as rows
from fourfold.store.schema import metadata
from fourfold.store.topics import Message, Subscription, Topic
from tests.postgres import Postgres

TOPIC = "arn:aws:sns:us-east-1:123456789012:t"
NOW = 1_700_000_000.0


@pytest.fixture(scope="module")
def postgres():
    server = Postgres()
    yield server
    server.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request, tmp_path):
    url = f"sqlite:///{tmp_path}/t.db"
    if request.param == "postgresql":
        url = request.getfixturevalue("postgres").database()
    store = Store(url)
    metadata.create_all(store.engine)
    yield store
    store.close()


def prepared(db) -> None:
    rows.add_topic(db, Topic(TOPIC, "t", "secret", {"SignatureVersion": "2"}, NOW))
    for number, confirmed in enumerate((True, True, False)):
        arn = f"{TOPIC}:{number}"
        rows.add_subscription(
            db, Subscription(arn, TOPIC, "http", f"http://h/{number}", confirmed, f"token{number}", {}, NOW)
        )


def message(text: str) -> Message:
    return Message("Notification", text, text, NOW, attributes={"a": {"DataType": "String", "Value": "ü"}})


def test_a_message_goes_to_those_who_have_confirmed(store):
    def play(db):
        prepared(db)
        rows.send(db, TOPIC, message("m"), NOW)
        rows.send(db, TOPIC, message("c"), NOW, only=f"{TOPIC}:2")
        claimed, due = rows.claim(db, "a", NOW, 60, 10)
        assert sorted((one.subscription.arn[-1], one.message.text) for one in claimed) == [
            ("0", "m"), ("1", "m"), ("2", "c"),
        ]  # fmt: skip
        assert claimed[0].message == message(claimed[0].message.text)
        assert claimed[0].topic.attributes == {"SignatureVersion": "2"}
        assert due == NOW + 60

    store.run_now(play)


def test_claims_leave_out_the_busy_and_are_released(store):
    def play(db):
        prepared(db)
        rows.send(db, TOPIC, message("m"), NOW)
        [one], due = rows.claim(db, "a", NOW, 60, 10, without=[f"{TOPIC}:0"])
        assert one.subscription.arn == f"{TOPIC}:1"
        assert due == NOW + 60
        rows.release(db, "another", NOW)
        assert rows.claim(db, "a", NOW, 60, 10, without=[f"{TOPIC}:0"])[0] == []
        rows.release(db, "a", NOW)
        assert rows.claim(db, "a", NOW, 60, 10, without=[f"{TOPIC}:0"])[0][0].attempt == 2

    store.run_now(play)


def test_dead_letters_are_listed_sent_again_and_swept(store):
    def play(db):
        prepared(db)
        rows.send(db, TOPIC, message("m"), NOW)
        for claimed in rows.claim(db, "a", NOW, 60, 10)[0]:
            rows.bury(db, claimed, NOW, "no")
        assert [letter.reason for letter in rows.dead_letters(db, TOPIC)] == ["no", "no"]
        assert rows.count_deliveries(db, TOPIC) == {"dead": 2}
        assert rows.redrive(db, TOPIC, NOW) == 2
        for claimed in rows.claim(db, "a", NOW, 60, 10)[0]:
            assert claimed.attempt == 1
            rows.bury(db, claimed, NOW + 1, "no")
        rows.sweep(db, NOW, NOW)
        assert rows.count_deliveries(db, TOPIC) == {"dead": 2}
        rows.sweep(db, NOW + 2, NOW + 1)
        assert rows.count_deliveries(db, TOPIC) == {}
        assert rows.count_subscriptions(db, TOPIC) == {True: 2}

    store.run_now(play)


def test_two_gateways_claim_different_deliveries(store):
    store.run_now(prepared)
    for number in range(10):
        store.run_now(lambda db, number=number: rows.send(db, TOPIC, message(str(number)), NOW))
    if store.engine.dialect.name == "sqlite":
        first = store.run_now(lambda db: rows.claim(db, "a", NOW, 60, 10))[0]
        second = store.run_now(lambda db: rows.claim(db, "b", NOW, 60, 10))[0]
    else:
        with store.engine.begin() as one, store.engine.begin() as other:  # at the same time
            first, second = rows.claim(one, "a", NOW, 60, 10)[0], rows.claim(other, "b", NOW, 60, 10)[0]
    assert len({delivery.id for delivery in (*first, *second)}) == 20


def test_subscriptions_and_topics(store):
    def play(db):
        prepared(db)
        assert rows.confirm(db, TOPIC, "wrong", {}) is None
        rows.confirm(db, TOPIC, "token2", {"AuthenticateOnUnsubscribe": "true"})
        found = rows.get_subscription(db, f"{TOPIC}:2")
        assert (found.confirmed, found.attributes) == (True, {"AuthenticateOnUnsubscribe": "true"})
        assert [one.arn[-1] for one in rows.list_subscriptions(db, TOPIC, f"{TOPIC}:0")] == ["1", "2"]
        rows.send(db, TOPIC, message("m"), NOW)
        assert rows.delete_subscription(db, f"{TOPIC}:2")
        assert rows.count_deliveries(db, TOPIC) == {"pending": 2}
        rows.delete_topic(db, TOPIC)
        assert (rows.list_topics(db), rows.list_subscriptions(db), rows.count_deliveries(db, TOPIC)) == ([], [], {})

    store.run_now(play)
