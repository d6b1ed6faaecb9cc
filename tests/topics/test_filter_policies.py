from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fourfold.control.filter_policies import BadPolicy, check, wants


def policy(value: object, scope: str = "MessageAttributes") -> dict[str, str]:
    return {"FilterPolicy": json.dumps(value), "FilterPolicyScope": scope}


BODY = {"status": "failed", "size": 5, "tags": ["a", "b"], "ok": True}
BODY |= {"from": "10.1.2.3", "call": {"name": "x"}, "calls": [{"n": 1}, {"n": 2}]}


@pytest.mark.parametrize(
    ("rules", "fits"),
    [
        ({}, True),
        ({"status": ["failed", "stopped"]}, True),
        ({"status": ["done"]}, False),
        ({"status": ["failed"], "size": [6]}, False),
        ({"status": [{"prefix": "fa"}]}, True),
        ({"status": [{"suffix": "fa"}]}, False),
        ({"status": [{"equals-ignore-case": "FAILED"}]}, True),
        ({"status": [{"anything-but": "failed"}]}, False),
        ({"status": [{"anything-but": ["done", 3]}]}, True),
        ({"status": [{"anything-but": {"prefix": "do"}}]}, True),
        ({"nothing": [{"anything-but": "x"}]}, False),
        ({"size": [{"numeric": ["=", 5.0]}]}, True),
        ({"size": [{"numeric": [">", 0, "<", 5]}]}, False),
        ({"status": [{"numeric": [">", 0]}]}, False),
        ({"nothing": [{"exists": False}]}, True),
        ({"status": [{"exists": False}]}, False),
        ({"status": [{"exists": True}]}, True),
        ({"tags": ["b"]}, True),
        ({"tags": ["c"]}, False),
        ({"tags": [{"anything-but": "b"}]}, False),
        ({"call": {"name": ["x"]}}, True),
        ({"call": {"name": ["y"]}}, False),
        ({"calls": {"n": [2]}}, True),
        ({"ok": [True]}, True),
        ({"ok": [1]}, False),
        ({"nothing": {"name": ["x"]}}, False),
        ({"status": [{"wildcard": "f*l*d"}]}, True),
        ({"status": [{"wildcard": "f*l"}]}, False),
        ({"status": [{"anything-but": {"wildcard": "*ail*"}}]}, False),
        ({"status": [{"anything-but": {"prefix": ["do", "fa"]}}]}, False),
        ({"status": [{"anything-but": {"suffix": "ed"}}]}, False),
        ({"status": [{"anything-but": {"equals-ignore-case": ["Done", "Running"]}}]}, True),
        ({"from": [{"cidr": "10.1.0.0/16"}]}, True),
        ({"from": [{"cidr": "10.2.0.0/16"}]}, False),
        ({"from": [{"cidr": "::/0"}]}, False),
        ({"status": [{"cidr": "0.0.0.0/0"}]}, False),
        ({"$or": [{"status": ["done"]}, {"size": [5]}]}, True),
        ({"$or": [{"status": ["done"]}, {"size": [6]}]}, False),
        ({"ok": [False], "$or": [{"status": ["failed"]}, {"size": [5]}]}, False),
        ({"$or": [{"status": ["done"]}, {"size": [5], "$or": [{"ok": [False]}, {"call": {"name": ["x"]}}]}]}, True),
        ({"call": {"$or": [{"name": ["y"]}, {"name": [{"exists": True}]}]}}, True),
        ({"$or": ["x", "y"]}, False),  # a key of the message, called $or
    ],
)
def test_what_fits_a_body(rules: object, fits: bool) -> None:
    given = policy(rules, "MessageBody")
    check(given)
    assert wants(given, json.dumps(BODY), {}) is fits


