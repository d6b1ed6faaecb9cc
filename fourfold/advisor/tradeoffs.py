"""What a choice trades away: cost against p99, cost against requests a day, and plans that mix two modes.

Built on `search`: every figure here is one of its plans, seen from the side.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from fourfold.advisor import cost, queueing, requests, search, sizing, workload
from fourfold.advisor.cost import Cost
from fourfold.advisor.prices import Prices
from fourfold.advisor.scenario import MODES, Mode, Scenario
from fourfold.advisor.search import Plan
from fourfold.advisor.usage import Usage
from fourfold.advisor.workload import DAYS_PER_MONTH, HOURS_PER_MONTH

LOW, HIGH = 1.0, 1e8
"""Requests a day between which the modes are compared."""


@dataclass(frozen=True)
class Point:
    """One configuration as a point of cost and latency."""

    mode: Mode
    label: str
    usd: float
    p99_ms: float


@dataclass(frozen=True)
class Crossing:
    """The rate at which two modes cost the same."""

    requests_per_day: float
    below: Mode
    above: Mode

    @property
    def text(self) -> str:
        return f"{self.below} is cheaper below {rounded(self.requests_per_day):,} requests a day, {self.above} above"


@dataclass(frozen=True)
class Mixed:
    """Instances for the base of the load, a serverless endpoint for what is above (as in MArk, USENIX ATC 2019)."""

    instance: str
    count: int
    overflow: float
    """Share of the requests that the serverless endpoint takes."""
    parts: Mapping[str, Plan]
    """The plans of both endpoints, `base` and `overflow`, each with its share of the cost."""
    saves_usd: Decimal
    """US dollars a month less than the cheaper of the two alone."""

    @property
    def cost(self) -> Cost:
        return self.parts["base"].cost + self.parts["overflow"].cost

    @property
    def configuration(self) -> dict[str, Any]:
        """Request members of both endpoints, under `base` and `overflow`."""
        return {name: part.configuration for name, part in self.parts.items()}

    @property
    def text(self) -> str:
        return (
            f"{self.count} × {self.instance} for the base and serverless for {self.overflow:.1%} of the requests: "
            f"{self.cost.total:,.2f} USD a month, {self.saves_usd:,.2f} less than either alone"
        )


def points(scenario: Scenario, prices: Prices, modes: Sequence[Mode] = MODES) -> list[Point]:
    """Every configuration that carries the load, of every mode, whether or not it meets the target."""
    work = workload.of(scenario)
    table = prices.filled(work.region)
    found = []
    for mode in modes:
        sizes = sizing.sizings(mode, work, table)
        # Of one mode, all but the instances cost the same, so one bill prices them all.
        for size in sizes:
            rest = float(cost.price(sizes[0].usages, table).total) - search.estimate(sizes[0], table)
            usd = search.estimate(size, table) + rest
            found.append(Point(mode, label(size), usd, size.latency.p99))
    return found


def frontier(scenario: Scenario, prices: Prices, modes: Sequence[Mode] = MODES) -> list[Point]:
    """The configurations that nothing beats on both cost and p99, from the cheapest to the fastest."""
    return unbeaten(points(scenario, prices, modes))


def unbeaten(every: Sequence[Point]) -> list[Point]:
    """The points that no other beats on both cost and p99, from the cheapest to the fastest."""
    best: list[Point] = []
    for point in sorted(every, key=lambda p: (p.usd, p.p99_ms)):
        if not best or point.p99_ms < best[-1].p99_ms:
            best.append(point)
    return best


def at_rate(scenario: Scenario, per_day: float) -> Scenario:
    """The scenario with another volume and all else equal; as a batch, the day's requests are one run a day."""
    return replace(
        scenario, requests_per_day=per_day, requests_per_second=None, peak_requests_per_second=None, trace=None,
        rows=None, runs_per_month=None, budget_usd=None,
    )  # fmt: skip


def curve(scenario: Scenario, prices: Prices, rates: Sequence[float], mode: Mode) -> list[float | None]:
    """US dollars a month of a mode at each rate; None where it cannot carry it or misses the latency."""
    plans = (search.plan(at_rate(scenario, rate), mode, prices) for rate in rates)
    return [float(p.cost.total) if p.feasible else None for p in plans]


def rates(per_decade: int = 8, low: float = LOW, high: float = HIGH) -> list[float]:
    """Rates evenly spread on a logarithmic scale, `low` and `high` among them."""
    steps = round(math.log10(high / low) * per_decade)
    return [low * (high / low) ** (i / steps) for i in range(steps + 1)]


