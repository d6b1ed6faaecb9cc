"""YAML and JSON without the surprises of YAML 1.1, where `0100` is 64, `1:30` is 90 and `3e6` is text.

Numbers are decimal, `1_000` among them; what only looks like one stays the text that it is.
"""

from __future__ import annotations

import json
import re
from decimal import Decimal
from typing import Any

import yaml

from fourfold.errors import ValidationException


def load(text: str, where: str, *, exact: bool = False) -> Any:
    """What a document holds.

    Args:
        text: the document.
        where: it came from, for messages; what ends in `.json` is read as JSON, all else as YAML.
        exact: leave numbers as they are written: as Decimal, or as text.

    Raises:
        ValidationException: it cannot be parsed, is nested too deeply, or gives a member twice.
    """
    try:
        if where.endswith(".json"):
            number = Decimal if exact else None
            return json.loads(text, parse_float=number, parse_int=number, object_pairs_hook=_without_repeats)
        return yaml.load(text, Loader=_Exact if exact else _Plain)  # noqa: S506  both are SafeLoaders
    except (ValueError, yaml.YAMLError) as error:
        raise ValidationException(f"{where} is not valid YAML or JSON: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise ValidationException(f"{where} is nested too deeply; write members such as payload_mb: 2") from None


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice} is given twice")
    return members


class _Exact(yaml.SafeLoader):  # type: ignore[misc]  # PyYAML has no types
    """YAML whose numbers are text."""

    yaml_implicit_resolvers = {  # noqa: RUF012  (PyYAML's name for it)
        first: [(tag, pattern) for tag, pattern in resolvers if tag.rpartition(":")[2] not in ("int", "float")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


class _Plain(_Exact):
    """YAML whose numbers are numbers."""


def _mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[str, Any]:
    own = [loader.construct_object(key) for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
    _without_repeats([(str(name), None) for name in own])
    loader.flatten_mapping(node)  # `<<: *other`: its members, under those of this mapping
    return {str(loader.construct_object(k)): loader.construct_object(v, deep=True) for k, v in node.value}


_Exact.add_constructor("tag:yaml.org,2002:map", _mapping)
_Plain.add_constructor("tag:yaml.org,2002:map", _mapping)
_Plain.add_constructor("tag:yaml.org,2002:int", lambda loader, node: int(node.value))
_Plain.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"[-+]?[0-9][0-9_]*$"), list("-+0123456789"))
_Plain.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"([-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))$"),
    list("-+.0123456789"),
)
