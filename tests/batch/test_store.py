"""The queries on a job's plan, the same on SQLite and PostgreSQL."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from fourfold.store import Store, shards
from fourfold.store.schema import metadata
from fourfold.store.shards import Outcome
from tests.postgres import Postgres

NOW = 1_700_000_000.0
BIG = 5 * 2**32


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
    store.run_now(plan)
    yield store
    store.close()


def plan(db) -> None:
    """Object 0 in two shards, objects 1 and 2 in one; and a job that must not be touched."""
    for job in ("j", "other"):
        shards.add(
            db,
            [
                {"job": job, "number": i, "url": f"s3://b/in/{i}", "output": f"s3://b/out/{i}.out", "size": BIG}
                for i in range(3)
            ],
            [
                {"job": job, "number": i, "object": thing, "work": {"slices": [i], "name": "ü"}}
                for i, thing in enumerate((0, 0, None))
            ],
        )


def claim(db, now=NOW):
    return shards.claim(db, "j", "me", now, 60)


def test_shards_are_claimed_in_order_and_once(store):
    def play(db):
        claims = [claim(db) for _ in range(4)]
        assert [one and (one.number, one.object, one.attempt) for one in claims] == [
            (0, 0, 1), (1, 0, 1), (2, None, 1), None,
        ]  # fmt: skip
        assert claims[0].work == {"slices": [0], "name": "ü"}
        assert shards.unfinished(db, "j") == 3

    store.run_now(play)


def test_a_claim_is_lost_with_its_lease(store):
    def play(db):
        first = claim(db)
        assert claim(db, NOW + 59).number == 1
        second = claim(db, NOW + 61)
        assert (second.number, second.attempt) == (0, 2)
        shards.renew(db, [first], NOW + 1000)  # lost: changes nothing
        assert not shards.finish(db, first, {"part": "a"}, [], records=5)
        shards.renew(db, [second], NOW + 500)
        assert claim(db, NOW + 130).number == 1
        assert shards.finish(db, second, {"part": "b"}, [], records=7, errors=1)
        assert shards.progress(db, "j").records == 7

    store.run_now(play)


def test_an_object_is_whole_when_all_of_its_shards_are_done(store):
    def play(db):
        first, second, rest = (claim(db) for _ in range(3))
        assert shards.finish(db, second, {"part": 2}, [], records=BIG)
        assert shards.results(db, "j", 0) is None
        assert shards.whole(db, "j") == []
        assert shards.finish(db, first, {"part": 1}, [], records=BIG)
        assert shards.results(db, "j", 0) == [{"part": 1}, {"part": 2}]
        assert shards.whole(db, "j") == [0]
        shards.settle(db, "j", Outcome(0, records=2 * BIG))
        assert shards.whole(db, "j") == []
        assert shards.finish(db, rest, None, [Outcome(1, records=3, errors=2), Outcome(2, "broken")], records=3)
        progress = shards.progress(db, "j")
        assert (progress.objects, progress.objects_done, progress.objects_failed) == (3, 2, 1)
        assert (progress.shards, progress.shards_done, progress.records) == (3, 2, 2 * BIG + 3)
        assert [row.url for row in shards.failures(db, "j")] == ["s3://b/in/2"]
        assert [row.number for row in shards.with_errors(db, "j")] == [1]
        assert [row.output for row in shards.finished(db, "j")] == ["s3://b/out/0.out", "s3://b/out/1.out"]
        assert shards.progress(db, "other").shards_done == 0

    store.run_now(play)


def test_a_failed_object_takes_its_shards_with_it_until_it_is_retried(store):
    def play(db):
        first = claim(db)
        assert shards.finish(db, first, None, [Outcome(0, "line 1")])
        assert claim(db).number == 2
        assert claim(db) is None
        shards.retry(db, "j")
        assert shards.failures(db, "j") == []
        assert [claim(db).attempt for _ in range(3)] == [1, 1, 1]

    store.run_now(play)


def test_a_guilty_shard_is_scattered(store):
    def play(db):
        guilty = [claim(db) for _ in range(3)][2]
        shards.put_back(db, guilty)
        again = claim(db)
        assert (again.number, again.attempt) == (2, 2)
        shards.scatter(db, guilty, [{"slices": [9]}])  # an old claim: changes nothing
        assert shards.progress(db, "j").shards == 3
        shards.scatter(db, again, [{"slices": [7]}, {"slices": [8]}])
        assert [claim(db).work["slices"] for _ in range(2)] == [[7], [8]]

    store.run_now(play)


def test_a_restarted_owner_gives_back_what_it_held(store):
    def play(db):
        claim(db)
        shards.claim(db, "j", "somebody else", NOW, 60)
        shards.release(db, "me")
        assert claim(db).number == 0
        assert claim(db).number == 2
        shards.drop(db, "j")
        assert shards.progress(db, "j").shards == shards.progress(db, "j").objects == 0
        assert shards.progress(db, "other").shards == 3

    store.run_now(play)


def test_two_who_claim_at_once_get_different_shards(store):
    def one(_: int):
        with store.engine.begin() as db:
            return claim(db)

    with ThreadPoolExecutor(3) as threads:
        numbers = sorted(found.number for found in threads.map(one, range(3)) if found is not None)
    assert numbers == sorted(set(numbers))
    assert numbers
