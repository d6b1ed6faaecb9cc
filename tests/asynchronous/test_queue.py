"""The queue's state machine against a model of it, on SQLite and on PostgreSQL."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Barrier

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from fourfold.store import Store, queue
from fourfold.store.migrate import upgrade
from fourfold.store.queue import Accepted, Claim, NewCall, Return, Settlement, Token
from tests.postgres import Postgres

LEASE = 30.0
OUTCOMES = ("completed", "failed")
ENDPOINTS = ("a", "b")


@pytest.fixture(scope="module")
def postgres():
    server = Postgres()
    yield server
    server.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request, tmp_path):
    url = f"sqlite:///{tmp_path}/queue.db"
    if request.param == "postgresql":
        url = request.getfixturevalue("postgres").database()
    store = Store(url)
    upgrade(store)
    yield store
    store.close()


def call(name: str, *, key: str | None = None, expires_at: float = 1e9, body: bytes | None = None) -> NewCall:
    return NewCall(name, f"s3://b/{name}.out", f"s3://b/{name}-error.out", "{}", expires_at, body, key)


def accept(store: Store, *names: str, most: int = 1000, **more) -> list[Accepted | None]:
    return store.run_now(lambda db: queue.accept(db, "a", [call(name, **more) for name in names], 0.0, most))[0]


def claim(store: Store, most: int = 100, *, owner: str = "one", now: float = 1.0) -> list[Claim]:
    return store.run_now(lambda db: queue.claim(db, "a", owner, now, LEASE, most))


def settle(store: Store, *claims: Claim, verdict: str = "done", body: bytes | None = None) -> set[Token]:
    return store.run_now(lambda db: queue.settle(db, [Settlement(each.token, verdict, body) for each in claims]))


def names(claims: list[Claim]) -> list[str]:
    return [each.inference_id for each in claims]


def test_first_in_first_out_and_each_once(store):
    accept(store, "1", "2", "3", body=b"x")
    assert [(each.inference_id, each.body) for each in claim(store, 2)] == [("1", b"x"), ("2", b"x")]
    assert names(claim(store, 2)) == ["3"]
    assert claim(store) == []


def test_calls_that_none_wait_before_are_claimed_as_they_are_accepted(store):
    def accept_for(most: int, *names: str) -> list[Claim]:
        new = [call(name, body=b"x", key=name) for name in names]
        return store.run_now(lambda db: queue.accept(db, "a", new, 5.0, 100, room=queue.Room("one", LEASE, most)))[1]

    claims = accept_for(2, "1", "2", "3")
    assert accept_for(2, "4") == []
    store.run_now(lambda db: queue.release(db, "one", 6.0))
    again = claim(store, now=7.0)
    assert [each._replace(token=each.token._replace(attempt=1)) for each in again[:2]] == claims
    assert names(again) == ["1", "2", "3", "4"]
    assert [each.token.attempt for each in again] == [2, 2, 1, 1]
    assert names(accept_for(2, "4", "5")) == ["5"]  # the key of 4 is known


def test_who_lost_the_lease_settles_nothing(store):
    accept(store, "1")
    (old,) = claim(store, owner="dead")
    store.run_now(lambda db: queue.reclaim(db, 1.0 + LEASE + 0.1))
    (new,) = claim(store, now=40.0)
    assert settle(store, old) == set()
    assert settle(store, new) == {new.token}
    assert settle(store, new) == set()


def test_what_was_decided_is_published_by_somebody_until_it_is_finished(store):
    accept(store, "1", "2")
    one, two = claim(store)
    settle(store, one, two, verdict="v", body=b"answer")
    found = store.run_now(lambda db: queue.to_publish(db, "one", 2.0, LEASE, 10))
    assert [(each.inference_id, each.verdict, each.body) for each in found] == [
        ("1", "v", b"answer"), ("2", "v", b"answer"),
    ]  # fmt: skip
    assert store.run_now(lambda db: queue.to_publish(db, "other", 2.0, LEASE, 10)) == []
    store.run_now(lambda db: queue.finish(db, [(one.token, "completed")], 3.0))
    later = store.run_now(lambda db: queue.to_publish(db, "other", 2.0 + LEASE, LEASE, 10))
    assert [each.token for each in later] == [two.token]
    assert store.run_now(lambda db: queue.count(db, "a")) == queue.Counts(running=1, completed=1)


def test_a_key_stands_for_one_call(store):
    first = accept(store, "1", key="k")
    assert accept(store, "2", key="k") == first
    again, _ = store.run_now(
        lambda db: queue.accept(db, "a", [call("3", key="x"), call("4", key="x"), call("5")], 0.0, 100)
    )
    assert [each.inference_id for each in again if each] == ["3", "3", "5"]
    assert names(claim(store)) == ["1", "3", "5"]


def test_past_the_backlog_the_rest_is_refused(store):
    answers = accept(store, "1", "2", "3", most=2)
    assert [each.inference_id if each else None for each in answers] == ["1", "2", None]
    assert accept(store, "4", most=2) == [None]
    assert accept(store, "5", most=2, key="k") == [None]
    claim(store, 1)
    assert accept(store, "6", most=2) != [None]


def test_a_call_that_waited_too_long_expires(store):
    accept(store, "1", expires_at=5.0)
    accept(store, "2")
    assert store.run_now(lambda db: queue.settle_queued(db, queue.expired(5.0), "late", "one", 9.0, 10)) == 1
    assert names(claim(store, now=6.0)) == ["2"]
    (late,) = store.run_now(lambda db: queue.to_publish(db, "one", 6.0, LEASE, 10))
    assert (late.inference_id, late.verdict) == ("1", "late")


def test_a_retry_waits_for_its_time_and_then_goes_first(store):
    accept(store, "1", "2", "3")
    (one,) = claim(store, 1)
    store.run_now(lambda db: queue.give_back(db, [Return(one.token, 5.0, fault=True)]))
    assert names(claim(store, 1, now=2.0)) == ["2"]
    (again,) = claim(store, 1, now=5.0)
    assert (again.inference_id, again.token.attempt, again.faults) == ("1", 2, 1)


def test_cancelling_takes_a_running_call_away(store):
    accept(store, "1", "2")
    (one,) = claim(store, 1)
    for name in ("1", "2"):
        row = store.run_now(lambda db, name=name: queue.find(db, "a", name))
        assert store.run_now(lambda db, row=row: queue.cancel(db, "a", row.number, "cancelled", "one", 9.0))
    assert settle(store, one) == set()
    assert claim(store) == []
    found = store.run_now(lambda db: queue.to_publish(db, "one", 2.0, LEASE, 10))
    assert [each.verdict for each in found] == ["cancelled", "cancelled"]


def test_retry_and_forget(store):
    accept(store, "1", body=b"in")
    (one,) = claim(store)
    settle(store, one)
    store.run_now(lambda db: queue.finish(db, [(one.token, "failed")], 3.0))
    assert store.run_now(lambda db: queue.retry(db, "a", one.token.number, 1e9))
    assert not store.run_now(lambda db: queue.retry(db, "a", one.token.number, 1e9))
    (again,) = claim(store)
    assert (again.body, again.faults) == (b"in", 0)
    settle(store, again, body=b"out")
    store.run_now(lambda db: queue.finish(db, [(again.token, "completed")], 4.0))
    assert store.run_now(lambda db: queue.forget(db, 4.0, 10)) == 0
    assert store.run_now(lambda db: queue.forget(db, 4.1, 10)) == 1
    assert store.run_now(lambda db: queue.count(db, "a")) == queue.Counts()
    assert store.run_now(lambda db: db.execute(sa.select(queue.payloads)).all()) == []


def test_places_and_lists(store):
    accept(store, *map(str, range(1, 8)))
    taken = claim(store, 2)
    settle(store, *taken)
    store.run_now(lambda db: queue.finish(db, [(each.token, "completed") for each in taken], 3.0))
    assert store.run_now(lambda db: queue.place(db, "a", 5)) == 3

    def page(states, before=None):
        rows = store.run_now(lambda db: queue.list_calls(db, "a", states, 3, before))
        return [row.inference_id for row in rows]

    assert page(("queued", "completed")) == ["7", "6", "5"]
    assert page(("queued", "completed"), 5) == ["4", "3", "2"]
    assert page(("completed",)) == ["2", "1"]


def test_two_dispatchers_share_the_work_and_do_none_twice(store):
    accept(store, *map(str, range(300)))
    claimed: list[list[str]] = [[], []]

    both = Barrier(2)

    def work(who: int) -> None:
        both.wait()
        while found := claim(store, 7, owner=f"dispatcher-{who}"):
            claimed[who] += names(found)
            assert settle(store, *found) == {each.token for each in found}
            store.run_now(lambda db, found=found: queue.finish(db, [(each.token, "completed") for each in found], 2.0))

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(work, (0, 1)))
    assert sorted(map(int, itertools.chain(*claimed))) == list(range(300))
    assert store.run_now(lambda db: queue.count(db, "a")) == queue.Counts(completed=300)


@pytest.mark.parametrize(
    "look",
    [
        lambda db: queue.claim(db, "a", "one", 1.0, LEASE, 10),
        lambda db: queue.settle(db, [Settlement(Token("a", 1, 1), "v")]),
        lambda db: queue.finish(db, [(Token("a", 1, 1), "completed"), (Token("a", 2, 1), "failed")], 1.0),
        lambda db: queue.settle_queued(db, queue.expired(1.0), "v", "one", 1.0, 10),
        lambda db: queue.reclaim(db, 1.0),
        lambda db: queue.to_publish(db, "one", 1.0, LEASE, 10),
        lambda db: queue.forget(db, 1.0, 10),
        lambda db: queue.find(db, "a", "5"),
        lambda db: queue.place(db, "a", 9),
        lambda db: queue.list_calls(db, "a", ("queued", "failed"), 10),
        lambda db: queue.oldest(db, "a"),
    ],
)
def test_no_query_reads_the_whole_table(tmp_path, look):
    store = Store(f"sqlite:///{tmp_path}/queue.db")
    upgrade(store)
    accept(store, *map(str, range(10)))
    statements: list[str] = []
    with store.engine.begin() as db:
        driver = db.connection.driver_connection
        driver.set_trace_callback(statements.append)
        look(db)
        driver.set_trace_callback(None)
        plans = [
            row[3]
            for statement in statements
            if statement.startswith(("SELECT", "UPDATE", "DELETE", "WITH"))
            for row in driver.execute(f"EXPLAIN QUERY PLAN {statement}")
        ]
    store.close()
    scans = [plan for plan in plans if plan.startswith("SCAN") and "async" in plan and "USING" not in plan]
    assert plans
    assert scans == []


# A model of the queue, and whatever may be done to it in any order


@dataclass
class Modelled:
    """A call as it should be."""

    endpoint: str
    number: int
    expires_at: float
    state: str = "queued"
    attempt: int = 0
    faults: int = 0
    not_before: float = 0.0
    owner: str = ""
    lease_until: float = 0.0
    outcomes: list[str] = field(default_factory=list)


class QueueMachine(RuleBasedStateMachine):
    """Two dispatchers, of which any may be dead at any time, on one queue."""

    claims = Bundle("claims")

    @initialize()
    def start(self) -> None:
        self.store = Store("sqlite://")
        upgrade(self.store)
        self.now = 100.0
        self.calls: dict[tuple[str, int], Modelled] = {}

    def teardown(self) -> None:
        self.store.close()

    @rule(
        target=claims,
        endpoint=st.sampled_from(ENDPOINTS),
        count=st.integers(1, 4),
        ttl=st.sampled_from([5.0, 500.0]),
        owner=st.sampled_from(["x", "y"]),
        wanted=st.integers(0, 3),
    )
    def accept(self, endpoint: str, count: int, ttl: float, owner: str, wanted: int):
        queued = sum(c.state == "queued" and c.endpoint == endpoint for c in self.calls.values())
        room = max(0, min(count, 12 - queued))
        at_once = min(wanted, room) if not queued else 0
        first = 1 + sum(c.endpoint == endpoint for c in self.calls.values())
        new = [call(f"{endpoint}{first + i}", expires_at=self.now + ttl) for i in range(count)]
        answers, claimed = self.store.run_now(
            lambda db: queue.accept(db, endpoint, new, self.now, 12, room=queue.Room(owner, LEASE, wanted))
        )
        assert [answer is not None for answer in answers] == [True] * room + [False] * (count - room)
        for i in range(room):
            self.calls[endpoint, first + i] = c = Modelled(endpoint, first + i, self.now + ttl)
            if i < at_once:
                c.state, c.owner, c.lease_until, c.attempt = "running", owner, self.now + LEASE, 1
        assert [each.token for each in claimed] == [Token(endpoint, first + i, 1) for i in range(at_once)]
        return multiple(*(each.token for each in claimed))

    @rule(target=claims, endpoint=st.sampled_from(ENDPOINTS), owner=st.sampled_from(["x", "y"]), most=st.integers(1, 5))
    def claim(self, endpoint: str, owner: str, most: int):
        found = self.store.run_now(lambda db: queue.claim(db, endpoint, owner, self.now, LEASE, most))
        ready = [
            c for c in self.calls.values()
            if c.endpoint == endpoint and c.state == "queued" and c.not_before <= self.now < c.expires_at
        ]  # fmt: skip
        expected = sorted(ready, key=lambda c: c.number)[:most]
        for c in expected:
            c.state, c.owner, c.lease_until, c.attempt = "running", owner, self.now + LEASE, c.attempt + 1
        assert [each.token for each in found] == [Token(c.endpoint, c.number, c.attempt) for c in expected]
        return multiple(*(each.token for each in found))

    def holds(self, token: Token) -> Modelled | None:
        c = self.calls[token.endpoint, token.number]
        return c if c.state == "running" and c.attempt == token.attempt else None

    @rule(token=claims, outcome=st.sampled_from(OUTCOMES))  # not consumed: a claim may be used twice, or long after
    def settle(self, token: Token, outcome: str) -> None:
        won = self.store.run_now(lambda db: queue.settle(db, [Settlement(token, outcome, b"x")]))
        c = self.holds(token)
        assert won == ({token} if c else set())
        if c:
            c.state = "publishing"
            c.outcomes.append(outcome)

    @rule(token=consumes(claims), pause=st.sampled_from([0.0, 3.0]), fault=st.booleans())
    def give_back(self, token: Token, pause: float, fault: bool) -> None:
        self.store.run_now(lambda db: queue.give_back(db, [Return(token, self.now + pause, fault)]))
        if c := self.holds(token):
            c.state, c.not_before, c.faults = "queued", self.now + pause, c.faults + fault

    @rule(owner=st.sampled_from(["x", "y"]))
    def crash_and_restart(self, owner: str) -> None:
        self.store.run_now(lambda db: queue.release(db, owner, self.now))
        for c in self.calls.values():
            if c.state == "running" and c.owner == owner:
                c.state, c.not_before = "queued", self.now

    @rule(owner=st.sampled_from(["x", "y"]))
    def renew(self, owner: str) -> None:
        self.store.run_now(lambda db: queue.renew(db, owner, self.now + LEASE))
        for c in self.calls.values():
            if c.state in ("running", "publishing") and c.owner == owner:
                c.lease_until = self.now + LEASE

    @rule(seconds=st.sampled_from([1.0, 6.0, LEASE + 1]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.store.run_now(lambda db: queue.reclaim(db, self.now))
        self.store.run_now(lambda db: queue.settle_queued(db, queue.expired(self.now), "expired", "x", self.now, 99))
        for c in self.calls.values():
            if c.state == "running" and c.lease_until < self.now:
                c.state, c.not_before = "queued", self.now
            if c.state == "queued" and c.expires_at <= self.now:
                c.state, c.owner, c.lease_until = "publishing", "x", self.now
                c.outcomes.append("expired")

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        if not self.calls:
            return
        c = self.calls[data.draw(st.sampled_from(sorted(self.calls)))]
        done = self.store.run_now(
            lambda db: queue.cancel(db, c.endpoint, c.number, "cancelled", "x", self.now + LEASE)
        )  # fmt: skip
        assert done == (c.state in ("queued", "running"))
        if done:
            c.state, c.owner, c.lease_until, c.attempt = "publishing", "x", self.now + LEASE, c.attempt + 1
            c.outcomes.append("cancelled")

    @rule(owner=st.sampled_from(["x", "y"]), finish=st.booleans())
    def publish(self, owner: str, finish: bool) -> None:
        found = self.store.run_now(lambda db: queue.to_publish(db, owner, self.now, LEASE, 99))
        for each in found:
            c = self.calls[each.token.endpoint, each.token.number]
            assert c.state == "publishing"
            assert each.verdict == c.outcomes[-1]
            if c.owner != owner:
                c.owner, c.lease_until = owner, self.now + LEASE
        if finish:
            ends = [(each.token, each.verdict) for each in found]
            self.store.run_now(lambda db: queue.finish(db, ends, self.now))
            for each in found:
                c = self.calls[each.token.endpoint, each.token.number]
                c.state = each.verdict

    @rule(data=st.data())
    def retry(self, data: st.DataObject) -> None:
        ended = [place for place, c in self.calls.items() if c.state in ("failed", "expired", "cancelled")]
        if ended:
            c = self.calls[data.draw(st.sampled_from(sorted(ended)))]
            assert self.store.run_now(lambda db: queue.retry(db, c.endpoint, c.number, self.now + 50))
            c.state, c.faults, c.not_before, c.expires_at = "queued", 0, 0.0, self.now + 50
            c.outcomes.clear()

    @invariant()
    def the_store_is_as_the_model_says(self) -> None:
        if not hasattr(self, "store"):
            return
        rows = self.store.run_now(lambda db: db.execute(sa.select(queue.calls)).all())
        assert {(r.endpoint, r.number): (r.state, r.attempt, r.faults) for r in rows} == {
            place: (c.state, c.attempt, c.faults) for place, c in self.calls.items()
        }
        assert all(len(c.outcomes) <= 1 for c in self.calls.values())

    @invariant()
    def the_counts_are_those_of_the_calls(self) -> None:
        if not hasattr(self, "store"):
            return
        counted = self.store.run_now(queue.every_count)
        for endpoint in ENDPOINTS:
            states = ["running" if c.state == "publishing" else c.state for c in self.calls.values()
                      if c.endpoint == endpoint]  # fmt: skip
            assert vars(counted.get(endpoint, queue.Counts())) == {
                state: states.count(state) for state in vars(queue.Counts())
            }


TestQueueMachine = QueueMachine.TestCase
TestQueueMachine.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
