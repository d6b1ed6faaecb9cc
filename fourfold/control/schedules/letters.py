"""Runs that were given up, as messages on their way to their dead-letter queues.

Apart from runs: a queue that is down delays none of them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from sqlalchemy.engine import Connection

from fourfold.clock import Clock, iso
from fourfold.control.couriers import Refused, Undelivered
from fourfold.control.schedules.desired import SCHEDULE
from fourfold.control.schedules.targets import execution_id
from fourfold.control.schedules.timing import backoff
from fourfold.errors import FourfoldError
from fourfold.store import Store, resources
from fourfold.store.resources import Resource

log = logging.getLogger(__name__)

Document = dict[str, Any]

MOST_DEAD = 100
"""Dead letters that a schedule keeps, the newest."""

Send = Callable[[str, str, dict[str, str]], Awaitable[None]]
"""Sends to a queue: its ARN, a text, and attributes. `couriers.SqsCourier.send` is one, and names what it raises."""


def dead_letter(schedule: Resource, pending: Document, error: FourfoldError, exhausted: str) -> Document | None:
    """A run as a message with the attributes that EventBridge Scheduler gives. None: its target has no queue for it.

    Args:
        schedule: whose run it is.
        pending: the run.
        error: what the last attempt ended with.
        exhausted: the member of the retry policy that forbade another attempt; empty where none would have helped.
    """
    target = schedule.document["Target"]
    queue = target.get("DeadLetterConfig", {}).get("Arn")
    if queue is None:
        return None
    attributes = {
        "ERROR_CODE": error.code,
        "ERROR_MESSAGE": error.message,
        "EXECUTION_ID": execution_id(schedule.arn, pending["scheduled"]),
        "IS_PAYLOAD_TRUNCATED": "false",
        "RETRY_ATTEMPTS": str(pending["attempt"] - 1),
        "SCHEDULED_TIME": iso(pending["scheduled"]),
        "SCHEDULE_ARN": schedule.arn,
        "TARGET_ARN": target["Arn"],
    }
    if exhausted:
        attributes["EXHAUSTED_RETRY_CONDITION"] = exhausted
    return {"queue": queue, "body": target.get("Input", "{}"), "attributes": attributes, "state": "kept"}


@dataclass
class _Round:
    """The sending of one schedule's letters: `failed` times in a row, and not again before `next`."""

    task: asyncio.Task[None] | None = None
    failed: int = 0
    next: float = 0.0


class DeadLetters:
    """Keeps letters with their schedules, and sends them to their queues.

    Args:
        store: where schedules are kept.
        clock: when.
        send: sends one. None: letters are kept only.
        wake: tells the loop that a round has ended.
    """

    def __init__(self, store: Store, clock: Clock, send: Send | None, wake: Callable[[], None]) -> None:
        self._store = store
        self._clock = clock
        self._send = send
        self._wake = wake
        self._rounds: dict[str, _Round] = {}

    async def keep(self, schedule: Resource, letter: Document) -> None:
        """Write a letter down; it is sent when the loop looks at its schedule next."""
        await self._edit(schedule, lambda dead: [*dead, letter][-MOST_DEAD:])

    def look_at(self, schedule: Resource, now: float) -> float | None:
        """Begin to send what is to be sent; returns when to look again."""
        if not self.unsent(schedule.document):
            self._rounds.pop(schedule.name, None)
            return None
        round_ = self._rounds.setdefault(schedule.name, _Round())
        if round_.task is not None and not round_.task.done():
            return None  # its end wakes the loop
        if round_.next > now:
            return round_.next
        round_.task = asyncio.create_task(self._send_all(schedule, round_))
        return None

    def unsent(self, document: Document) -> list[Document]:
        """The letters that are still to be sent, the oldest first."""
        if self._send is None:
            return []
        return [letter for letter in document["dead"] if letter.get("state", "kept") == "kept"]

    def cancel(self) -> None:
        """Send no more; what is not sent stays kept."""
        for round_ in self._rounds.values():
            if round_.task is not None:
                round_.task.cancel()

    async def _send_all(self, schedule: Resource, round_: _Round) -> None:
        """Send a schedule's letters until its queue cannot be reached."""
        try:
            for letter in self.unsent(schedule.document):
                state = await self._state_after_sending(schedule, letter)
                await self._edit(schedule, partial(_settled, letter=letter, state=state))
                round_.failed = 0
        except Undelivered as error:
            round_.failed += 1
            round_.next = self._clock.now() + backoff(round_.failed)
            log.warning("dead letter not sent", extra={"schedule": schedule.arn, "reason": error.message})
        finally:
            self._wake()

    async def _state_after_sending(self, schedule: Resource, letter: Document) -> str:
        """`sent` or `refused`. Raises Undelivered where the queue cannot be reached."""
        assert self._send is not None
        try:
            await self._send(letter["queue"], letter["body"], letter["attributes"])
        except Refused as error:
            log.error("dead letter refused", extra={"schedule": schedule.arn, "reason": error.message})
            return "refused"
        return "sent"

    async def _edit(self, schedule: Resource, edit: Callable[[list[Document]], list[Document]]) -> None:
        """Change a schedule's letters, unless it was deleted meanwhile."""

        def write(db: Connection) -> list[Document]:
            found = resources.get(db, SCHEDULE, schedule.name)
            if found is None:
                return []
            found.document = found.document | {"dead": edit(found.document["dead"])}
            resources.save(db, found)
            return list(found.document["dead"])

        schedule.document = schedule.document | {"dead": await self._store.run(write)}


def _settled(letters: list[Document], *, letter: Document, state: str) -> list[Document]:
    run = letter["attributes"]["EXECUTION_ID"]
    return [one | {"state": state} if one["attributes"]["EXECUTION_ID"] == run else one for one in letters]
