"""What processes of many models weigh: estimates between two weighings."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fourfold.pool.weights import WEIGH_SECONDS, Weights

MEGABYTE = 2**20
EMPTY = 20 * MEGABYTE


@given(st.lists(st.integers(1, 50), min_size=1, max_size=20), st.integers(1, 5))
def test_what_has_not_been_weighed_is_taken_for_ordinary(sizes, coming):
    weights = Weights()
    weights.began(1, EMPTY)
    models = {1: len(sizes)}
    assert weights.due(models, 0.0) == [1]
    weights.record({1: EMPTY + sum(sizes) * MEGABYTE}, models)
    ordinary = sum(sizes) / len(sizes) * MEGABYTE
    assert weights.with_workers(len(sizes)) == weights.total
    assert weights.with_workers(len(sizes) + coming) == weights.total + coming * ordinary


@given(st.lists(st.integers(1, 50), min_size=1, max_size=20))
def test_a_shared_process_without_models_weighs_what_it_did_at_first(sizes):
    weights = Weights()
    weights.began(1, EMPTY)
    weights.due({1: len(sizes)}, 0.0)
    weights.record({1: EMPTY + sum(sizes) * MEGABYTE}, {1: len(sizes)})
    before = weights.total
    for _ in sizes:
        weights.left([1])
        assert EMPTY <= weights.total < before
        before = weights.total
    assert abs(weights.total - EMPTY) < 1


def test_a_process_of_one_models_own_takes_all_with_it():
    weights = Weights()
    weights.record({1: 30 * MEGABYTE, 2: 10 * MEGABYTE}, {1: 1, 2: 1})
    weights.left([1])
    assert weights.total == 10 * MEGABYTE


def test_weighed_is_what_changed_and_now_and_then_everything():
    weights = Weights()
    weights.began(1, EMPTY)
    assert weights.due({1: 2, 2: 1}, WEIGH_SECONDS) == [1, 2]
    weights.record({1: EMPTY, 2: MEGABYTE}, {1: 2, 2: 1})
    assert weights.due({1: 2, 2: 1}, WEIGH_SECONDS + 1) == []
    assert weights.due({1: 3, 2: 1}, WEIGH_SECONDS + 2) == [1]
    assert weights.due({1: 3}, WEIGH_SECONDS + 3) == [1], "not recorded since"
    assert weights.total == EMPTY, "one that is gone weighs nothing"
    assert weights.due({1: 2}, 2 * WEIGH_SECONDS) == [1]
