"""What a FailureReason quotes of a log."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fourfold.control.fleets import MOST_REASON, with_log

lines = st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), max_size=200)


@given(st.text(max_size=1200), st.lists(lines))
def test_a_failure_reason_is_the_message_and_the_newest_lines_that_fit(message: str, log: list[str]) -> None:
    reason = with_log(message, "\n".join(log))
    assert len(reason) <= MOST_REASON
    assert reason.startswith(message[:MOST_REASON])
    quoted = reason[len(message) :].splitlines()[2:]
    telling = [line for line in log if line.strip() not in message]
    assert quoted == telling[len(telling) - len(quoted) :]
    if len(quoted) < len(telling):
        assert len(reason) + len(telling[-len(quoted) - 1]) >= MOST_REASON - len("\nLast lines of its log:\n")
