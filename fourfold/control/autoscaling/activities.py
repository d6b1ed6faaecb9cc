"""Scaling activities: what is done about a target and why, or why nothing is. One is under way at a time.

It is written before the change is asked for, so that after a crash it is known what was begun.
"""

from __future__ import annotations

import uuid

from sqlalchemy.engine import Connection

from fourfold.clock import Clock
from fourfold.control.autoscaling.capacities import Document, Place
from fourfold.control.autoscaling.targets import ACTIVITY, TARGET, key, of, place_of
from fourfold.store import Store, resources
from fourfold.store.resources import Resource

MOST_ACTIVITIES = 100
"""Activities that are kept of one target."""
KEPT = 42 * 86400.0
"""Seconds that an activity is kept, as in AWS, whether its target still exists or not."""
RETRY = 60.0
"""Seconds after which a change that failed is tried again."""


class Activities:
    """The activities of every target of a server.

    Args:
        store: keeps them, and on each target which one is under way.
        clock: for stamps.
    """

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def begin(self, target: Resource, change: int, capacity: int, words: str, cause: str) -> None:
        """A change to a capacity is about to be asked for.

        Args:
            change: what a policy would add or take away; a cooldown will begin. 0: the bounds have called for it.
            words: what is counted, e.g. `desired instance count`.
        """
        now = self._clock.now()
        reached = f"Successfully set {words} to {capacity}."
        activity = {
            "Description": f"Setting {words} to {capacity}.",
            "Cause": cause,
            "StartTime": now,
            "StatusCode": "InProgress",
            "StatusMessage": f"{reached} Waiting for change to be fulfilled by sagemaker.",
        }
        id = str(uuid.uuid4())
        under_way = {"active": id, "goal": capacity, "change": change, "begun": now, "not_scaled": None}
        await self._write(target, id, activity, under_way)

    async def finish(self, target: Resource, status: str, message: str) -> None:
        """The activity under way has ended. Status is Successful, Unfulfilled or Failed."""
        id, now = target.document["active"], self._clock.now()
        changes: Document = {"active": None}
        if status == "Successful":
            change = target.document.get("change", 0)
            cooldown = {"last_out": now, "added": change} if change > 0 else {"last_in": now} if change else {}
            changes |= {"changed": now} | cooldown
        else:
            changes["retry_at"] = now + RETRY

        def write(db: Connection) -> None:
            activity = resources.get(db, ACTIVITY, key(place_of(target), id))
            if activity is not None:
                ends = {"EndTime": now, "StatusCode": status, "StatusMessage": message}
                activity.document, activity.modified_at = activity.document | ends, now
                resources.save(db, activity)
            found = resources.get(db, TARGET, target.name)
            if found is not None:
                found.document = found.document | changes
                resources.save(db, found)

        target.document = target.document | changes
        await self._store.run(write)

    async def not_scaled(self, target: Resource, cause: str, reason: Document) -> None:
        """Note once why nothing was done; the same again is no news."""
        now = self._clock.now()
        newest = target.document.get("not_scaled")
        if newest == reason:
            return
        activity = {
            "Description": "Attempting to scale due to alarm triggered",
            "Cause": cause,
            "StartTime": now,
            "EndTime": now,
            "StatusCode": "Failed",
            "StatusMessage": f"Not scaled: {reason['Code']}.",
            "NotScaledReasons": [reason],
        }
        await self._write(target, str(uuid.uuid4()), activity, {"not_scaled": reason})

    async def forget_old(self) -> None:
        """Remove what is too old."""
        oldest = self._clock.now() - KEPT
        await self._store.run(lambda db: resources.delete_older(db, ACTIVITY, oldest))

    async def _write(self, target: Resource, id: str, activity: Document, changes: Document) -> None:
        def write(db: Connection) -> None:
            _add(db, place_of(target), id, activity)
            found = resources.get(db, TARGET, target.name)
            if found is not None:
                found.document = found.document | changes
                resources.save(db, found)

        target.document = target.document | changes
        await self._store.run(write)


def bounds_were_set(db: Connection, target: Resource, action: str, now: float) -> None:
    """A scheduled action has given a target its bounds."""
    bounds = f"min capacity to {target.document['min']} and max capacity to {target.document['max']}"
    activity = {
        "Description": f"Setting {bounds}",
        "Cause": f"scheduled action name {action} was triggered",
        "StartTime": now,
        "EndTime": now,
        "StatusCode": "Successful",
        "StatusMessage": f"Successfully set {bounds}",
    }
    _add(db, place_of(target), str(uuid.uuid4()), activity)


def _add(db: Connection, place: Place, id: str, activity: Document) -> None:
    for old in of(db, ACTIVITY, place)[: -MOST_ACTIVITIES + 1]:
        resources.delete(db, ACTIVITY, old.name)
    now = activity["StartTime"]
    resources.insert(db, Resource(ACTIVITY, key(place, id), f"scaling-activity/{id}", now, now, "", activity))
