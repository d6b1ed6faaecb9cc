"""The JSONPath subset of `InputFilter` and `OutputFilter`.

    $            everything
    .name  ['name']        a member
    ['a','b']              an object with these members only
    [0]  [-1]  [1,3]       elements; negative ones count from the end
    [2:5]  [1:]  [:-1]     a slice; like the others it may stand in a list: [0,5:]
    .*  [*]                all members or elements, as an array

What names one place gives what is there; everything else gives an array (or, for members by name, an object). A CSV row
is an array, so that indexes alone make sense for it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fourfold.errors import ValidationException

MAX_LENGTH = 63
"""Longest filter, in characters: CreateTransformJob's own limit."""

_STEP = re.compile(
    r"""\.(?P<name>[A-Za-z0-9_@\-]+) | \.(?P<star>\*) | \[\s*(?P<every>\*)\s*\]
      | \[\s*(?P<names>'[^']*'(?:\s*,\s*'[^']*')* | "[^"]*"(?:\s*,\s*"[^"]*")*)\s*\]
      | \[\s*(?P<places>-?\d*(?::-?\d*)?(?:\s*,\s*-?\d*(?::-?\d*)?)*)\s*\]""",
    re.VERBOSE,
)
_QUOTED = re.compile(r"""'([^']*)'|"([^"]*)\"""")


class FilterError(Exception):
    """The filter names what a record does not have."""


@dataclass(frozen=True)
class Names:
    names: tuple[str, ...]


@dataclass(frozen=True)
class Places:
    places: tuple[int | slice, ...]


@dataclass(frozen=True)
class Every:
    pass


Step = Names | Places | Every


@dataclass(frozen=True)
class Filter:
    """A parsed filter. `bool(filter)` is False for `$`, which changes nothing."""

    text: str
    steps: tuple[Step, ...]

    def __bool__(self) -> bool:
        return bool(self.steps)

    def pick(self, value: Any) -> Any:
        """What the filter selects of a decoded JSON value. Raises FilterError where a part is missing."""
        values, one = [value], True
        for step in self.steps:
            values, single = _apply(step, values)
            one = one and single
        return values[0] if one else values

    def columns(self, width: int) -> list[int]:
        """Which columns of a row of `width` cells it selects, in its order.

        Raises:
            FilterError: a column that the row does not have, or a filter by name.
        """
        picked: Any = self.pick(list(range(width))) if self._by_index() else None
        if picked is None:
            raise FilterError(f"the filter {self.text} picks by name; a CSV row has indexes only, such as $[1:]")
        return [picked] if isinstance(picked, int) else picked

    def names(self, known: Sequence[str]) -> list[str]:
        """Which columns of a table it selects: by name `$['a','b']`, or by place `$[1:]`. Raises FilterError."""
        if len(self.steps) == 1 and isinstance(self.steps[0], Names):
            wanted = list(self.steps[0].names)
            if missing := [name for name in wanted if name not in known]:
                raise FilterError(f"the filter {self.text} names {missing[0]!r}, which is no column of the input")
            return wanted
        return [known[at] for at in self.columns(len(known))]

    def _by_index(self) -> bool:
        return len(self.steps) <= 1 and not any(isinstance(step, Names) for step in self.steps)


def parse(text: str | None) -> Filter:
    """A filter from its text; None is `$`. Raises ValidationException that says what is allowed."""
    text = (text or "$").strip()
    steps: list[Step] = []
    at = 1
    if not text.startswith("$") or len(text) > MAX_LENGTH:
        raise _invalid(text)
    while at < len(text):
        match = _STEP.match(text, at)
        if match is None or match["places"] == "":
            raise _invalid(text)
        steps.append(_step(match, text))
        at = match.end()
    return Filter(text, tuple(steps))


def _step(match: re.Match[str], text: str) -> Step:
    if match["name"]:
        return Names((match["name"],))
    if match["names"]:
        return Names(tuple(single or double for single, double in _QUOTED.findall(match["names"])))
    if match["places"]:
        return Places(tuple(_place(part.strip(), text) for part in match["places"].split(",")))
    return Every()


def _place(part: str, text: str) -> int | slice:
    start, colon, stop = part.partition(":")
    try:
        if not colon:
            return int(start)
        return slice(int(start) if start else None, int(stop) if stop else None)
    except ValueError:
        raise _invalid(text) from None


def _invalid(text: str) -> ValidationException:
    return ValidationException(
        f"{text!r} is not a filter: use $, .name, ['a','b'], [1,3], [2:5], [0,5:], [-1] or *, at most {MAX_LENGTH} "
        "characters."
    )


def _apply(step: Step, values: list[Any]) -> tuple[list[Any], bool]:
    """The step's result for each value, flattened; and whether it names one place."""
    match step:
        case Names((name,)):
            return [_member(value, name) for value in values], True
        case Names(names):
            return [{name: _member(value, name) for name in names} for value in values], True
        case Places((int() as place,)):
            return [_element(value, place) for value in values], True
        case Places(places):
            return [element for value in values for element in _elements(value, places)], False
        case Every():
            return [element for value in values for element in _all(value)], False


def _member(value: Any, name: str) -> Any:
    if not isinstance(value, dict) or name not in value:
        raise FilterError(f"the record has no member {name!r}")
    return value[name]


def _element(value: Any, place: int) -> Any:
    if not isinstance(value, list):
        raise FilterError(f"[{place}] asks for an element, but the record is no array there")
    if not -len(value) <= place < len(value):
        raise FilterError(f"[{place}] is outside the record's {len(value)} elements")
    return value[place]


def _elements(value: Any, places: tuple[int | slice, ...]) -> list[Any]:
    found: list[Any] = []
    for place in places:
        if isinstance(place, int):
            found.append(_element(value, place))
        elif isinstance(value, list):
            found.extend(value[place])
        else:
            raise FilterError("a slice asks for elements, but the record is no array there")
    return found


def _all(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    if isinstance(value, list):
        return value
    raise FilterError("* asks for members or elements, but the record has none there")
