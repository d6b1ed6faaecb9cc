"""When the runs of a batch plan begin."""

from __future__ import annotations


def schedule(runs_per_month: float) -> str:
    """A schedule with about so many runs a month: at 01:00 monthly, weekly or daily, else every so many hours."""
    if runs_per_month <= 2:
        return "cron(0 1 1 * ? *)"
    if runs_per_month <= 8:
        return "cron(0 1 ? * MON *)"
    if runs_per_month <= 45:
        return "cron(0 1 * * ? *)"
    hours = max(1, round(730 / runs_per_month))
    return f"rate({hours} hour{'s' if hours > 1 else ''})"
