"""Reads scenarios from files, flags and text, and refuses what cannot be; messages name the member and what works.

A scenario file is YAML or JSON (one scenario, or a list of them) or JSON Lines (one a line); its members are those of
`Scenario`, `text` among them. Figures that are given beside a text win over what the text says.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, get_args

from fourfold.advisor.limits import STRICT_BELOW_MS, limit
from fourfold.advisor.scenario import Evidence, Pattern, Scenario
from fourfold.errors import FourfoldError, ValidationException

MAX_TEXT = 10_000
"""Characters of a scenario's text."""
MAX_FILE_BYTES = 64 * 2**20
NETWORK_MB_PER_S = 1250.0
"""10 Gbit/s: no client sends its payload faster than this."""
NOTES = {"expected", "also_acceptable", "facts", "source", "title", "comment", "notes", "split"}
"""Members that a file may hold beside the scenario, for people; they are not read."""

_FLAGS = {f.name for f in fields(Scenario) if "bool" in str(f.type)}
_FIGURES = {f.name for f in fields(Scenario) if "float" in str(f.type) and f.name != "trace"}
_MAY_BE_ZERO = {"budget_usd", "requests_per_day", "runs_per_month", "response_mb"}
_GREATEST = {
    "active_hours_per_day": (24.0, "a day has 24 hours"),
    "runs_per_month": (31 * 24 * 60.0, "a run a minute"),
    "latency_p99_ms": (86_400_000.0, "a day; use deadline_s for results that are needed later"),
    "deadline_s": (10 * 365 * 86400.0, "ten years"),
    "processing_s": (30 * 86400.0, "a month"),
    "payload_mb": (5e6, "5 TB, the largest object of S3"),
    "response_mb": (5e6, "5 TB, the largest object of S3"),
    "memory_gb": (24_576.0, "the largest machine that AWS rents"),
    "requests_per_day": (1e13, "more than all of the web together"),
    "requests_per_second": (1e8, "more than all of the web together"),
    "peak_requests_per_second": (1e9, "more than all of the web together"),
    "image_gb": (1000.0, "a terabyte"),
    "concurrency": (1e9, "a billion at once"),
    "rows": (1e15, "a quadrillion records"),
    "dataset_gb": (1e9, "an exabyte"),
    "budget_usd": (1e12, "a trillion dollars"),
}
"""Figures above these are slips of the unit."""


@dataclass(frozen=True)
class Entry:
    """A line of a JSON Lines file: the scenario, or the error that it has."""

    where: str
    id: object
    """As it was written: text, number, or None if there was none."""
    scenario: Scenario | None
    error: str | None = None


_WORKLOAD = re.compile(
    r"\b(?:models?|machine learning|ml|ai|inferences?|predict\w*|classif\w*|recommend\w*|scor(?:es?|ed|ing)|forecasts?|"
    r"detect\w*|recogni[sz]\w*|checks?|assistants?|chat ?bots?|bots?|translat\w*|transcri\w*|summari\w*|segment\w*|"
    r"rank\w*|rat(?:es?|ed|ing)|bidding|estimat\w*|suggest\w*|label\w*)\b",
    re.IGNORECASE,
)
"""A text with one of these is about a model, even if it says nothing else: everything is then assumed aloud."""


def from_text(text: str, id: str | None = None) -> Scenario:
    """Reads a scenario from English sentences.

    Raises:
        ValidationException: the text is empty, too long, not English, or says nothing about a workload.
    """
    from fourfold.advisor.text import understand
    from fourfold.advisor.text.prepare import looks_english

    if not isinstance(text, str):
        raise ValidationException(f"text: is {type(text).__name__}, not a string; write a sentence or two")
    if not text.strip():
        raise ValidationException(
            "text: is empty; say in a sentence or two what is asked how often, how large a request is, how long the "
            "model takes and when the answer is needed, or give figures with flags (--help lists them)"
        )
    if len(text) > MAX_TEXT:
        raise ValidationException(
            f"text: has {len(text):,} characters, at most {MAX_TEXT:,} are read; describe the workload in a few "
            "sentences"
        )
    if not looks_english(text):
        raise ValidationException(
            "text: only English is understood and this does not look like it; write it in English, or give figures "
            "with flags such as --latency-p99-ms, --payload-mb and --requests-per-day"
        )
    scenario = understand(text, id)
    if not scenario.evidence and not _WORKLOAD.search(text):
        raise ValidationException(
            'text: nothing in it says what the workload is like; name for example a latency ("within 80 ms"), a rate '
            '("40 requests per second", "now and then"), a size ("200 MB each") or a schedule ("every night")'
        )
    return scenario


