"""Scaling decisions as pure functions of what is seen now; those who call them bring the clock."""

from __future__ import annotations


def serverless_starts(*, waiting: int, starting: int, workers: int, max_concurrency: int) -> int:
    """How many workers to start for calls that wait: one for each call that no starting worker will take.

    Args:
        waiting: calls that no worker has.
        starting: workers that are being started.
        workers: workers that are there, starting ones not counted.
        max_concurrency: most workers in all.
    """
    wanted = waiting - starting
    room = max_concurrency - workers - starting
    return max(0, min(wanted, room))


def serverless_surplus(*, idle_seconds: list[float], limit: float, workers: int, provisioned: int) -> int:
    """How many of the idle workers to end: those idle for longer than `limit`, keeping `provisioned` in all.

    Args:
        idle_seconds: for each idle worker how long it has been so.
        limit: seconds that an idle worker is kept.
        workers: workers that are there, busy ones included.
        provisioned: workers that stay whatever happens.
    """
    expired = sum(seconds >= limit for seconds in idle_seconds)
    return max(0, min(expired, workers - provisioned))