def crossings(scenario: Scenario, prices: Prices, modes: Sequence[Mode] = MODES, per_decade: int = 4) -> list[Crossing]:
    """Where the cheapest of some modes changes, in ascending order of requests a day.

    The grid has `per_decade` rates a decade; between two of them with different winners the change is bisected to 1 %.
    """

    def cheapest(rate: float) -> Mode | None:
        plans = [search.plan(at_rate(scenario, rate), mode, prices) for mode in modes]
        fit = [p for p in plans if p.feasible]
        return min(fit, key=lambda p: p.cost.total).mode if fit else None

    grid = rates(per_decade)
    winners = [cheapest(rate) for rate in grid]
    found = []
    for i in range(len(grid) - 1):
        below, above = winners[i], winners[i + 1]
        if below is None or above is None or below == above:
            continue
        low, high = grid[i], grid[i + 1]
        while high / low > 1.01:
            middle = math.sqrt(low * high)
            if cheapest(middle) == below:
                low = middle
            else:
                high = middle
        found.append(Crossing(high, below, above))
    return found


def mixed(scenario: Scenario, prices: Prices) -> Mixed | None:
    """The cheapest base of instances with a serverless endpoint above it; None where one of the two alone is cheaper.

    The base turns away what it cannot begin at once (Erlang's loss formula, hour by hour), and that overflows. Where
    cold starts are not tolerated, fewer than one request in a hundred may meet one.
    """
    work = workload.of(scenario)
    table = prices.filled(work.region)
    alone = [search.plan(scenario, mode, prices) for mode in ("real-time", "serverless")]
    base, above = alone
    if not all(p.feasible and p.sizing for p in alone) or base.sizing is None or above.sizing is None:
        return None
    instance, k = base.sizing.instance, base.sizing.concurrency
    assert instance is not None
    memory = Decimal(above.sizing.memory_mb)
    best: Mixed | None = None
    for count in range(1, base.sizing.count):
        turned = [r * queueing.erlang_b(r * work.service_s, count * k) for r in work.hourly]
        overflow = sum(turned) / sum(work.hourly)
        cold = sum(r * math.exp(-r * sizing.KEPT_WARM_S) for r in turned) / sum(work.hourly)
        if not work.cold_start_allowed and cold > 0.01:
            continue
        seconds = Decimal(str(round(overflow * work.requests_per_day * DAYS_PER_MONTH * work.service_s, 6)))
        own = replace(base.sizing.usages[0], hours=Decimal(str(round(count * HOURS_PER_MONTH, 6))))
        over = Usage("serverless", name="overflow", region=work.region, memory_mb=memory, compute_seconds=seconds)
        bills = cost.price(own, table), cost.price(over, table)
        saves = min(p.cost.total for p in alone) - (bills[0] + bills[1]).total
        if saves > 0 and (best is None or saves > best.saves_usd):
            instances = replace(base.sizing, count=count, floor=count, hourly=(), usages=(own,))
            beyond = replace(above.sizing, provisioned=0, usages=(over,))  # the base is what is kept warm
            parts = {
                "base": _part(base, "base", instances, bills[0]),
                "overflow": _part(above, "overflow", beyond, bills[1]),
            }
            best = Mixed(instance.name, count, overflow, parts, saves)
    return best


def _part(plan: Plan, name: str, size: sizing.Sizing, bill: Cost) -> Plan:
    """A plan as a part of a mixed one, with names of its own."""
    scenario = replace(plan.scenario, id=f"{requests.name_of(plan.scenario)[:30].rstrip('-')}-{name}")
    return replace(
        plan, configuration=requests.configuration(size, scenario), cost=bill, sizing=size, scenario=scenario
    )  # fmt: skip


def label(size: sizing.Sizing) -> str:
    """A configuration in a few characters: `2 × ml.c5.large`, `2048 MB, 3 kept warm`."""
    if size.instance is not None:
        return f"{size.count} × {size.instance.name}"
    return f"{size.memory_mb} MB" + (f", {size.provisioned} kept warm" if size.provisioned else "")


def rounded(value: float) -> int:
    """To two digits, as a person would say it."""
    if value < 1:
        return 1
    digits = math.floor(math.log10(value)) - 1
    return int(round(value / 10**digits) * 10**digits)
