"""One query for every List operation: filters, sorts and pages over the resources of a kind.

A page's token is the place of its last entry in the sort order (sort value and name), so that resources which come or
go between two pages neither repeat nor hide others.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fourfold.errors import ValidationException
from fourfold.store.resources import Resource
from fourfold.store.schema import resources

SortBy = Literal["name", "created_at", "modified_at", "status"]


@dataclass(frozen=True)
class Listing:
    """What to list.

    Attributes:
        kind: the resources' kind.
        name_contains: part of the name, as is (no wildcards).
        name_prefix: start of the name.
        nested: only names with a slash, or only names without one.
        created_after, created_before, modified_after, modified_before: bounds, seconds since the epoch, exclusive.
        status: only this status.
        members: members of the document that must have these texts, each by name or by its path of names.
        sort_by: column to sort by; the name breaks ties.
        descending: largest first.
        limit: entries a page.
        token: the previous page's `next_token`.
    """

    kind: str
    name_contains: str | None = None
    name_prefix: str | None = None
    nested: bool | None = None
    created_after: float | None = None
    created_before: float | None = None
    modified_after: float | None = None
    modified_before: float | None = None
    status: str | None = None
    members: Mapping[str, str] | Mapping[tuple[str, ...], str] = field(default_factory=dict)
    sort_by: SortBy = "created_at"
    descending: bool = True
    limit: int = 10
    token: str | None = None


@dataclass(frozen=True)
class Page:
    entries: list[Resource]
    next_token: str | None


_SORTS: Mapping[str, SortBy] = {
    "Name": "name",
    "NAME": "name",
    "CreationTime": "created_at",
    "CREATION_TIME": "created_at",
    "LastModifiedTime": "modified_at",
    "Status": "status",
}


def from_request(
    kind: str,
    params: Mapping[str, Any],
    *,
    descending: bool = True,
    name_prefix: str | None = None,
    nested: bool | None = None,
) -> Listing:
    """The listing that an AWS List request asks for.

    Args:
        kind: the resources' kind.
        params: the request's members; those that it has decide which filters there are.
        descending: the operation's default order.
        name_prefix, nested: as in `Listing`.
    """
    order = params.get("SortOrder")
    return Listing(
        kind,
        name_contains=params.get("NameContains"),
        name_prefix=name_prefix,
        nested=nested,
        created_after=params.get("CreationTimeAfter"),
        created_before=params.get("CreationTimeBefore"),
        modified_after=params.get("LastModifiedTimeAfter"),
        modified_before=params.get("LastModifiedTimeBefore"),
        status=params.get("StatusEquals"),
        sort_by=_SORTS[params.get("SortBy", "CreationTime")],
        descending=descending if order is None else order == "Descending",
        limit=params.get("MaxResults", 10),
        token=params.get("NextToken"),
    )


def page(db: Connection, listing: Listing) -> Page:
    """One page. Raises ValidationException where the token is not one of ours."""
    column = resources.c[listing.sort_by]
    query = sa.select(resources).where(resources.c.kind == listing.kind)
    if listing.name_contains is not None:
        query = query.where(resources.c.name.contains(listing.name_contains, autoescape=True))
    if listing.name_prefix is not None:
        query = query.where(resources.c.name.startswith(listing.name_prefix, autoescape=True))
    if listing.nested is not None:
        slash = resources.c.name.contains("/")
        query = query.where(slash if listing.nested else ~slash)
    for bound, compare in (
        (listing.created_after, resources.c.created_at.__gt__),
        (listing.created_before, resources.c.created_at.__lt__),
        (listing.modified_after, resources.c.modified_at.__gt__),
        (listing.modified_before, resources.c.modified_at.__lt__),
        (listing.status, resources.c.status.__eq__),
    ):
        if bound is not None:
            query = query.where(compare(bound))
    for member, text in listing.members.items():
        query = query.where(resources.c.document[member].as_string() == text)
    if listing.token is not None:
        place = sa.tuple_(*_place(listing))
        here = sa.tuple_(column, resources.c.name)
        query = query.where(here < place if listing.descending else here > place)
    direction = sa.desc if listing.descending else sa.asc
    query = query.order_by(direction(column), direction(resources.c.name)).limit(listing.limit + 1)
    found = [Resource(**row._mapping) for row in db.execute(query)]
    more = len(found) > listing.limit
    entries = found[: listing.limit]
    return Page(entries, _token(listing, entries[-1]) if more else None)


def _token(listing: Listing, last: Resource) -> str:
    place = [listing.sort_by, getattr(last, listing.sort_by), last.name]
    return base64.urlsafe_b64encode(msgspec.json.encode(place)).decode()


def _place(listing: Listing) -> tuple[Any, str]:
    try:
        sort_by, value, name = msgspec.json.decode(
            base64.urlsafe_b64decode(listing.token or ""), type=tuple[str, str | float, str]
        )
    except (binascii.Error, ValueError, msgspec.MsgspecError):
        sort_by = value = name = ""
    if sort_by != listing.sort_by:
        raise ValidationException("Invalid NextToken: give the one of the previous page, with the same SortBy.")
    return value, name
