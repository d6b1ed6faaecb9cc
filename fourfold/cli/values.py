"""Values that several commands make alike."""

from __future__ import annotations

from datetime import UTC, datetime

import typer


def stamped(name: str) -> str:
    """A name that is new: this one, cut where it is too long, and the moment."""
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S-%f")[:-3]
    return f"{name[: 62 - len(stamp)].rstrip('-')}-{stamp}"  # names have at most 63 characters


def key_values(given: list[str], option: str) -> dict[str, str]:
    """What an option of the form KEY=VALUE was given. Raises BadParameter."""
    values = {}
    for pair in given:
        key, equals, value = pair.partition("=")
        if not key or not equals:
            raise typer.BadParameter(f"{pair!r} is not KEY=VALUE", param_hint=option)
        values[key] = value
    return values