def from_members(members: Mapping[str, Any], source: str = "file") -> Scenario:
    """Builds a scenario from named members; `text`, if there, is read first and the other members win over it.

    Raises:
        ValidationException: a member is unknown, has the wrong type or an impossible value.
    """
    given = {k: v for k, v in members.items() if v is not None and k not in NOTES}
    id = given.pop("id", None)
    text = given.pop("text", None)
    known = {f.name for f in fields(Scenario)} - {"evidence", "id", "text"}
    for name in given.keys() - known:
        near = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]}?" if near else f"known members: id, text, {', '.join(sorted(known))}"
        raise ValidationException(f"{name}: is no member of a scenario; {hint}")
    values = {name: _checked(name, value) for name, value in given.items()}
    base = from_text(text, None) if text is not None else Scenario()
    if text is None and not values:
        raise ValidationException(
            "scenario: says nothing; give a text, or at least one member such as latency_p99_ms, payload_mb, "
            "requests_per_day or rows"
        )
    said = tuple(Evidence(name, value, f"{source}: {name}") for name, value in values.items())
    kept = tuple(e for e in base.evidence if e.member not in values)
    return replace(base, **values, id=None if id is None else str(id), evidence=(*said, *kept))


def from_file(path: Path) -> Iterator[Entry]:
    """Every scenario of a file. In JSON Lines a bad line becomes an entry with its error; elsewhere it is raised.

    Raises:
        ValidationException: the file cannot be read, is too large, or is not what its name says.
    """
    if path.suffix not in (".yaml", ".yml", ".json", ".jsonl"):
        raise ValidationException(f"file: {path.name} is not .yaml, .yml, .json or .jsonl; name it after what it holds")
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ValidationException(f"file: {path.name} has more than {MAX_FILE_BYTES:,} bytes; split it")
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ValidationException(f"file: {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ValidationException(f"file: {path.name} is not UTF-8 (byte {error.start}); save it as UTF-8") from None
    yield from _lines(text) if path.suffix == ".jsonl" else _documents(text, path)


def check(scenario: Scenario) -> None:
    """Raises ValidationException where figures contradict each other or cannot be."""
    for name in _FIGURES:
        value = getattr(scenario, name)
        if value is not None:
            _checked(name, value)
    _check_latency(scenario)
    _check_rates(scenario)
    if (
        scenario.deadline_s is not None
        and scenario.processing_s is not None
        and scenario.processing_s > scenario.deadline_s
    ):
        raise ValidationException(
            f"deadline_s: {scenario.deadline_s:g} s is less than processing_s: {scenario.processing_s:g} s that one "
            f"request takes; allow at least {scenario.processing_s:g} s or bring a faster model"
        )


def _check_latency(s: Scenario) -> None:
    if s.latency_p99_ms is None:
        return
    allowed = s.latency_p99_ms / 1000
    if s.processing_s is not None and s.processing_s > allowed:
        raise ValidationException(
            f"latency_p99_ms: {s.latency_p99_ms:g} ms is less than processing_s: {s.processing_s:g} s that the model "
            f"takes; allow more than {s.processing_s * 1000:g} ms or bring a faster model"
        )
    sync_mb = limit("real-time-payload").greatest
    for name in ("payload_mb", "response_mb"):
        size = getattr(s, name)
        if size is None:
            continue
        transfer = size / NETWORK_MB_PER_S
        if transfer > allowed or (size > sync_mb and s.latency_p99_ms < STRICT_BELOW_MS):
            raise ValidationException(
                f"latency_p99_ms: {s.latency_p99_ms:g} ms contradicts {name}: {size:g} MB need {transfer:.2g} s on a "
                f"10 Gbit/s line alone, and an endpoint that answers at once takes {sync_mb:g} MB; send at most "
                f"{min(sync_mb, allowed * NETWORK_MB_PER_S):.3g} MB (a reference to S3, say), or allow minutes"
            )


def _check_rates(s: Scenario) -> None:
    peak = s.peak_requests_per_second
    average = (s.requests_per_day or 0) / 86400
    least = max(average, s.requests_per_second or 0)
    if peak is not None and peak < least * 0.999:
        raise ValidationException(
            f"peak_requests_per_second: {peak:g} is below the average of {least:.3g}; "
            "give the highest rate, or leave it out"
        )


def _checked(name: str, value: Any) -> Any:
    if name in _FLAGS:
        if not isinstance(value, bool):
            raise ValidationException(f"{name}: is {value!r}; use true or false")
        return value
    if name in _FIGURES:
        return _figure(name, value)
    if name == "pattern":
        return _one_of(name, value, get_args(Pattern))
    if name == "region":
        return _region(value)
    if name == "trace":
        return _trace(value)
    raise ValidationException(f"{name}: cannot be given")


def _figure(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValidationException(f"{name}: is {value!r}, not a number; write for example {name}: 12.5")
    figure = float(value)
    if not math.isfinite(figure):
        raise ValidationException(f"{name}: is {value!r}; give a finite number")
    if figure < 0 or (figure == 0 and name not in _MAY_BE_ZERO):
        raise ValidationException(
            f"{name}: is {figure:g}; it must be " + ("0 or more" if name in _MAY_BE_ZERO else "greater than 0")
        )
    greatest, why = _GREATEST.get(name, (math.inf, ""))
    if figure > greatest:
        raise ValidationException(f"{name}: is {figure:g}; at most {greatest:g} ({why}). Check the unit in its name")
    return figure


def _one_of(name: str, value: Any, choices: tuple[str, ...]) -> str:
    if value not in choices:
        near = difflib.get_close_matches(str(value), choices, 1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ValidationException(f"{name}: is {value!r}; {hint}use one of {', '.join(choices)}")
    return str(value)


def _region(value: Any) -> str:
    from fourfold.advisor.prices import AWS_REGIONS, shipped

    known = AWS_REGIONS | set(shipped().regions)
    if value not in known:
        near = difflib.get_close_matches(str(value).strip().lower(), sorted(known), 3)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(sorted(known))}"
        raise ValidationException(f"region: {value!r} is no region; {hint}")
    return str(value)


def _trace(value: Any) -> tuple[float, ...]:
    if not isinstance(value, (list, tuple)) or not value:
        raise ValidationException("trace: is not a list of arrival times; give seconds, for example [0, 0.4, 1.1]")
    try:
        times = [float(t) for t in value]
    except (TypeError, ValueError):
        raise ValidationException("trace: holds something that is no number; give arrival times in seconds") from None
    if not all(math.isfinite(t) for t in times):
        raise ValidationException("trace: holds a time that is not finite; give arrival times in seconds")
    first = min(times)
    return tuple(sorted(t - first for t in times))


def trace_file(path: Path) -> tuple[float, ...]:
    """Arrival times from a CSV file: the first column, in seconds or as ISO dates, with or without a heading.

    Raises:
        ValidationException: the file cannot be read or a line has no time; the message names the line.
    """
    import csv
    from datetime import datetime

    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = [row for row in csv.reader(file) if row]
    except (OSError, UnicodeDecodeError) as error:
        raise ValidationException(f"trace: {path} cannot be read: {error}") from None
    times: list[float] = []
    for number, row in enumerate(rows, 1):
        try:
            times.append(float(row[0]))
        except ValueError:
            try:
                times.append(datetime.fromisoformat(row[0].strip()).timestamp())
            except ValueError:
                if number == 1:
                    continue
                raise ValidationException(
                    f"trace: line {number} of {path.name} starts with {row[0]!r}; give seconds or ISO dates"
                ) from None
    if not times:
        raise ValidationException(f"trace: {path.name} holds no arrival times; give one a line, in seconds")
    return _trace(times)


def _lines(text: str) -> Iterator[Entry]:
    import json

    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        where, id = f"line {number}", None
        try:
            members = json.loads(line)
            if not isinstance(members, dict):
                raise ValidationException('scenario: is not a JSON object; write {"id": …, "text": …}')
            id = members.get("id")
            yield Entry(where, id, from_members(members, where))
        except json.JSONDecodeError as error:
            yield Entry(where, None, None, f"{where}: is not JSON ({error.msg} at character {error.pos + 1})")
        except RecursionError:
            yield Entry(where, None, None, f"{where}: is nested too deeply for a scenario; write members such as rows")
        except FourfoldError as error:
            yield Entry(where, id, None, f"{where}: {error.message}")


def _documents(text: str, path: Path) -> Iterator[Entry]:
    from fourfold.advisor import documents

    found = documents.load(text, f"file: {path.name}")
    for number, members in enumerate(found if isinstance(found, list) else [found], 1):
        if not isinstance(members, dict):
            raise ValidationException(f"file: {path.name} holds no mapping; write members such as payload_mb: 2")
        where = f"scenario {number} of {path.name}" if isinstance(found, list) else path.name
        try:
            yield Entry(where, members.get("id"), from_members(members, path.name))
        except FourfoldError as error:
            raise ValidationException(f"{where}: {error.message}") from None