@pytest.mark.parametrize(
    ("kind", "value", "rule", "fits"),
    [
        ("String", "5", "5", True),
        ("String", "5", 5, False),
        ("Number", "5", 5, True),
        ("Number", "5", {"numeric": [">=", 5]}, True),
        ("Number.int", "5", "5", False),
        ("String.Array", '["a", 2]', 2, True),
        ("String.Array", "broken", "broken", True),
        ("Binary", "aGk=", {"exists": True}, True),
        ("Binary", "aGk=", "aGk=", False),
    ],
)
def test_attributes_have_types(kind: str, value: str, rule: object, fits: bool) -> None:
    assert wants(policy({"name": [rule]}), "text", {"name": {"DataType": kind, "Value": value}}) is fits


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"a": "b"}, "a needs a list"),
        ({"a": []}, "a needs a list"),
        ({"a": {"b": ["c"]}}, "a needs a list"),  # only bodies are nested
        ({"a": [["b"]]}, "list in its list"),
        ({"a": [{"regex": "b*"}]}, "a has the rule regex; supported here: prefix"),
        ({"a": [{"wildcard": 3}]}, "wildcard with 3"),
        ({"a": [{"cidr": "10.0.0/8"}]}, "cidr with"),
        ({"a": [{"cidr": 10}]}, "cidr with"),
        ({"a": [{"prefix": "b", "suffix": "c"}]}, "a has the rule prefix, suffix"),
        ({"a": [{"prefix": 3}]}, "prefix with 3"),
        ({"a": [{"numeric": [">", "b"]}]}, "numeric with"),
        ({"a": [{"numeric": [[], 1]}]}, "numeric with"),
        ({"a": [{"exists": "yes"}]}, "exists with"),
        ({"a": [{"anything-but": {"numeric": ["=", 1]}}]}, "anything-but with"),
        ({"a": [{"anything-but": {"prefix": []}}]}, "anything-but with"),
        ({"a": [{"anything-but": {"prefix": "b", "suffix": "c"}}]}, "anything-but with"),
        ({"$or": [{"a": ["b"]}]}, r"\$or has the rule a"),  # one alternative is none: an ordinary key
        ({"$or": [{"a": ["b"]}, {"c": "d"}]}, "c needs a list"),
        ({"$or": [{"a": ["b"]}, {"c": {"d": ["e"]}}]}, "c needs a list"),  # only bodies are nested
        ({"$or": [{"a": ["b"]}, "c"]}, r"\$or has the rule a"),
        ([], "no JSON object"),
    ],
)
def test_what_cannot_be_obeyed_is_refused(rules: object, message: str) -> None:
    with pytest.raises(BadPolicy, match=message):
        check(policy(rules))


ATOMS = st.sampled_from([("a", "1"), ("a", "2"), ("b", "1"), ("b", "2")]).map(lambda pair: {pair[0]: [pair[1]]})
POLICIES = st.recursive(
    ATOMS,
    lambda inner: st.builds(
        lambda atom, alternatives: atom | {"$or": alternatives}, ATOMS | st.just({}), st.lists(inner, min_size=2)
    ),
    max_leaves=8,
)


@given(POLICIES, st.sampled_from("12"), st.sampled_from("12"))
def test_every_key_must_fit_and_one_of_the_alternatives(rules: dict, a: str, b: str) -> None:
    def expected(policy: dict) -> bool:
        message = {"a": a, "b": b}
        keys = [message[key] in value for key, value in policy.items() if key != "$or"]
        return all(keys) and ("$or" not in policy or any(map(expected, policy["$or"])))

    for scope in ("MessageAttributes", "MessageBody"):
        given_policy = policy(rules, scope)
        check(given_policy)
        attributes = {key: {"DataType": "String", "Value": value} for key, value in (("a", a), ("b", b))}
        assert wants(given_policy, json.dumps({"a": a, "b": b}), attributes) is expected(rules)


@given(st.text("ab*", max_size=6), st.text("ab\n", max_size=9))
def test_a_star_stands_for_any_text(wildcard: str, value: str) -> None:
    pattern = re.compile(".*".join(map(re.escape, wildcard.split("*"))), re.DOTALL)
    fits = pattern.fullmatch(value) is not None
    for rule, wanted in (({"wildcard": wildcard}, fits), ({"anything-but": {"wildcard": [wildcard]}}, not fits)):
        assert wants(policy({"key": [rule]}), "", {"key": {"DataType": "String", "Value": value}}) is wanted


def test_a_long_text_is_matched_in_no_time() -> None:
    wanted = policy({"key": [{"wildcard": "*a" * 20 + "b"}]})
    assert not wants(wanted, "", {"key": {"DataType": "String", "Value": "a" * 250_000}})


def test_the_scope_is_one_of_two() -> None:
    with pytest.raises(BadPolicy, match="MessageAttributes or MessageBody, not 'All'"):
        check(policy({}, "All"))


def test_text_that_is_no_json_fits_no_body() -> None:
    assert not wants(policy({"a": ["b"]}, "MessageBody"), "hello", {})
    assert not wants(policy({"a": ["b"]}, "MessageBody"), "[1]", {})
