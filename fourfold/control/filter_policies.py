"""Filter policies: which messages of a topic a subscription wants, as SNS has them.

    {"status": ["failed", {"prefix": "time"}], "size": [{"numeric": [">", 0, "<=", 100]}]}

Every key must fit; a key fits where one of the rules in its list does. The key `$or` with a list of two policies or
more fits where one of them does. FilterPolicyScope says what the keys look at: the message's attributes
(MessageAttributes, the default) or its text as JSON, where keys may be nested (MessageBody).
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any

import msgspec

MESSAGE_BODY = "MessageBody"
SCOPES = ("MessageAttributes", MESSAGE_BODY)


def _matches(value: str, wildcard: str) -> bool:
    """Is the value the wildcard with any text, or none, in place of each star? Takes time linear in the value."""
    first, *rest = wildcard.split("*")
    if not rest:
        return value == wildcard
    *between, last = rest
    at, end = len(first), len(value) - len(last)
    if at > end or not value.startswith(first) or not value.endswith(last):
        return False
    for part in between:
        at = value.find(part, at, end)
        if at < 0:
            return False
        at += len(part)
    return True


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
    "wildcard": _matches,
}
_RULES = (*_TEXT, "cidr", "anything-but", "numeric", "exists")
_OR = "$or"


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
        if _is_or(key, rules):
            for one in rules:
                _check(one, nested=nested)
        elif nested and isinstance(rules, dict):
            _check(rules, nested=True)
        elif not isinstance(rules, list) or not rules:
            raise BadPolicy(f"{key} needs a list of what fits")
        else:
            for rule in rules:
                _check_rule(key, rule)


def _is_or(key: str, rules: Any) -> bool:
    """Does the key join policies? As in SNS it is a key like any other unless all of this holds."""
    return (
        key == _OR
        and isinstance(rules, list)
        and len(rules) > 1
        and all(isinstance(one, dict) and one and not one.keys() & set(_RULES) for one in rules)
    )


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
        case "cidr":
            fits = isinstance(wanted, str) and _network(wanted) is not None
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
    if not isinstance(wanted, dict):
        values = wanted if isinstance(wanted, list) else [wanted]
        return bool(values) and all(isinstance(value, str) or _is_number(value) for value in values)
    ((name, texts),) = wanted.items() if len(wanted) == 1 else [("", [])]
    listed = texts if isinstance(texts, list) else [texts]
    return name in _TEXT and bool(listed) and all(isinstance(text, str) for text in listed)


@lru_cache(maxsize=1024)
def _network(cidr: str) -> IPv4Network | IPv6Network | None:
    try:
        return ip_network(cidr, strict=False)
    except ValueError:
        return None


def _fits(policy: Mapping[str, Any], found: Mapping[str, Any]) -> bool:
    return all(_fits_key(rules, found, key) for key, rules in policy.items())


def _fits_key(rules: Any, found: Mapping[str, Any], key: str) -> bool:
    if _is_or(key, rules):
        return any(_fits(one, found) for one in rules)
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
        return not any(_is(one, value) for one in _unwanted(rule["anything-but"]) for value in values)
    return any(_is(rule, value) for value in values)


def _unwanted(rule: Any) -> list[Any]:
    """The rules of which none may fit."""
    if isinstance(rule, dict):
        ((name, texts),) = rule.items()
        return [{name: text} for text in (texts if isinstance(texts, list) else [texts])]
    return rule if isinstance(rule, list) else [rule]


def _is(rule: Any, value: Any) -> bool:
    if not isinstance(rule, dict):
        return bool(rule == value) and isinstance(rule, bool) == isinstance(value, bool)
    ((name, wanted),) = rule.items()
    if name == "numeric":
        pairs = zip(wanted[::2], wanted[1::2], strict=True)
        return _is_number(value) and all(_COMPARE[sign](value, bound) for sign, bound in pairs)
    if name == "cidr":
        return isinstance(value, str) and _is_in(value, _network(wanted))
    return isinstance(value, str) and _TEXT[name](value, wanted)


def _is_in(text: str, network: IPv4Network | IPv6Network | None) -> bool:
    try:
        return network is not None and ip_address(text) in network
    except ValueError:
        return False


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
