"""Model Monitor on the wire, as far as it is here: nothing is scheduled yet, and lists say so.

The SDKs ask for an endpoint's schedules whether it has any or not (`Predictor.list_monitors`).
"""

from __future__ import annotations

from typing import Any, ClassVar

from fourfold.api.protocol import ApiCall, operation

Document = dict[str, Any]


class Monitoring:
    """Lists of monitoring schedules and of their runs: both are empty, since CreateMonitoringSchedule is not there."""

    service: ClassVar = "sagemaker"

    @operation("ListMonitoringSchedules")
    async def list_schedules(self, call: ApiCall) -> Document:
        return {"MonitoringScheduleSummaries": []}

    @operation("ListMonitoringExecutions")
    async def list_executions(self, call: ApiCall) -> Document:
        return {"MonitoringExecutionSummaries": []}
