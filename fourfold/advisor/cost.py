"""What usages cost: quantity × price, line by line, in decimal arithmetic.

A quantity that a division leaves without an end (seconds to hours) is rounded to 12 decimals; after that nothing is:
each line's cost is exactly its quantity times its price, and the total is exactly the sum of the lines.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from decimal import ROUND_CEILING, ROUND_HALF_EVEN, Context, Decimal, localcontext

from fourfold.advisor.prices import Allowance, Price, Prices
from fourfold.advisor.usage import SERVICES, Usage

CHUNK_KB = 64
"""SQS and SNS charge each 64 KB of a message, or part of it, as one request."""
KB_PER_GB = 1024 * 1024
DIGITS = Context(prec=120, rounding=ROUND_HALF_EVEN)


@dataclass(frozen=True)
class Line:
    """One line of a bill."""

    item: str
    quantity: Decimal
    unit: str
    """What the price buys one of: `instance-hour`, `GB`, `1000000 requests`."""
    price_usd: Decimal
    source: str

    @property
    def cost_usd(self) -> Decimal:
        return DIGITS.multiply(self.quantity, self.price_usd)

    def plain(self) -> dict[str, str]:
        """The line as JSON shows it: figures as decimal text."""
        return {
            "item": self.item,
            "quantity": plain(self.quantity),
            "unit": self.unit,
            "price_usd": plain(self.price_usd),
            "cost_usd": plain(self.cost_usd),
            "source": self.source,
        }


@dataclass(frozen=True)
class Cost:
    """A bill."""

    lines: tuple[Line, ...] = ()

    @property
    def total(self) -> Decimal:
        """US dollars."""
        with localcontext(DIGITS):
            return sum((line.cost_usd for line in self.lines), Decimal(0))

    def plain(self) -> dict[str, object]:
        return {"total_usd": plain(self.total, places=2), "lines": [line.plain() for line in self.lines]}

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.lines + other.lines)


@dataclass(frozen=True)
class Charge:
    """A quantity of something that has a price, before free amounts and tiers are applied."""

    tiers: tuple[Price, ...]
    quantity: Decimal
    """In single units (requests, not millions of them)."""
    item: str
    free_units: Decimal = Decimal(1)
    """Units of this charge in one unit of the allowance: GB in a second of serverless compute, else 1."""
    free_key: str = ""
    """The allowance that may reduce it; empty where the usage is outside the free tier."""


@dataclass(frozen=True)
class Grant:
    """The part of a charge that is free."""

    quantity: Decimal = Decimal(0)
    source: str = ""


def price(usages: Usage | Iterable[Usage], prices: Prices) -> Cost:
    """The bill of one usage or several.

    Free amounts are an account's, so usages with `free_tier` share them; they are taken from the dearest charge first,
    which makes the total independent of the order of the usages.

    Raises:
        ValidationException: a region or instance type has no price; the message says what would work.
    """
    with localcontext(DIGITS):
        charges = [c for u in ([usages] if isinstance(usages, Usage) else usages) for c in charges_of(u, prices)]
        free = _share(charges, prices.allowances)
        return Cost(tuple(line for c, granted in zip(charges, free, strict=True) for line in _lines(c, granted)))


def charges_of(usage: Usage, prices: Prices) -> Iterator[Charge]:
    """What a usage is charged for, in the order of a bill."""
    if not usage.overrides:
        prices.check_region(usage.region)
    yield from _instance(usage, prices)
    yield from _serverless(usage, prices)
    yield from _storage_and_data(usage, prices)
    yield from _services(usage, prices)


def _instance(usage: Usage, prices: Prices) -> Iterator[Charge]:
    hours = usage.instance_hours
    if hours is None:
        return
    key = "batch" if usage.type == "batch" else "hosting"
    tiers = _tiers(usage, prices, key, "usd_per_hour", "instance-hour", usage.instance_type)
    name = usage.instance_type or "instance"
    allowance = _allowance(prices, "hosting")
    # The free hours are for real-time inference on two instance types only.
    free = usage.free_tier and usage.type == "real-time" and name in (allowance.instance_types if allowance else ())
    item = f"{usage.type} {name}" + (f" × {plain(usage.instance_count)}" if usage.instance_count > 1 else "")
    yield Charge(tiers, hours, _named(usage, item), free_key="hosting" if free else "")


def _storage_and_data(usage: Usage, prices: Prices) -> Iterator[Charge]:
    billed = usage.type in ("real-time", "asynchronous")
    for key, override, unit, item, quantity, free_of_charge in (
        ("storage", "usd_per_gb_month", "GB-month", "ML storage", usage.storage_gb_month, usage.type == "serverless"),
        ("data", "usd_per_gb", "GB", "data in", usage.data_in_gb, not billed and usage.type != "serverless"),
        ("data", "usd_per_gb", "GB", "data out", usage.data_out_gb, not billed and usage.type != "serverless"),
    ):
        if quantity is None:
            continue
        if free_of_charge and override not in usage.overrides:
            why = f"SageMaker does not charge {key} for {usage.type}"
            tiers: tuple[Price, ...] = (Price(key, item, usage.region, unit, Decimal(0), source=why),)
        else:
            tiers = _tiers(usage, prices, key, override, unit)
        yield Charge(tiers, quantity, _named(usage, item))


def _serverless(usage: Usage, prices: Prices) -> Iterator[Charge]:
    if usage.memory_mb is None:
        return
    gb = usage.memory_mb / 1024
    size = f"{plain(usage.memory_mb)} MB"
    for key, item, override, seconds in (
        ("serverless", "compute", "usd_per_second", usage.billed_compute_seconds),
        (
            "provisioned-usage",
            "provisioned concurrency kept warm",
            "usd_per_provisioned_usage_second",
            usage.kept_warm_seconds,
        ),
        (
            "provisioned-duration",
            "processing on provisioned concurrency",
            "usd_per_provisioned_duration_second",
            usage.provisioned_duration_seconds,
        ),
    ):
        if seconds is None:
            continue
        label = _named(usage, f"serverless {item}, {size}")
        if override in usage.overrides:
            stated = _override(usage, key, override, "second")
            yield Charge((stated,), seconds, label, free_key=_free(usage, key))
        else:
            gb_price = "usd_per_gb_second" if key == "serverless" else ""
            tiers = _tiers(usage, prices, key, gb_price, "GB-second")
            yield Charge(tiers, seconds * gb, label, free_units=gb, free_key=_free(usage, key))


def _services(usage: Usage, prices: Prices) -> Iterator[Charge]:
    chunks = max(Decimal(1), ((usage.message_kb or 0) / Decimal(CHUNK_KB)).to_integral_value(ROUND_CEILING))
    for member, key in SERVICES.items():
        if member not in usage.services:
            continue
        quantity = usage.services[member]
        fifo = usage.fifo and key in ("sqs", "sns")
        if key == "sqs" or (key == "sns" and not fifo):
            quantity *= chunks
        tiers = _tiers(usage, prices, f"{key}-fifo" if fifo else key, _service_override(usage, member), "")
        yield Charge(
            tiers,
            quantity,
            _named(usage, tiers[0].item),
            free_key=_free(usage, key if key != "sns" or not fifo else ""),
        )
        if fifo and key == "sns" and usage.message_kb is not None:
            payload = usage.services[member] * usage.message_kb / KB_PER_GB
            tiers = _tiers(usage, prices, "sns-fifo-payload", _service_override(usage, "payload_gb"), "GB")
            yield Charge(tiers, payload, _named(usage, tiers[0].item))


def _service_override(usage: Usage, member: str) -> str:
    """The override that a service's price listens to. A GB is the model's own where the usage has a model."""
    for ending, override in (("_gb_month", "usd_per_gb_month"), ("_gb", "usd_per_gb")):
        if member.endswith(ending):
            return override if usage.type == "supporting" else ""
    own = f"usd_per_million_{member}"
    return own if own in usage.overrides else "usd_per_million"


def _tiers(
    usage: Usage, prices: Prices, key: str, override: str, unit: str, instance_type: str = ""
) -> tuple[Price, ...]:
    if override in usage.overrides:
        return (_override(usage, key, override, unit),)
    return tuple(prices.find(key, usage.region, instance_type))


def _override(usage: Usage, key: str, override: str, unit: str) -> Price:
    per, usd = Decimal(1), usage.overrides[override]
    if override.startswith("usd_per_million"):
        per, unit = Decimal(10**6), override.removeprefix("usd_per_million").removeprefix("_") or "request"
    elif override == "usd_per_gb_month":
        unit = "GB-month"
    elif override == "usd_per_gb":
        unit = "GB"
    return Price(key, key, usage.region, unit, usd, per=per, source=f"price_overrides.{override}")


def _free(usage: Usage, key: str) -> str:
    return key if usage.free_tier else ""


def _allowance(prices: Prices, key: str) -> Allowance | None:
    return next((a for a in prices.allowances if a.key == key), None)


def _share(charges: list[Charge], allowances: Iterable[Allowance]) -> list[Grant]:
    """What of each charge is free."""
    sources = {a.key: a.source for a in allowances}
    left = {a.key: a.quantity for a in allowances}
    granted = [Grant() for _ in charges]

    def worth(index: int) -> Decimal:
        charge = charges[index]
        return charge.tiers[0].usd / charge.tiers[0].per * charge.free_units

    for index in sorted(range(len(charges)), key=worth, reverse=True):
        charge = charges[index]
        taken = min(left.get(charge.free_key, Decimal(0)), charge.quantity / charge.free_units)
        if taken:
            left[charge.free_key] -= taken
            granted[index] = Grant(taken * charge.free_units, sources[charge.free_key])
    return granted


def _lines(charge: Charge, granted: Grant) -> Iterator[Line]:
    if granted.quantity:
        free = replace(charge.tiers[0], usd=Decimal(0), source=granted.source, source_date="")
        yield _line(f"{charge.item}, free tier", granted.quantity, free)
        if granted.quantity == charge.quantity:
            return
    for tier, following in zip(charge.tiers, (*charge.tiers[1:], None), strict=True):
        # A tier counts what was used before it, the free amount included.
        begin = max(granted.quantity, tier.above)
        end = min(charge.quantity, following.above) if following else charge.quantity
        if end > begin or (tier is charge.tiers[0] and not charge.quantity):
            yield _line(charge.item, end - begin, tier)


def _line(item: str, quantity: Decimal, tier: Price) -> Line:
    unit = tier.unit if tier.per == 1 else f"{plain(tier.per)} {tier.unit.removesuffix('s')}s"
    return Line(item, _rounded(quantity / tier.per), unit, tier.usd, tier.cited if tier.source_date else tier.source)


def _rounded(quantity: Decimal) -> Decimal:
    return quantity.quantize(Decimal("1e-12"), context=DIGITS)


def _named(usage: Usage, item: str) -> str:
    return f"{usage.name}: {item}" if usage.name else item


def plain(value: Decimal, places: int = 0) -> str:
    """A decimal without exponent and without trailing zeros, but with at least `places` decimals."""
    text = f"{value:f}"
    whole, _, fraction = text.partition(".")
    fraction = fraction.rstrip("0").ljust(places, "0")
    return f"{whole}.{fraction}" if fraction else whole
