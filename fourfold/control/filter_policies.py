"""Filter policies: which messages of a topic a subscription wants, as SNS has them.

    {"status": ["failed", {"prefix": "time"}], "size": [{"numeric": [">", 0, "<=", 100]}]}

Every key must fit; a key fits where one of the rules in its list does. FilterPolicyScope says what the keys look at:
the message's attributes (MessageAttributes, the default) or its text as JSON, where keys may be nested (MessageBody).
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

MESSAGE_BODY = "MessageBody"
SCOPES = ("MessageAttributes", MESSAGE_BODY)

_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_TEXT: dict[str, Callable[[str, str], bool]] = {
    "prefix": str.startswith,
    "suffix": str.endswith,
    "equals-ignore-case": lambda value, wanted: value.casefold() == wanted.casefold(),
}
_RULES = (*_TEXT, "anything-but", "numeric", "exists")


class BadPolicy(ValueError):
    """A filter policy that cannot be obeyed; says why."""


def check(attributes: Mapping[str, str]) -> None:
    """Raises BadPolicy where a subscription's attributes hold a policy, or a scope, that cannot be obeyed."""
    scope = attributes.get("FilterPolicyScope", SCOPES[0])
    if scope not in SCOPES:
        raise BadPolicy(f"FilterPolicyScope is {' or '.join(SCOPES)}, not {scope!r}")
    if "FilterPolicy" in attributes:
        _check(_policy(attributes), nested=scope == MESSAGE_BODY)


def wants(attributes: Mapping[str, str], text: str, message: Mapping[str, Mapping[str, str]]) -> bool:
    """Does a subscription with these attributes want a message?

    Args:
        attributes: the subscription's.
        text: the message.
        message: the message's attributes, each with DataType and Value.
    """
    if not attributes.get("FilterPolicy"):
        return True
    if attributes.get("FilterPolicyScope") != MESSAGE_BODY:
        return _fits(_policy(attributes), {name: _value(**attribute) for name, attribute in message.items()})
    try:
        body = msgspec.json.decode(text)
    except msgspec.DecodeError:
        return False
    return isinstance(body, dict) and _fits(_policy(attributes), body)


def _policy(attributes: Mapping[str, str]) -> dict[str, Any]:
    try:
        return msgspec.json.decode(attributes["FilterPolicy"] or "{}", type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise BadPolicy(f"FilterPolicy is no JSON object: {error}") from None


def _check(policy: Mapping[str, Any], *, nested: bool) -> None:
    for key, rules in policy.items():
        if key.startswith("$"):
            raise BadPolicy(f"{key} is not supported here")
        if nested and isinstance(rules, dict):
            _check(rules, nested=True)
        elif not isinstance(rules, list) or not rules:
            raise BadPolicy(f"{key} needs a list of what fits")
        else:
            for rule in rules:
                _check_rule(key, rule)


def _check_rule(key: str, rule: Any) -> None:
    if isinstance(rule, list):
        raise BadPolicy(f"{key} has a list in its list")
    if not isinstance(rule, dict):
        return
    name, wanted = next(iter(rule.items()), ("", None))
    if len(rule) != 1 or name not in _RULES:
        raise BadPolicy(f"{key} has the rule {', '.join(rule) or '{}'}; supported here: {', '.join(_RULES)}")
    match name:
        case "exists":
            fits = isinstance(wanted, bool)
        case "numeric":
            fits = _is_numeric(wanted)
        case "anything-but":
            fits = _is_anything_but(wanted)
        case _:
            fits = isinstance(wanted, str)
    if not fits:
        raise BadPolicy(f"{key} has {name} with {wanted!r}")


def _is_numeric(wanted: Any) -> bool:
    """`["=", 5]` or `[">", 0, "<=", 100]`."""
    return (
        isinstance(wanted, list)
        and len(wanted) in (2, 4)
        and all(isinstance(sign, str) and sign in _COMPARE for sign in wanted[::2])
        and all(_is_number(bound) for bound in wanted[1::2])
    )


def _is_anything_but(wanted: Any) -> bool:
    if isinstance(wanted, dict):
        return len(wanted) == 1 and all(name in _TEXT and isinstance(text, str) for name, text in wanted.items())
    values = wanted if isinstance(wanted, list) else [wanted]
    return bool(values) and all(isinstance(value, str) or _is_number(value) for value in values)


def _fits(policy: Mapping[str, Any], found: Mapping[str, Any]) -> bool:
    return all(_fits_key(rules, found, key) for key, rules in policy.items())


def _fits_key(rules: Any, found: Mapping[str, Any], key: str) -> bool:
    value = found.get(key)
    if isinstance(rules, dict):
        inner = value if isinstance(value, list) else [value]
        return any(isinstance(one, dict) and _fits(rules, one) for one in inner)
    values = value if isinstance(value, list) else [value]
    return any(_obeys(rule, values, key in found) for rule in rules)


def _obeys(rule: Any, values: list[Any], there: bool) -> bool:
    if isinstance(rule, dict) and "exists" in rule:
        return bool(rule["exists"]) is there
    if not there:
        return False
    if isinstance(rule, dict) and "anything-but" in rule:
        unwanted = rule["anything-but"]
        rules = unwanted if isinstance(unwanted, list) else [unwanted]
        return not any(_is(one, value) for one in rules for value in values)
    return any(_is(rule, value) for value in values)


def _is(rule: Any, value: Any) -> bool:
    if not isinstance(rule, dict):
        return bool(rule == value) and isinstance(rule, bool) == isinstance(value, bool)
    ((name, wanted),) = rule.items()
    if name == "numeric":
        pairs = zip(wanted[::2], wanted[1::2], strict=True)
        return _is_number(value) and all(_COMPARE[sign](value, bound) for sign, bound in pairs)
    return isinstance(value, str) and _TEXT[name](value, wanted)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _value(DataType: str, Value: str) -> Any:
    """A message attribute as what rules compare with."""
    kind = DataType.partition(".")[0]
    if kind == "Number" or DataType == "String.Array":
        try:
            return msgspec.json.decode(Value)
        except msgspec.DecodeError:
            return Value
    return Value if kind == "String" else None
