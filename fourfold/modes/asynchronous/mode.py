"""The asynchronous mode of one server: its parts, connected."""

from __future__ import annotations

import asyncio
import logging
import shutil
from typing import Any

from sqlalchemy.engine import Connection

from fourfold.clock import Clock
from fourfold.config import Settings
from fourfold.errors import FourfoldError
from fourfold.modes.asynchronous import messages
from fourfold.modes.asynchronous.accept import Acceptance
from fourfold.modes.asynchronous.dispatch import Dispatcher
from fourfold.modes.asynchronous.figures import Figures
from fourfold.modes.asynchronous.ledger import Ledger
from fourfold.modes.asynchronous.messages import Notifier
from fourfold.modes.asynchronous.publish import Publisher
from fourfold.modes.asynchronous.records import Records
from fourfold.pool.routes import Routes
from fourfold.storage.objects import Objects
from fourfold.store import Store, resources

log = logging.getLogger(__name__)

MOST_RESERVE = 64 * 1024 * 1024
"""Bytes of the disk, but at most a fiftieth of it, that acceptances leave for what was accepted before."""


class Asynchronous:
    """Accepts asynchronous calls, has them answered, and shows what came of them.

    Args:
        store: the queue.
        routes: endpoints and their workers.
        objects: buckets.
        settings: folders, bounds, the partition.
        clock: stamps and leases.
        notifier: topics.
        owner: whose claims are this server's; the same after a restart, and no other server's.
    """

    def __init__(
        self,
        store: Store,
        routes: Routes,
        objects: Objects,
        settings: Settings,
        clock: Clock,
        notifier: Notifier,
        *,
        owner: str = "local",
    ) -> None:
        self._settings = settings
        self._store = store
        self._notifier = notifier
        self.figures = Figures(routes, clock)
        self._ledger = Ledger(store, clock, owner, self._has_room)
        self._publisher = Publisher(objects, self._ledger, notifier, clock, settings.partition.region, self.figures)
        self._dispatcher = Dispatcher(
            store, self._ledger, self._publisher, routes, objects, clock, self.figures,
            owner=owner, root=settings.buckets, retention=settings.async_retention_seconds,
        )  # fmt: skip
        self.records = Records(store, self._dispatcher, objects, clock, owner)
        acceptance = Acceptance(
            store, routes, self._ledger, self._dispatcher, objects, settings.partition, clock, settings.max_backlog
        )
        self.accept = acceptance.accept

    async def announce(self, endpoint: str) -> None:
        """Send the test notification to the topics of an endpoint that was created or is to be updated."""

        def read(db: Connection) -> dict[str, Any]:
            found = resources.get(db, "endpoint", endpoint)
            config = found.document["wanted"]["config"] if found is not None else {}
            notified: dict[str, Any] = (
                config.get("AsyncInferenceConfig", {}).get("OutputConfig", {}).get("NotificationConfig", {})
            )
            return notified

        config = await self._store.run(read)
        for topic in {config[member] for member in ("SuccessTopic", "ErrorTopic") if config.get(member)}:
            try:
                await self._notifier.publish(topic, *messages.test_notification())
            except FourfoldError as error:
                log.warning("a topic could not be told", extra={"topic": topic, "reason": error.message})

    async def run(self) -> None:
        """Work, for ever."""
        async with asyncio.TaskGroup() as tasks:
            for loop in (self._ledger.run(), self._publisher.run(), self._dispatcher.run()):
                tasks.create_task(loop)

    async def finish(self, grace: float) -> None:
        """Claim nothing more, and let what runs end within `grace` seconds; `run` has to go on meanwhile."""
        await self._dispatcher.close(grace)

    async def close(self) -> None:
        """Write what is known. Call it when `run` has been cancelled."""
        await self._ledger.close()

    def _has_room(self, size: int) -> bool:
        disk = shutil.disk_usage(self._settings.data_dir)
        return disk.free - size > min(MOST_RESERVE, disk.total // 50)
