"""The price table: what AWS charges for a unit of something in a region, with the source and date of each figure.

The shipped table is `data/prices.csv`, the monthly free amounts are `data/free.csv`; a file of your own with the same
columns, or with machines that you run yourself, is laid over it (`Prices.over`). What a workload uses is for `usage`,
what it costs is for `cost`.
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from importlib import resources
from pathlib import Path
from typing import Any

from fourfold.errors import ValidationException

HOME_REGION = "us-east-1"
"""The region that every service of the table has a price in."""
AWS_REGIONS = {
    "us-east-1", "us-east-2", "us-west-1", "us-west-2", "ca-central-1", "ca-west-1", "mx-central-1",
    "sa-east-1", "eu-west-1", "eu-west-2", "eu-west-3", "eu-central-1", "eu-central-2", "eu-north-1",
    "eu-south-1", "eu-south-2", "af-south-1", "me-south-1", "me-central-1", "il-central-1", "ap-south-1",
    "ap-south-2", "ap-northeast-1", "ap-northeast-2", "ap-northeast-3", "ap-southeast-1", "ap-southeast-2",
    "ap-southeast-3", "ap-southeast-4", "ap-southeast-5", "ap-southeast-7", "ap-east-1",
}  # fmt: skip
"""Regions that exist, prices or not (botocore's endpoints.json, partition `aws`)."""
COLUMNS = (
    "key", "item", "region", "instance_type", "vcpu", "memory_gib", "gpu",
    "above", "per", "unit", "price_usd", "source", "source_date",
)  # fmt: skip


@dataclass(frozen=True)
class Price:
    """`usd` for `per` units of `item`, once `above` units of it have been used in the month."""

    key: str
    """What is charged for: `hosting`, `batch`, `serverless`, `data`, `sqs`, ..."""
    item: str
    region: str
    unit: str
    usd: Decimal
    per: Decimal = Decimal(1)
    above: Decimal = Decimal(0)
    instance_type: str = ""
    source: str = ""
    source_date: str = ""
    """ISO date, or the part of it that is known; empty when the source is undated."""

    @property
    def cited(self) -> str:
        return f"{self.source} ({self.source_date or 'undated'})"


@dataclass(frozen=True)
class Instance:
    """An instance type's size and its price an hour for one use of it (`hosting` or `batch`)."""

    name: str
    vcpu: int
    memory_gib: float
    gpus: int
    usd_per_hour: Decimal

    @property
    def family(self) -> str:
        """`g5` of `ml.g5.xlarge`."""
        return self.name.removeprefix("ml.").split(".")[0]


@dataclass(frozen=True)
class Allowance:
    """The first `quantity` units of a month that an account in the free tier is not charged for."""

    key: str
    quantity: Decimal
    source: str
    instance_types: frozenset[str] = frozenset()
    """Empty: not bound to instance types."""


class Prices:
    """Prices by key, region and instance type."""

    def __init__(
        self, prices: Iterable[Price], sizes: Mapping[str, Instance], allowances: Sequence[Allowance] = ()
    ) -> None:
        self._tiers: dict[tuple[str, str, str], list[Price]] = {}
        for price in prices:
            tiers = self._tiers.setdefault((price.key, price.region, price.instance_type), [])
            tiers[:] = sorted([*(t for t in tiers if t.above != price.above), price], key=lambda t: t.above)
        self._sizes = dict(sizes)
        self.allowances = tuple(allowances)
        self.borrowed: frozenset[str] = frozenset()
        """Items whose price is the home region's, in a table that `filled` made."""
        self._filled: dict[str, Prices] = {}

    @property
    def regions(self) -> list[str]:
        return sorted({region for _, region, _ in self._tiers})

    def find(self, key: str, region: str = HOME_REGION, instance_type: str = "") -> list[Price]:
        """The price, or its tiers in ascending order.

        Raises:
            ValidationException: there is none; the message names what would work.
        """
        found = self._tiers.get((key, region, instance_type))
        if found is None:
            raise ValidationException(self._why_none(key, region, instance_type))
        return found

    def every(self) -> list[Price]:
        """All prices, in the order in which they were given."""
        return [price for tiers in self._tiers.values() for price in tiers]

    def size(self, instance_type: str) -> Instance:
        """vCPUs, memory and GPUs of an instance type that the table knows; its price is 0 here."""
        return self._sizes[instance_type]

    def has(self, key: str, region: str, instance_type: str = "") -> bool:
        return (key, region, instance_type) in self._tiers

    def instances(self, key: str, region: str = HOME_REGION) -> list[Instance]:
        """The instance types that have a price for this use in this region, cheapest first."""
        found = [
            replace(self._sizes[name], usd_per_hour=tiers[0].usd)
            for (k, r, name), tiers in self._tiers.items()
            if k == key and r == region and name
        ]
        return sorted(found, key=lambda i: (i.usd_per_hour, i.name))

    def filled(self, region: str) -> Prices:
        """A table that has a price for everything in `region`: what is missing there costs what it costs at home.

        For estimates only; a bill (`fourfold cost`) never takes another region's price. `borrowed` lists what was.
        """
        if region not in self.regions and region not in AWS_REGIONS:
            self.check_region(region)
        if region not in self._filled:
            missing = [
                replace(price, region=region, source=f"price of {HOME_REGION}: {price.source}")
                for (key, where, instance), tiers in self._tiers.items()
                if where == HOME_REGION and not self.has(key, region, instance)
                for price in tiers
            ]
            table = Prices([*self.every(), *missing], self._sizes, self.allowances)
            table.borrowed = frozenset(price.item for price in missing)
            self._filled[region] = table
        return self._filled[region]

    def check_region(self, region: str) -> None:
        if region not in self.regions:
            raise ValidationException(
                f"region: no prices for {region!r}; there are prices for {', '.join(self.regions)}. "
                "Add your region's prices with --prices FILE, or give price_overrides"
            )

    def over(self, path: Path) -> Prices:
        """This table with the rows of a file laid over it.

        A `.csv` file has the columns of the shipped table. A `.yaml` or `.json` file may hold `prices`, a list of
        mappings with the same names (`key`, `usd` or `price_usd`, the rest optional), and `machines`, a mapping of
        machines of your own by name:

            machines:
              shed-1: {price_usd: 4000, lifetime_years: 4, watts: 350, usd_per_kwh: 0.30, upkeep_usd_per_hour: 0.05,
                       vcpu: 16, memory_gib: 64, gpu: 1}

        A machine costs, an hour, its price over its lifetime (8,760 hours a year), its power, and its upkeep; it can
        then be named as `instance_type`.
        """
        rows, machines = _read(path)
        added = [_price(row, f"{path.name}: row {number}") for number, row in enumerate(rows, 1)]
        sizes = dict(self._sizes)
        for row in rows:
            if row.get("instance_type") and row.get("vcpu"):
                sizes[str(row["instance_type"])] = _size(row)
        for name, machine in machines.items():
            sizes[name] = _size({**machine, "instance_type": name})
            for region in {*self.regions, "on-premises"}:
                added += [_machine(name, machine, key, region, path.name) for key in ("hosting", "batch")]
        for price in added:
            if price.instance_type and price.instance_type not in sizes:
                raise ValidationException(
                    f"{path.name}: {price.instance_type} is new; say its vcpu, memory_gib and gpu beside its price"
                )
        return Prices([*self.every(), *added], sizes, self.allowances)

    def _why_none(self, key: str, region: str, instance_type: str) -> str:
        self.check_region(region)
        regions = sorted({r for k, r, i in self._tiers if k == key and i == instance_type})
        if instance_type:
            if regions:
                return (
                    f"instance_type: no {key} price for {instance_type} in {region}; there is one in "
                    f"{', '.join(regions)}. Choose another region or give price_overrides.usd_per_hour"
                )
            known = [i.name for i in self.instances(key, region)]
            near = [n for n in known if n.split(".")[1:2] == instance_type.split(".")[1:2]] or known
            return (
                f"instance_type: no {key} price for {instance_type!r} in {region}; there are prices for "
                f"{', '.join(near[:12])}. Choose one or give price_overrides.usd_per_hour"
            )
        where = f"; there is one in {', '.join(regions)}" if regions else ""
        return f"region: no price for {key} in {region}{where}. Choose another region or give price_overrides"


@functools.cache
def shipped() -> Prices:
    """The table that comes with Fourfold."""
    data = resources.files("fourfold.advisor") / "data"
    rows = list(csv.DictReader((data / "prices.csv").read_text(encoding="utf-8").splitlines()))
    sizes = {row["instance_type"]: _size(row) for row in rows if row["instance_type"]}
    allowances = [
        Allowance(
            row["key"], Decimal(row["quantity"]), row["source"], frozenset(row["instance_types"].split())
        )
        for row in csv.DictReader((data / "free.csv").read_text(encoding="utf-8").splitlines())
    ]  # fmt: skip
    return Prices([_price(row, "prices.csv") for row in rows], sizes, allowances)


def _read(path: Path) -> tuple[list[dict[str, Any]], dict[str, dict[str, Any]]]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValidationException(f"prices: {path} cannot be read: {error}") from error
    if path.suffix == ".csv":
        reader = csv.DictReader(text.splitlines())
        unknown = set(reader.fieldnames or ()) - set(COLUMNS)
        if unknown:
            raise ValidationException(f"{path.name}: unknown columns {sorted(unknown)}; known: {', '.join(COLUMNS)}")
        return list(reader), {}
    from fourfold.advisor import documents  # the server needs prices, and reads none of a user's own

    data = documents.load(text, f"prices: {path.name}", exact=True)
    if not isinstance(data, dict) or not set(data) <= {"prices", "machines"}:
        raise ValidationException(f"{path.name}: expected a mapping with `prices` (a list) and `machines` (a mapping)")
    return list(data.get("prices") or []), dict(data.get("machines") or {})


def _price(row: Mapping[str, Any], where: str) -> Price:
    key = str(row.get("key") or "")
    if not key:
        raise ValidationException(f"{where}: key is missing; say what the price is for, e.g. hosting")
    usd = row.get("price_usd", row.get("usd"))
    return Price(
        key=key,
        item=str(row.get("item") or key),
        region=str(row.get("region") or HOME_REGION),
        unit=str(row.get("unit") or "instance-hour"),
        usd=amount(usd, f"{where}: price_usd"),
        per=amount(row.get("per") or 1, f"{where}: per"),
        above=amount(row.get("above") or 0, f"{where}: above"),
        instance_type=str(row.get("instance_type") or ""),
        source=str(row.get("source") or where),
        source_date=str(row.get("source_date") or ""),
    )


def _size(row: Mapping[str, Any]) -> Instance:
    name = str(row["instance_type"])
    return Instance(
        name=name,
        vcpu=int(amount(row.get("vcpu", 1), f"{name}: vcpu")),
        memory_gib=float(amount(row.get("memory_gib", 1), f"{name}: memory_gib")),
        gpus=int(amount(row.get("gpu") or 0, f"{name}: gpu")),
        usd_per_hour=Decimal(0),
    )


_MACHINE = {
    "price_usd", "lifetime_years", "watts", "usd_per_kwh", "upkeep_usd_per_hour", "vcpu", "memory_gib", "gpu",
}  # fmt: skip


def _machine(name: str, machine: Mapping[str, Any], key: str, region: str, where: str) -> Price:
    unknown = set(machine) - _MACHINE
    if unknown:
        raise ValidationException(f"machines.{name}: unknown {sorted(unknown)}; known: {', '.join(sorted(_MACHINE))}")
    value = {member: amount(machine.get(member, 0), f"machines.{name}.{member}") for member in _MACHINE}
    if not value["lifetime_years"]:
        raise ValidationException(f"machines.{name}.lifetime_years: say over how many years the price is spread")
    depreciation = value["price_usd"] / (value["lifetime_years"] * 8760)
    power = value["watts"] / 1000 * value["usd_per_kwh"]
    usd = (depreciation + power + value["upkeep_usd_per_hour"]).quantize(Decimal("1e-6"))
    return Price(
        key,
        "Machine of your own",
        region,
        "instance-hour",
        usd,
        instance_type=name,
        source=f"{where}: depreciation + power + upkeep",
    )


def amount(value: object, field: str) -> Decimal:
    """A number that is not negative, exactly as it was written.

    Raises:
        ValidationException: naming `field`, for anything else: text, truth values, NaN, infinities, negatives.
    """
    shown = str(value)
    shown = shown if len(shown) <= 40 else f"{shown[:40]}…"
    if isinstance(value, bool) or not isinstance(value, (int, float, str, Decimal)):
        raise ValidationException(f"{field}: expected a number, got {shown}")
    try:
        number = Decimal(str(value).strip())
    except InvalidOperation:
        raise ValidationException(f"{field}: expected a number, got {shown!r}; write it as 0.5 or 12e6") from None
    if not number.is_finite():
        raise ValidationException(f"{field}: expected a finite number, got {shown}")
    if number < 0:
        raise ValidationException(f"{field}: {shown} is negative; use 0 or more")
    if number > Decimal("1e18"):
        raise ValidationException(f"{field}: {shown} is out of any range that AWS bills; use less than 1e18")
    return number
