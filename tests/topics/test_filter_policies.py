from __future__ import annotations

import json

import pytest

from fourfold.control.filter_policies import BadPolicy, check, wants


def policy(value: object, scope: str = "MessageAttributes") -> dict[str, str]:
    return {"FilterPolicy": json.dumps(value), "FilterPolicyScope": scope}


BODY = {"status": "failed", "size": 5, "tags": ["a", "b"], "ok": True}
BODY |= {"call": {"name": "x"}, "calls": [{"n": 1}, {"n": 2}]}


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
        ({"a": [{"wildcard": "b*"}]}, "a has the rule wildcard; supported here: prefix"),
        ({"a": [{"prefix": "b", "suffix": "c"}]}, "a has the rule prefix, suffix"),
        ({"a": [{"prefix": 3}]}, "prefix with 3"),
        ({"a": [{"numeric": [">", "b"]}]}, "numeric with"),
        ({"a": [{"numeric": [[], 1]}]}, "numeric with"),
        ({"a": [{"exists": "yes"}]}, "exists with"),
        ({"a": [{"anything-but": {"numeric": ["=", 1]}}]}, "anything-but with"),
        ({"$or": [{"a": ["b"]}]}, r"\$or is not supported here"),
        ([], "no JSON object"),
    ],
)
def test_what_cannot_be_obeyed_is_refused(rules: object, message: str) -> None:
    with pytest.raises(BadPolicy, match=message):
        check(policy(rules))


def test_the_scope_is_one_of_two() -> None:
    with pytest.raises(BadPolicy, match="MessageAttributes or MessageBody, not 'All'"):
        check(policy({}, "All"))


def test_text_that_is_no_json_fits_no_body() -> None:
    assert not wants(policy({"a": ["b"]}, "MessageBody"), "hello", {})
    assert not wants(policy({"a": ["b"]}, "MessageBody"), "[1]", {})
