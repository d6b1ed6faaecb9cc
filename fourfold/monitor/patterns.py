"""Filter patterns of CloudWatch Logs: words, or conditions on lines that are JSON.

    ERROR -timeout            "two words"            ?warn ?error
    { $.level = "ERR*" && ($.seconds >= 0.5 || $.tries NOT EXISTS) }

https://docs.aws.amazon.com/AmazonCloudWatch/latest/logs/FilterAndPatternSyntax.html
"""

from __future__ import annotations

import fnmatch
import operator
import re
from collections.abc import Callable
from typing import Any

import msgspec

Fits = Callable[[str], bool]
Holds = Callable[[Any], bool]
"""Does a condition hold for a line's JSON?"""

_TOKEN = re.compile(
    r"""\s*(?:(?P<path>\$(?:\.[\w-]+|\[\d+\]|\[(?:'[^']*'|"[^"]*")\])*)|(?P<sign>&&|\|\||[()]|<=|>=|!=|=|<|>)|"""
    r"""(?P<words>NOT\s+EXISTS|IS\s+(?:NULL|TRUE|FALSE))|"(?P<text>(?:[^"\\]|\\.)*)"|(?P<bare>[^\s&|()<>=!]+))"""
)
_STEP = re.compile(r"""\.([\w-]+)|\[(\d+)\]|\['([^']*)'\]|\["([^"]*)"\]""")
_NUMBERS: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
_MISSING = object()


def pattern(text: str) -> Fits:
    """Does a line fit a filter pattern? Empty: every line does.

    Raises:
        ValueError: a pattern over columns or a regular expression, or one that cannot be understood.
    """
    text = text.strip()
    if text.startswith("["):
        raise ValueError("Patterns over columns are not read here: give words, quoted text, or { conditions }.")
    if text.startswith("{"):
        return _json(text)
    return _words(text)


def _words(text: str) -> Fits:
    """`a b` both, `?a ?b` either, `-a` not, `"two words"` as they stand."""
    terms = _terms(text)
    if any(term.startswith("%") and term.endswith("%") and len(term) > 1 for term in terms):
        raise ValueError("Regular expressions are not read here: give words, or quoted text.")
    any_of = [term[1:] for term in terms if term[0] == "?" and len(term) > 1]
    none_of = [term[1:] for term in terms if term[0] == "-" and len(term) > 1]
    all_of = [term.lstrip("+") for term in terms if term[0] not in "?-" or len(term) == 1]

    def fits(message: str) -> bool:
        if any(term in message for term in none_of) or not all(term in message for term in all_of):
            return False
        return bool(all_of) or not any_of or any(term in message for term in any_of)

    return fits


def _terms(text: str) -> list[str]:
    """Words, and quoted text without its quotes; the sign before either stays."""
    terms = []
    rest = text.strip()
    while rest:
        sign = rest[0] if rest[:2] in ('?"', '-"') else ""
        if rest[len(sign) :].startswith('"'):
            quoted, end, rest = rest[len(sign) + 1 :].partition('"')
            if not end:
                raise ValueError("The pattern has a quotation mark that nothing closes.")
            terms.append(sign + quoted)
        else:
            word, _, rest = rest.partition(" ")
            terms.append(word)
        rest = rest.strip()
    return [term for term in terms if term]


def _json(text: str) -> Fits:
    if not text.endswith("}"):
        raise ValueError("The pattern has a brace that nothing closes.")
    try:
        holds = _Conditions(text[1:-1]).read()
    except RecursionError:
        raise ValueError("The pattern is nested too deeply.") from None

    def fits(message: str) -> bool:
        try:
            return holds(msgspec.json.decode(message))
        except (msgspec.DecodeError, RecursionError):
            return False  # an ordinary line

    return fits


class _Conditions:
    """Reads conditions on JSON: `||` binds less than `&&`, and that less than a comparison."""

    def __init__(self, text: str) -> None:
        self._tokens: list[tuple[str, str]] = []
        place, text = 0, text.rstrip()
        while place < len(text):
            match = _TOKEN.match(text, place)
            if match is None or match.lastgroup is None:
                raise ValueError(f"The pattern cannot be understood at {text[place : place + 20]!r}.")
            self._tokens.append((match.lastgroup, match[match.lastgroup]))
            place = match.end()
        self._tokens.reverse()

    def read(self) -> Holds:
        holds = self._either()
        if self._tokens:
            raise ValueError(f"The pattern has {self._tokens[-1][1]!r} where it should end.")
        return holds

    def _either(self) -> Holds:
        holds = self._both()
        while self._take("||"):
            holds = _or(holds, self._both())
        return holds

    def _both(self) -> Holds:
        holds = self._one()
        while self._take("&&"):
            holds = _and(holds, self._one())
        return holds

    def _one(self) -> Holds:
        if self._take("("):
            holds = self._either()
            if not self._take(")"):
                raise ValueError("The pattern has a parenthesis that nothing closes.")
            return holds
        path = self._next("path")[1]
        kind, sign = self._next("sign", "words")
        if kind == "words":
            return _state(path, sign.split()[1])
        if sign not in _NUMBERS:
            raise ValueError(f"After {path} there must be a comparison, IS or NOT EXISTS, not {sign!r}.")
        kind, value = self._next("text", "bare")
        return _comparison(path, sign, value, quoted=kind == "text")

    def _next(self, *kinds: str) -> tuple[str, str]:
        if not self._tokens or self._tokens[-1][0] not in kinds:
            found = repr(self._tokens[-1][1]) if self._tokens else "nothing"
            raise ValueError(f"The pattern has {found} where a {' or '.join(kinds)} should be, as in $.a = 1.")
        return self._tokens.pop()

    def _take(self, sign: str) -> bool:
        if self._tokens and self._tokens[-1] == ("sign", sign):
            self._tokens.pop()
            return True
        return False


def _or(left: Holds, right: Holds) -> Holds:
    return lambda line: left(line) or right(line)


def _and(left: Holds, right: Holds) -> Holds:
    return lambda line: left(line) and right(line)


def _state(path: str, word: str) -> Holds:
    wanted = {"NULL": None, "TRUE": True, "FALSE": False, "EXISTS": _MISSING}[word]
    return lambda line: _at(line, path) is wanted


def _comparison(path: str, sign: str, value: str, *, quoted: bool) -> Holds:
    number = None if quoted else _number(value)
    if number is not None:
        return lambda line: _is_number(found := _at(line, path)) and _NUMBERS[sign](found, number)
    if sign not in ("=", "!="):
        raise ValueError(f"{path} {sign} needs a number, not {value!r}.")
    plain = re.sub(r"[?\[]", lambda special: f"[{special[0]}]", value.replace('\\"', '"'))  # `*` alone stands for more
    like, equal = re.compile(fnmatch.translate(plain)).match, sign == "="
    return lambda line: isinstance(found := _at(line, path), str) and bool(like(found)) is equal


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _at(line: Any, path: str) -> Any:
    """What stands in a line's JSON at a path as `$.a.b[0]`."""
    found = line
    for name, index, *quoted in _STEP.findall(path):
        key = name or "".join(quoted)
        if index and isinstance(found, list) and int(index) < len(found):
            found = found[int(index)]
        elif not index and isinstance(found, dict) and key in found:
            found = found[key]
        else:
            return _MISSING
    return found
