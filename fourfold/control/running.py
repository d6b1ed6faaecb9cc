"""An endpoint that answers calls: its fleets and variants, its route, and what two wishes for it have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fourfold.control.endpoints import Document, all_variants, captures
from fourfold.pool.fleet import Fleet
from fourfold.pool.routes import Kind, Route, Variant
from fourfold.pool.several import Workers
from fourfold.pool.shadow import Shadow


@dataclass
class Running:
    """An endpoint that answers calls."""

    wanted: Document
    revision: int
    fleets: dict[str, Workers] = field(default_factory=dict)
    variants: dict[str, Variant] = field(default_factory=dict)
    folders: dict[str, str] = field(default_factory=dict)
    images: dict[str, list[Document]] = field(default_factory=dict)

    @property
    def production(self) -> list[Variant]:
        """The variants that answer."""
        return [self.variants[variant["VariantName"]] for variant in self.wanted["config"]["ProductionVariants"]]

    @property
    def shadows(self) -> list[Variant]:
        """The variants that get copies."""
        shadows = self.wanted["config"].get("ShadowProductionVariants", [])
        return [self.variants[variant["VariantName"]] for variant in shadows]

    @property
    def healthy(self) -> bool:
        return all(fleet.ready or not (fleet.wanted or fleet.failure) for fleet in self.fleets.values())

    def without(self, other: Running) -> list[Workers]:
        """The fleets that the other does not have."""
        theirs = set(map(id, other.fleets.values()))
        return [fleet for fleet in self.fleets.values() if id(fleet) not in theirs]

    def scale_as_wanted(self, fleets: Mapping[str, Workers]) -> None:
        """Give those of its fleets that are also among these the size that it wants."""
        for name, fleet in self.fleets.items():
            if isinstance(fleet, Fleet) and fleets.get(name) is fleet:
                fleet.scale(self.wanted["counts"][name])

    def cast_shadow(self) -> None:
        """With a shadow variant, the production variant's calls are copied to it."""
        for shadow in self.shadows:
            (production,) = self.production
            copies = Shadow(production, shadow, min(1.0, shadow.weight / production.weight))
            production.submit, production.submit_stream = copies.submit, copies.submit_stream

    def capture(self, tap: Callable[[Variant, Document], None]) -> None:
        """With data capture, the calls of its variants are shown to `tap`, those of a shadow too."""
        config = self.wanted["config"]
        if captures(config):
            for variant in self.variants.values():
                tap(variant, config["DataCaptureConfig"])


def route(running: Running) -> Route:
    """Where its calls go."""
    name, config = running.production[0].endpoint, running.wanted["config"]
    return Route(
        name, running.production, _kind(config), config.get("AsyncInferenceConfig"), shadows=running.shadows
    )  # fmt: skip


def shared_route(before: Running, after: Running, share: float) -> Route:
    """Calls go to the fleets of `after` with this share, to those of `before` with the rest."""
    old, new = before.production, after.production
    of_old, of_new = sum(v.weight for v in old), sum(v.weight for v in new)
    weights = [v.weight / of_old * (1 - share) for v in old] + [v.weight / of_new * share for v in new]
    config = after.wanted["config"]
    return Route(
        new[0].endpoint, [*old, *new], _kind(config), config.get("AsyncInferenceConfig"), weights=weights,
        shadows=[*before.shadows, *after.shadows],
    )  # fmt: skip


def _kind(config: Document) -> Kind:
    if "AsyncInferenceConfig" in config:
        return "asynchronous"
    return "serverless" if any("ServerlessConfig" in variant for variant in all_variants(config)) else "realtime"


def same_workers(old: Document, new: Document, variant: str) -> bool:
    """Would the variant's workers load and run the same under both wishes?"""

    def workers(wanted: Document) -> Any:
        shadows = wanted["config"].get("ShadowProductionVariants", [])  # theirs run at a lower priority
        for entry in all_variants(wanted["config"]):
            if entry["VariantName"] == variant:
                ignored = ("InitialVariantWeight", "InitialInstanceCount", "ServerlessConfig")
                memory = entry.get("ServerlessConfig", {}).get("MemorySizeInMB")  # its other bounds need no new worker
                kept = {k: v for k, v in entry.items() if k not in ignored}
                if "ModelName" not in entry:
                    return "components"  # which come and go by themselves
                return kept, memory, entry in shadows, wanted["models"].get(entry["ModelName"])
        return None

    before, after = workers(old), workers(new)
    return before is not None and before == after


def keeps_workers(old: Document, new: Document) -> bool:
    """Is every variant of the new wish one that runs already?"""
    return all(same_workers(old, new, variant["VariantName"]) for variant in all_variants(new["config"]))
