"""Topics on a clock that the tests move: who hears of what, when it is tried again, what is given up."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager

import pytest

from fourfold.clock import ManualClock
from fourfold.control.couriers import Refused, Undelivered
from fourfold.control.topics import (
    AT_ONCE_EACH,
    DEAD_DAYS,
    LEASE,
    UNCONFIRMED_DAYS,
    InvalidParameter,
    TopicNotFound,
    Topics,
)
from fourfold.records import Partition
from fourfold.store import Store
from fourfold.store import topics as rows
from fourfold.store.schema import metadata

QUEUE = "arn:aws:sqs:us-east-1:123456789012:jobs"
OTHER = "arn:aws:sqs:us-east-1:123456789012:other"
DAY = 86400.0


class Carrier:
    """A courier that notes what it carries, and fails as it is told: by endpoint, one error for each attempt."""

    def __init__(self, clock):
        self.clock = clock
        self.carried = []
        self.errors = {}
        self.held = {}
        self.holding = 0

    async def carry(self, parcel, endpoint):
        self.carried.append((self.clock.now(), endpoint, parcel))
        if endpoint in self.held:
            self.holding += 1
            try:
                await self.held[endpoint].wait()
            finally:
                self.holding -= 1
        if self.errors.get(endpoint):
            raise self.errors[endpoint].pop(0)

    def times(self, endpoint=QUEUE):
        return [at for at, to, _ in self.carried if to == endpoint]

    def texts(self, endpoint=QUEUE):
        return [json.loads(parcel.body)["Message"] for _, to, parcel in self.carried if to == endpoint]


class Post:
    """A post office: a store, a clock and a carrier, and a loop that can be killed."""

    def __init__(self, folder):
        self.store = Store(f"sqlite:///{folder}/t.db")
        metadata.create_all(self.store.engine)
        self.clock = ManualClock()
        self.start = self.clock.now()
        self.carrier = Carrier(self.clock)

    @asynccontextmanager
    async def open(self, owner="local"):
        """The loop at work; leaving ends it as a crash would."""
        couriers = dict.fromkeys(("http", "https", "sqs"), self.carrier)
        self.topics = topics = Topics(self.store, Partition(), self.clock, couriers, "http://127.0.0.1:4004", owner)
        await topics.signer()  # makes its key in a thread, which this clock knows nothing of
        loop = asyncio.create_task(topics.run())
        try:
            yield topics
        finally:
            loop.cancel()
            await asyncio.gather(loop, return_exceptions=True)

    async def settle(self):
        """Let what is under way come to rest: signing and the store have threads of their own."""
        quiet = 0
        while quiet < 6:
            await self.store.run(lambda db: None)
            await self.clock.advance(0)
            busy = len(self.topics._tasks) > self.carrier.holding
            quiet = 0 if busy else quiet + 1
            if busy:
                await asyncio.sleep(0.001)

    async def pass_(self, seconds, step):
        await self.settle()
        while seconds > 0:
            await self.clock.advance(min(step, seconds))
            await self.settle()
            seconds -= step


@pytest.fixture
def post(tmp_path):
    post = Post(tmp_path)
    yield post
    post.store.close()


async def subscribed(topics, *endpoints, **attributes):
    arn = await topics.create("done", {}, {})
    for endpoint in endpoints:
        await topics.subscribe(arn, "sqs", endpoint, attributes)
    return arn


async def test_everybody_who_subscribed_hears_and_nobody_hears_twice(post):
    async with post.open() as topics:
        arn = await subscribed(topics, QUEUE, OTHER)
        await topics.publish(arn, "", "one")
        await topics.publish(arn, "", "two")
        await post.settle()
        await post.pass_(2 * LEASE, LEASE)
    assert sorted(post.carrier.texts(QUEUE)) == sorted(post.carrier.texts(OTHER)) == ["one", "two"]


async def test_tries_again_further_and_further_apart_until_it_arrives(post):
    post.carrier.errors[QUEUE] = [Undelivered("down")] * 4
    async with post.open() as topics:
        arn = await subscribed(topics, QUEUE)
        await topics.publish(arn, "", "hello")
        await post.pass_(20, 0.5)
        assert await topics.dead_letters(arn) == []
    assert [at - post.start for at in post.carrier.times()] == [0, 1, 3, 7, 15]
    ids = {parcel.headers["x-amz-sns-message-id"] for _, _, parcel in post.carrier.carried}
    assert len(ids) == 1


async def test_a_delivery_policy_bounds_the_attempts_and_then_it_is_a_dead_letter(post):
    policy = {"healthyRetryPolicy": {"numRetries": 2, "minDelayTarget": 5, "maxDelayTarget": 5}}
    post.carrier.errors[QUEUE] = [Undelivered("down")] * 3
    async with post.open() as topics:
        arn = await subscribed(topics, QUEUE, DeliveryPolicy=json.dumps(policy))
        await topics.publish(arn, "subject", "hello")
        await post.pass_(30, 2.5)
        [letter] = await topics.dead_letters(arn)
        assert (letter.message.text, letter.message.subject, letter.attempts) == ("hello", "subject", 3)
        assert letter.reason == "down"
        assert letter.endpoint == QUEUE
        assert [at - post.start for at in post.carrier.times()] == [0, 5, 10]

        assert await topics.redrive(arn) == 1
        await post.settle()
        assert await topics.dead_letters(arn) == []
    assert post.carrier.texts() == ["hello"] * 4


async def test_what_is_refused_is_not_tried_again(post):
    post.carrier.errors[QUEUE] = [Refused("404")]
    async with post.open() as topics:
        arn = await subscribed(topics, QUEUE)
        await topics.publish(arn, "", "hello")
        await post.settle()
        [letter] = await topics.dead_letters(arn)
    assert letter.attempts == 1


async def test_a_crash_in_the_middle_of_a_delivery_makes_it_happen_again(post):
    post.carrier.held[QUEUE] = asyncio.Event()
    async with post.open() as topics:
        arn = await subscribed(topics, QUEUE)
        await topics.publish(arn, "", "hello")
        await post.settle()
        assert len(post.carrier.carried) == 1
    del post.carrier.held[QUEUE]
    async with post.open():
        await post.settle()
    assert post.carrier.texts() == ["hello", "hello"]
    assert post.store.run_now(lambda db: rows.count_deliveries(db, arn)) == {}


async def test_what_another_gateway_had_begun_is_taken_over_when_its_lease_ends(post):
    post.carrier.held[QUEUE] = asyncio.Event()
    async with post.open() as topics:
        arn = await subscribed(topics, QUEUE)
        await topics.publish(arn, "", "hello")
        await post.settle()
    del post.carrier.held[QUEUE]
    async with post.open(owner="another"):
        await post.settle()
        assert len(post.carrier.carried) == 1  # it could be on its way still
        await post.pass_(LEASE + 1, LEASE / 4)
    assert post.carrier.texts() == ["hello", "hello"]


async def test_a_receiver_that_hangs_holds_up_nobody_else(post):
    post.carrier.held[QUEUE] = asyncio.Event()
    async with post.open() as topics:
        arn = await subscribed(topics, QUEUE, OTHER)
        for number in range(20):
            await topics.publish(arn, "", str(number))
        await post.settle()
        assert len(post.carrier.times(OTHER)) == 20
        assert AT_ONCE_EACH <= len(post.carrier.times(QUEUE)) < 2 * AT_ONCE_EACH
        post.carrier.held.pop(QUEUE).set()
        await post.settle()
    assert sorted(post.carrier.texts(QUEUE), key=int) == [str(number) for number in range(20)]


async def test_a_claim_that_was_lost_changes_nothing(post):
    async with post.open() as topics:
        arn = await subscribed(topics, QUEUE)
    now = post.clock.now()

    def play(db):
        rows.send(db, arn, rows.Message("Notification", "id", "hello", now), now)
        [first], _ = rows.claim(db, "a", now, LEASE, 10)
        [second], due = rows.claim(db, "a", now + LEASE, LEASE, 10)
        assert (first.attempt, second.attempt, due) == (1, 2, now + 2 * LEASE)
        rows.arrived(db, first)
        rows.bury(db, first, now, "late")
        rows.postpone(db, first, now, "late")
        assert rows.count_deliveries(db, arn) == {"pending": 1}
        assert rows.claim(db, "a", now + LEASE, LEASE, 10) == ([], now + 2 * LEASE)
        rows.arrived(db, second)
        assert rows.count_deliveries(db, arn) == {}

    post.store.run_now(play)


async def test_a_url_hears_nothing_before_it_has_confirmed(post):
    async with post.open() as topics:
        arn = await topics.create("done", {}, {})
        subscription = await topics.subscribe(arn, "http", "http://hook.example/x", {})
        await topics.publish(arn, "", "too early")
        await post.settle()
        [(_, _, parcel)] = post.carrier.carried
        assert json.loads(parcel.body)["Type"] == "SubscriptionConfirmation"
        with pytest.raises(InvalidParameter, match="Token"):
            await topics.confirm(arn, "wrong", {})
        await topics.confirm(arn, json.loads(parcel.body)["Token"], {"AuthenticateOnUnsubscribe": "true"})
        await topics.publish(arn, "", "now")
        await post.settle()
        assert post.carrier.texts("http://hook.example/x")[1:] == ["now"]
        with pytest.raises(InvalidParameter, match="signed"):
            await topics.unsubscribe(subscription.arn, authenticated=False)
        await topics.unsubscribe(subscription.arn)
        await topics.publish(arn, "", "gone")
        await post.settle()
    assert len(post.carrier.carried) == 3
    assert json.loads(post.carrier.carried[-1][2].body)["Type"] == "UnsubscribeConfirmation"


async def test_an_ended_subscription_can_be_taken_back(post):
    url = "http://hook.example/x"

    def newest() -> dict:
        return json.loads(post.carrier.carried[-1][2].body)

    async with post.open() as topics:
        arn = await topics.create("done", {}, {})
        subscription = await topics.subscribe(arn, "http", url, {"RawMessageDelivery": "true"})
        await post.settle()
        asked = newest()
        await topics.confirm(arn, asked["Token"], {})
        await topics.unsubscribe(subscription.arn)
        await topics.unsubscribe(subscription.arn)  # it is not there any more
        assert await topics.subscriptions(arn) == []
        assert (await topics.get(arn))[1] == {}
        with pytest.raises(TopicNotFound):
            await topics.get_subscription(subscription.arn)
        await topics.publish(arn, "", "unheard")
        await post.settle()
        told = newest()
        assert (told["Type"], subscription.arn in told["Message"]) == ("UnsubscribeConfirmation", True)
        assert told["Token"] in told["SubscribeURL"]
        with pytest.raises(InvalidParameter, match="Token"):
            await topics.confirm(arn, asked["Token"], {})
        assert (await topics.confirm(arn, told["Token"], {})).arn == subscription.arn
        await topics.publish(arn, "", "heard")
        await post.settle()
        assert post.carrier.carried[-1][2].body == b"heard"

        await topics.unsubscribe(subscription.arn)
        again = await topics.subscribe(arn, "http", url, {})
        assert (again.arn != subscription.arn, again.confirmed) == (True, False)
        await post.settle()
        assert newest()["Type"] == "SubscriptionConfirmation"


async def test_an_ended_subscription_is_forgotten(post):
    async with post.open() as topics:
        arn = await topics.create("done", {}, {})
        subscription = await topics.subscribe(arn, "http", "http://hook.example", {})
        await post.settle()
        await topics.confirm(arn, subscription.token, {})
        await topics.unsubscribe(subscription.arn)
        await post.settle()
        token = json.loads(post.carrier.carried[-1][2].body)["Token"]
        await post.pass_(UNCONFIRMED_DAYS * DAY + 7200, DAY / 2)
        await post.settle()
        with pytest.raises(InvalidParameter, match="Token"):
            await topics.confirm(arn, token, {})


async def test_subscribing_again_asks_again_and_makes_no_second_subscription(post):
    async with post.open() as topics:
        arn = await topics.create("done", {}, {})
        first = await topics.subscribe(arn, "http", "http://hook.example", {})
        second = await topics.subscribe(arn, "http", "http://hook.example", {})
        await post.settle()
        assert first == second
        assert len(await topics.subscriptions(arn)) == 1
    assert len(post.carrier.carried) == 2


async def test_deposit_is_part_of_the_callers_transaction(post):
    async with post.open() as topics:
        arn = await subscribed(topics, QUEUE)

        def fails(db):
            topics.deposit(db, arn, "", "never")
            raise RuntimeError("rolled back")

        with pytest.raises(RuntimeError):
            await post.store.run(fails)
        await post.store.run(lambda db: topics.deposit(db, arn, "", "kept"))
        topics.wake()
        await post.settle()
    assert post.carrier.texts() == ["kept"]


async def test_what_is_old_is_swept_away(post):
    post.carrier.errors[QUEUE] = [Refused("no")]
    async with post.open() as topics:
        arn = await subscribed(topics, QUEUE)
        await topics.subscribe(arn, "http", "http://hook.example", {})
        await topics.publish(arn, "", "hello")
        await post.settle()
        await post.pass_(UNCONFIRMED_DAYS * DAY + 7200, DAY / 2)
        assert [one.protocol for one in await topics.subscriptions(arn)] == ["sqs"]
        assert len(await topics.dead_letters(arn)) == 1
        await post.pass_(DEAD_DAYS * DAY, DAY / 2)
        assert await topics.dead_letters(arn) == []


async def test_a_topic_is_made_once_and_takes_everything_with_it(post):
    post.carrier.held[QUEUE] = asyncio.Event()
    async with post.open() as topics:
        arn = await subscribed(topics, QUEUE)
        assert await topics.create("done", {}, {}) == arn
        with pytest.raises(InvalidParameter, match="already exists with different attributes"):
            await topics.create("done", {"DisplayName": "x"}, {})
        await topics.publish(arn, "", "hello")
        await post.settle()
        await topics.delete(arn)
        await topics.delete(arn)
        with pytest.raises(TopicNotFound):
            await topics.publish(arn, "", "hello")
        assert await topics.subscriptions(None) == []
        post.carrier.held[QUEUE].set()
        await post.settle()
        assert await topics.counts(arn) == {}


@pytest.mark.parametrize(
    ("protocol", "endpoint", "attributes", "message"),
    [
        ("email", "me@example.com", {}, "'email' is none of"),
        ("http", "https://x.example", {}, "http://"),
        ("https", "x.example", {}, "https://"),
        ("http", "http://x.example/a b", {}, "http://"),
        ("http", "http://x.example\r\nx: y", {}, "http://"),
        ("http", "http://x.example:99999", {}, "http://"),
        ("sqs", "http://x.example", {}, "ARN of a queue"),
        ("sqs", QUEUE, {"FilterPolicy": '{"a": 1}'}, "FilterPolicy: a needs a list"),
        ("sqs", QUEUE, {"RedrivePolicy": "{}"}, "RedrivePolicy not supported"),
        ("sqs", QUEUE, {"RawMessageDelivery": "yes"}, "true or false"),
        ("sqs", QUEUE, {"DeliveryPolicy": "{"}, "DeliveryPolicy"),
        ("sqs", QUEUE, {"DeliveryPolicy": '{"healthyRetryPolicy": {"numRetries": 101}}'}, "numRetries"),
        ("sqs", QUEUE, {"DeliveryPolicy": '{"healthyRetryPolicy": {"minDelayTarget": 0}}'}, "minDelayTarget"),
    ],
)
async def test_subscriptions_that_make_no_sense_are_refused(post, protocol, endpoint, attributes, message):
    async with post.open() as topics:
        arn = await topics.create("done", {}, {})
        with pytest.raises(InvalidParameter, match=message):
            await topics.subscribe(arn, protocol, endpoint, attributes)


@pytest.mark.parametrize(
    ("subject", "message", "words"),
    [("", "", "Empty"), ("", "x" * 262_145, "too long"), ("x" * 101, "m", "Subject"), ("a\nb", "m", "Subject")],
)
async def test_messages_that_make_no_sense_are_refused(post, subject, message, words):
    async with post.open() as topics:
        arn = await topics.create("done", {}, {})
        with pytest.raises(InvalidParameter, match=words):
            await topics.publish(arn, subject, message)


async def test_topic_names_are_checked(post):
    async with post.open() as topics:
        for name in ("", "a b", "x" * 257, "orders.fifo"):
            with pytest.raises(InvalidParameter, match="Topic Name"):
                await topics.create(name, {}, {})


async def test_a_subscription_whose_protocol_is_not_served_any_more_is_told_so(post):
    async with post.open() as topics:
        arn = await subscribed(topics, QUEUE)
        topics._couriers = {}
        await topics.publish(arn, "", "hello")
        await post.settle()
        [letter] = await topics.dead_letters(arn)
    assert "sqs" in letter.reason


def attribute(value, kind="String"):
    return {"DataType": kind, "Value": value}


async def test_a_subscriber_hears_only_what_its_filter_policy_wants(post):
    async with post.open() as topics:
        arn = await topics.create("done", {}, {})
        await topics.subscribe(arn, "sqs", QUEUE, {"FilterPolicy": '{"status": ["failed"]}'})
        await topics.subscribe(arn, "sqs", OTHER, {})
        await topics.publish(arn, "", "one", attributes={"status": attribute("failed")})
        await topics.publish(arn, "", "two", attributes={"status": attribute("done")})
        await post.settle()
        assert sorted(post.carrier.texts(QUEUE)) == ["one"]
        assert sorted(post.carrier.texts(OTHER)) == ["one", "two"]
        [mine] = [found for found in await topics.subscriptions(arn) if found.endpoint == QUEUE]
        await topics.set_subscription_attribute(mine.arn, "FilterPolicyScope", "MessageBody")
        await topics.set_subscription_attribute(mine.arn, "FilterPolicy", '{"call": {"status": ["failed"]}}')
        await topics.publish(arn, "", '{"call": {"status": "failed"}}')
        await topics.publish(arn, "", "no JSON")
        await post.settle()
        assert len(post.carrier.texts(QUEUE)) == 2
