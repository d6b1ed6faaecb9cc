"""The queue of asynchronous calls: accepted, claimed under a lease, settled once, published, kept for a while.

    queued ──claim──► running ──settle──► publishing ──finish──► completed | failed | expired | cancelled
      ▲                 │                     ▲
      └──give_back, lease over────────────────┘ (expired or cancelled while queued)

A claim raises the call's attempt, which is the fence: whoever settles, gives back or finishes names the attempt that it
holds, and an old one is not believed. What a call comes to is decided by `settle`, in one transaction; the object that
shows it is written afterwards, as often as it takes, from what was decided (`publishing`). So a crash at any moment
leads to one outcome, and to one object.

Each endpoint has a row of counts, changed in the same transaction as the calls, so that a look at a queue of a million
costs what a look at an empty one does. Every function that changes calls locks these rows last, in the order of their
names: two transactions cannot wait for each other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection

from fourfold.records import Outcome
from fourfold.store.prepared import Block, Prepared, given
from fourfold.store.schema import metadata

T = TypeVar("T", bound=Any)

State = Literal["queued", "running", "publishing", "completed", "failed", "expired", "cancelled"]
OUTCOMES: tuple[Outcome, ...] = ("completed", "failed", "expired", "cancelled")

EXACT_PLACES = 1000
"""Up to this place in the queue the place is counted; beyond it, calls that left out of turn may count, too."""

QUEUED = sa.text("state = 'queued'")
HELD = sa.text("state IN ('running', 'publishing')")
"""Conditions of partial indexes. Queries that are to use these must say the same, as text: SQLite knows no more."""

calls = sa.Table(
    "async_calls",
    metadata,
    sa.Column("endpoint", sa.String, primary_key=True),
    sa.Column("number", sa.BigInteger, primary_key=True, comment="order of acceptance within the endpoint"),
    sa.Column("inference_id", sa.String, nullable=False),
    sa.Column("key", sa.String, nullable=True, comment="idempotency key"),
    sa.Column("state", sa.String, nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False, comment="the fence: grows with each claim"),
    sa.Column("faults", sa.Integer, nullable=False, comment="attempts that ended without an answer of the model"),
    sa.Column("owner", sa.String, nullable=False, comment="who claimed it last"),
    sa.Column("lease_until", sa.Float, nullable=False, comment="seconds since the epoch"),
    sa.Column("not_before", sa.Float, nullable=False, comment="when it may be tried again"),
    sa.Column("accepted_at", sa.Float, nullable=False),
    sa.Column("expires_at", sa.Float, nullable=False, comment="a call that is still queued then expires"),
    sa.Column("started_at", sa.Float, nullable=True, comment="when it was claimed last"),
    sa.Column("ended_at", sa.Float, nullable=True),
    sa.Column("output", sa.String, nullable=False, comment="OutputLocation"),
    sa.Column("failure", sa.String, nullable=False, comment="FailureLocation"),
    sa.Column("request", sa.Text, nullable=False, comment="what is to be done, JSON"),
    sa.Column("verdict", sa.Text, nullable=True, comment="what came of it, JSON"),
    sa.Index("async_calls_by_state", "endpoint", "state", "number"),
    sa.Index("async_calls_by_id", "endpoint", "inference_id", "number"),
    sa.Index(
        "async_calls_by_key", "endpoint", "key", unique=True,
        sqlite_where=sa.text("key IS NOT NULL"), postgresql_where=sa.text("key IS NOT NULL"),
    ),
    sa.Index("async_calls_by_expiry", "expires_at", sqlite_where=QUEUED, postgresql_where=QUEUED),
    sa.Index("async_calls_by_lease", "lease_until", sqlite_where=HELD, postgresql_where=HELD),
    sa.Index(
        "async_calls_by_end", "ended_at",
        sqlite_where=sa.text("ended_at IS NOT NULL"), postgresql_where=sa.text("ended_at IS NOT NULL"),
    ),
)  # fmt: skip

payloads = sa.Table(
    "async_payloads",
    metadata,
    sa.Column("endpoint", sa.String, primary_key=True),
    sa.Column("number", sa.BigInteger, primary_key=True),
    sa.Column("side", sa.String, primary_key=True, comment="input: an inline body; output: decided, not yet an object"),
    sa.Column("body", sa.LargeBinary, nullable=False),
)

counts = sa.Table(
    "async_counts",
    metadata,
    sa.Column("endpoint", sa.String, primary_key=True),
    sa.Column("accepted", sa.BigInteger, nullable=False, comment="ever; numbers the calls"),
    *(
        sa.Column(state, sa.BigInteger, nullable=False, comment="calls in that state now")
        for state in ("queued", "running", *OUTCOMES)
    ),
)


class NewCall(NamedTuple):
    """A call that is to be accepted."""

    inference_id: str
    output: str
    failure: str
    request: str
    """JSON, for whoever runs it."""
    expires_at: float
    body: bytes | None = None
    key: str | None = None
    """With a key, the first call that had it stands for all others."""


class Accepted(NamedTuple):
    """What the client gets to know. Equal for calls with the same key."""

    inference_id: str
    output: str
    failure: str


class Token(NamedTuple):
    """The right to say what becomes of a call, while it has this attempt."""

    endpoint: str
    number: int
    attempt: int


class Claim(NamedTuple):
    """A call to run, until the lease ends or somebody else claims it."""

    token: Token
    inference_id: str
    faults: int
    accepted_at: float
    output: str
    failure: str
    request: str
    body: bytes | None


class Room(NamedTuple):
    """Who would claim calls now.

    Attributes:
        owner: whose they will be.
        lease: seconds for which.
        most: calls.
    """

    owner: str
    lease: float
    most: int


NO_ROOM = Room("", 0.0, 0)


class Return(NamedTuple):
    """A claimed call that is to be queued again.

    Attributes:
        token: the claim.
        not_before: when it may be claimed again, seconds since the epoch.
        fault: count the attempt as one that ended without an answer of the model.
    """

    token: Token
    not_before: float
    fault: bool


class Settlement(NamedTuple):
    """What is to become of a claimed call.

    Attributes:
        token: the claim.
        verdict: JSON: the outcome, with codes and messages or where the output waits.
        body: a small output; it is kept here until it is an object.
    """

    token: Token
    verdict: str
    body: bytes | None = None


class Publication(NamedTuple):
    """A call whose outcome is decided and not yet to be seen."""

    token: Token
    inference_id: str
    accepted_at: float
    output: str
    failure: str
    request: str
    verdict: str
    body: bytes | None


@dataclass(frozen=True)
class Counts:
    """Calls of one endpoint by state."""

    queued: int = 0
    running: int = 0
    completed: int = 0
    failed: int = 0
    expired: int = 0
    cancelled: int = 0


class Changes:
    """What a transaction does to the counts; written once, at its end."""

    def __init__(self) -> None:
        self._of: dict[str, Counter[str]] = {}

    def add(self, endpoint: str, **change: int) -> None:
        """Count calls of an endpoint in and out of states."""
        self._of.setdefault(endpoint, Counter()).update(change)

    def write(self, db: Connection) -> None:
        """Lock and change the counts, in the order of their endpoints' names."""
        zero = dict.fromkeys(_COLUMNS, 0)
        for name in sorted(self._of):
            _MOVE(db, of_endpoint=name, **zero | self._of[name])
        self._of.clear()


_COLUMNS = ("accepted", "queued", "running", *OUTCOMES)
_MOVE = Prepared(
    counts.update()
    .where(counts.c.endpoint == sa.bindparam("of_endpoint"))
    .values({name: counts.c[name] + sa.bindparam(name, type_=sa.BigInteger) for name in _COLUMNS})
)


# Acceptance


def accept(
    db: Connection,
    endpoint: str,
    new: Sequence[NewCall],
    now: float,
    most: int,
    changes: Changes | None = None,
    room: Room = NO_ROOM,
) -> tuple[list[Accepted | None], list[Claim]]:
    """Queue calls, in their order; where none waits before them, some are claimed at once.

    Args:
        endpoint: name of the endpoint.
        new: the calls.
        now: seconds since the epoch.
        most: calls that may be queued; None stands in the answer for each that is refused.
        changes: collects what becomes of the counts. None: they are written at once.
        room: who would claim them.

    Returns:
        what the clients get to know, and the claims.
    """
    known = _known(db, endpoint, [call.key for call in new if call.key is not None])
    fresh: list[NewCall] = []
    for call in new:
        if call.key is None or call.key not in known:
            fresh.append(call)
            if call.key is not None:
                known[call.key] = Accepted(call.inference_id, call.output, call.failure)
    accepted, queued = _locked_counts(db, endpoint)
    taken = list(enumerate(fresh[: max(0, most - queued)], accepted + 1))
    at_once = 0 if queued else min(room.most, len(taken))
    claims = [
        Claim(
            Token(endpoint, number, 1), call.inference_id, 0, now, call.output, call.failure, call.request, call.body
        )
        for number, call in taken[:at_once]
    ]  # fmt: skip
    _insert(db, endpoint, taken[:at_once], now, ("running", 1, room.owner, now + room.lease, now))
    _insert(db, endpoint, taken[at_once:], now, ("queued", 0, "", 0.0, None))
    _KEEP(db, [(endpoint, number, "input", call.body) for number, call in taken if call.body is not None])
    _write(db, changes, endpoint, accepted=len(taken), queued=len(taken) - at_once, running=at_once)
    refused = {id(call) for call in fresh[len(taken) :]}
    refused_keys = {call.key for call in fresh[len(taken) :]}
    answers = [
        None
        if id(call) in refused or (call.key is not None and call.key in refused_keys)
        else known[call.key]
        if call.key is not None
        else Accepted(call.inference_id, call.output, call.failure)
        for call in new
    ]
    return answers, claims


def _known(db: Connection, endpoint: str, keys: Sequence[str]) -> dict[str, Accepted]:
    if not keys:
        return {}
    query = sa.select(calls.c.key, calls.c.inference_id, calls.c.output, calls.c.failure)
    rows = db.execute(query.where(calls.c.endpoint == endpoint, calls.c.key.in_(keys)))
    return {row.key: Accepted(row.inference_id, row.output, row.failure) for row in rows}


_COUNTS = Prepared(
    sa.select(counts.c.accepted, counts.c.queued)
    .where(counts.c.endpoint == sa.bindparam("of_endpoint"))
    .with_for_update()
)


def _locked_counts(db: Connection, endpoint: str) -> tuple[int, int]:
    """Calls of an endpoint that were accepted ever, and that are queued now; its counts are locked."""
    rows = _COUNTS(db, of_endpoint=endpoint)
    if not rows:
        insert = sqlite.insert if db.dialect.name == "sqlite" else postgresql.insert
        empty = dict.fromkeys(_COLUMNS, 0)
        db.execute(insert(counts).values(endpoint=endpoint, **empty).on_conflict_do_nothing())  # another may be first
        rows = _COUNTS(db, of_endpoint=endpoint)
    ((accepted, queued),) = rows
    return accepted, queued


_TOLD = (
    calls.c.number, calls.c.inference_id, calls.c.key, calls.c.expires_at, calls.c.output, calls.c.failure,
    calls.c.request,
)  # fmt: skip
_AT_FIRST = (calls.c.state, calls.c.attempt, calls.c.owner, calls.c.lease_until, calls.c.started_at)


def _insert_statement(rows: list[dict[str, Any]]) -> Any:
    told = given(_TOLD, rows)
    shared = (calls.c.endpoint, calls.c.accepted_at, *_AT_FIRST)
    zero = (calls.c.faults, calls.c.not_before)
    return calls.insert().from_select(
        [column.name for column in (*_TOLD, *shared, *zero)],
        sa.select(
            *told.c,
            *(sa.cast(sa.bindparam(f"its_{column.name}"), column.type) for column in shared),
            *(sa.literal_column("0") for _ in zero),
        ),
    )


_INSERT = Block([column.name for column in _TOLD], _insert_statement)


def _insert(
    db: Connection, endpoint: str, new: Sequence[tuple[int, NewCall]], now: float, at_first: tuple[Any, ...]
) -> None:
    """Write calls with their numbers; `at_first` are the values of _AT_FIRST."""
    _INSERT(
        db,
        [
            (number, call.inference_id, call.key, call.expires_at, call.output, call.failure, call.request)
            for number, call in new
        ],
        its_endpoint=endpoint,
        its_accepted_at=now,
        **{f"its_{column.name}": value for column, value in zip(_AT_FIRST, at_first, strict=True)},
    )


_KEEP = Block(("endpoint", "number", "side", "body"), lambda rows: payloads.insert().values(rows))


# Claims

_first = (
    sa.select(calls.c.number)
    .where(
        calls.c.endpoint == sa.bindparam("of_endpoint"),
        calls.c.state == "queued",
        calls.c.not_before <= sa.bindparam("now"),
        calls.c.expires_at > sa.bindparam("now"),
    )
    .order_by(calls.c.number)
    .limit(sa.bindparam("most", type_=sa.Integer))
    .with_for_update(skip_locked=True, of=calls)
    .cte("first")
)
_TAKE = Prepared(
    calls.update()
    .where(calls.c.endpoint == sa.bindparam("of_endpoint"), calls.c.number.in_(sa.select(_first.c.number)))
    .values(
        state="running",
        owner=sa.bindparam("its_owner"),
        attempt=calls.c.attempt + 1,
        lease_until=sa.bindparam("until"),
        started_at=sa.bindparam("began"),
    )
    .returning(
        calls.c.number, calls.c.attempt, calls.c.inference_id, calls.c.faults, calls.c.accepted_at, calls.c.output,
        calls.c.failure, calls.c.request,
    )
)  # fmt: skip


_BODIES = Block(
    ("number",),
    lambda rows: sa.select(payloads.c.number, payloads.c.body).where(
        payloads.c.endpoint == sa.bindparam("of_endpoint"),
        payloads.c.number.in_([row["number"] for row in rows]),
        payloads.c.side == sa.bindparam("its_side"),
    ),
)


def claim(
    db: Connection, endpoint: str, owner: str, now: float, lease: float, most: int, changes: Changes | None = None
) -> list[Claim]:
    """The first calls that wait, at most `most`; they are the owner's for `lease` seconds."""
    rows = sorted(_TAKE(db, of_endpoint=endpoint, now=now, most=most, its_owner=owner, until=now + lease, began=now))
    if rows:
        _write(db, changes, endpoint, queued=-len(rows), running=len(rows))
    bodies = _bodies(db, endpoint, [row[0] for row in rows], "input")
    return [
        Claim(Token(endpoint, number, attempt), id, faults, accepted, output, failure, request, bodies.get(number))
        for number, attempt, id, faults, accepted, output, failure, request in rows
    ]


def renew(db: Connection, owner: str, until: float) -> None:
    """Keep all that an owner holds for longer."""
    db.execute(calls.update().where(HELD, calls.c.owner == owner).values(lease_until=until))


def release(db: Connection, owner: str, now: float) -> None:
    """Give back what an owner runs: it has started anew, and nothing of what it ran is alive."""
    _requeue(db, calls.c.owner == owner, now)


def reclaim(db: Connection, now: float) -> None:
    """Give back what runs under leases that are over."""
    _requeue(db, calls.c.lease_until < now, now)


def give_back(db: Connection, returns: Sequence[Return], changes: Changes | None = None) -> None:
    """Put claimed calls back in their places. Those whose claim was lost are left alone."""
    moved = changes or Changes()
    for each in returns:
        change = calls.update().where(*_held(each.token))
        faults = calls.c.faults + int(each.fault)
        if db.execute(change.values(state="queued", not_before=each.not_before, faults=faults)).rowcount:
            moved.add(each.token.endpoint, running=-1, queued=1)
    if changes is None:
        moved.write(db)


def _requeue(db: Connection, which: sa.ColumnElement[bool], now: float) -> None:
    rows = db.execute(
        sa.select(calls.c.endpoint, calls.c.number)
        .where(HELD, calls.c.state == "running", which)
        .with_for_update(skip_locked=True)
    ).all()
    change = Counter(row.endpoint for row in rows)
    for row in rows:
        db.execute(
            calls.update()
            .where(calls.c.endpoint == row.endpoint, calls.c.number == row.number)
            .values(state="queued", not_before=now)
        )
    _move(db, {endpoint: Counter(running=-n, queued=n) for endpoint, n in change.items()})


# Outcomes


def _change_held(held: State, columns: tuple[sa.Column[Any], ...], **change: Any) -> Block:
    """Change calls in a state whose attempt is the given one; returns the numbers of those that are."""

    def make(rows: list[dict[str, Any]]) -> Any:
        new = given((calls.c.number, calls.c.attempt, *columns), rows)
        return (
            calls.update()
            .where(
                calls.c.endpoint == sa.bindparam("of_endpoint"),
                calls.c.number == new.c.number,
                calls.c.attempt == new.c.attempt,
                calls.c.state == held,
            )
            .values({column.name: new.c[column.name] for column in columns} | change)
            .returning(calls.c.number)
        )

    return Block(("number", "attempt", *(column.name for column in columns)), make)


_DECIDE = _change_held("running", (calls.c.verdict,), state="publishing")


def settle(db: Connection, settlements: Sequence[Settlement]) -> set[Token]:
    """Decide what becomes of claimed calls. Those whose claim was lost are not in the answer; nothing of them stays."""
    wanted = {each.token: each for each in settlements}
    won: set[Token] = set()
    for endpoint, tokens in _by_endpoint(wanted).items():
        rows = [(token.number, token.attempt, wanted[token].verdict) for token in tokens]
        changed = {number for (number,) in _DECIDE(db, rows, of_endpoint=endpoint)}
        decided = [wanted[token] for token in tokens if token.number in changed]
        _KEEP(db, [(endpoint, each.token.number, "output", each.body) for each in decided if each.body is not None])
        won.update(each.token for each in decided)
    return won


def settle_queued(
    db: Connection, which: sa.ColumnElement[bool], verdict: str, owner: str, lease_until: float, most: int
) -> int:
    """Decide what becomes of calls that wait: they will not run. Returns how many there were, at most `most`."""
    rows = db.execute(
        sa.select(calls.c.endpoint, calls.c.number).where(QUEUED, which).limit(most).with_for_update(skip_locked=True)
    ).all()
    for row in rows:
        db.execute(
            calls.update()
            .where(calls.c.endpoint == row.endpoint, calls.c.number == row.number)
            .values(state="publishing", verdict=verdict, owner=owner, lease_until=lease_until)
        )
    change = Counter(row.endpoint for row in rows)
    _move(db, {endpoint: Counter(queued=-n, running=n) for endpoint, n in change.items()})
    return len(rows)


def expired(now: float) -> sa.ColumnElement[bool]:
    """Calls that waited too long, for `settle_queued`."""
    return calls.c.expires_at <= now


def of_endpoint(name: str) -> sa.ColumnElement[bool]:
    """All calls of one endpoint, for `settle_queued`."""
    return calls.c.endpoint == name


def cancel(db: Connection, endpoint: str, number: int, verdict: str, owner: str, lease_until: float) -> bool:
    """Decide that a call is cancelled, queued or running; whoever runs it loses the claim. False: it has ended."""
    row = db.execute(
        sa.select(calls.c.state).where(calls.c.endpoint == endpoint, calls.c.number == number).with_for_update()
    ).one_or_none()
    if row is None or row.state not in ("queued", "running"):
        return False
    db.execute(
        calls.update()
        .where(calls.c.endpoint == endpoint, calls.c.number == number)
        .values(
            state="publishing", verdict=verdict, owner=owner, lease_until=lease_until, attempt=calls.c.attempt + 1
        )
    )  # fmt: skip
    if row.state == "queued":
        _move(db, {endpoint: Counter(queued=-1, running=1)})
    return True


def to_publish(db: Connection, owner: str, now: float, lease: float, most: int) -> list[Publication]:
    """Calls that are decided and that nobody publishes, or that this owner decided; the owner takes them over.

    Those that it publishes already come again: it knows them by their token.
    """
    mine = sa.or_(calls.c.owner == owner, calls.c.lease_until < now)
    rows = db.execute(
        sa.select(calls).where(HELD, calls.c.state == "publishing", mine).limit(most).with_for_update(skip_locked=True)
    ).all()
    for row in rows:
        if row.owner != owner:
            db.execute(
                calls.update()
                .where(calls.c.endpoint == row.endpoint, calls.c.number == row.number)
                .values(owner=owner, lease_until=now + lease)
            )
    return _publications(db, rows)


_END = _change_held("publishing", (calls.c.state,), ended_at=sa.bindparam("ended"))


def _drop(*sides: str) -> Block:
    """Delete these payloads of some calls."""
    literals: list[sa.ColumnElement[str]] = [sa.literal_column(f"'{side}'") for side in sides]
    return Block(
        ("number",),
        lambda rows: payloads.delete().where(
            payloads.c.endpoint == sa.bindparam("of_endpoint"),
            payloads.c.number.in_([row["number"] for row in rows]),
            payloads.c.side.in_(literals),
        ),
    )


_DROP_BOTH = _drop("input", "output")
_DROP_OUTPUT = _drop("output")


def finish(db: Connection, ends: Sequence[tuple[Token, Outcome]], now: float, changes: Changes | None = None) -> None:
    """Their outcome can be seen: write it. What another has finished meanwhile stays as it is."""
    outcomes = dict(ends)
    moved = changes or Changes()
    for endpoint, tokens in _by_endpoint(outcomes).items():
        rows = [(token.number, token.attempt, outcomes[token]) for token in tokens]
        done = {number for (number,) in _END(db, rows, of_endpoint=endpoint, ended=now)}
        ended = [(number, outcome) for number, _, outcome in rows if number in done]
        completed = [(number,) for number, outcome in ended if outcome == "completed"]
        _DROP_BOTH(db, completed, of_endpoint=endpoint)
        _DROP_OUTPUT(db, [(number,) for number, outcome in ended if outcome != "completed"], of_endpoint=endpoint)
        moved.add(endpoint, running=-len(ended), **Counter[str](outcome for _, outcome in ended))
    if changes is None:
        moved.write(db)


def retry(db: Connection, endpoint: str, number: int, expires_at: float) -> bool:
    """Queue a call that failed, expired or was cancelled again. False: it is not in such a state."""
    query = sa.select(calls.c.state).where(calls.c.endpoint == endpoint, calls.c.number == number).with_for_update()
    row = db.execute(query).one_or_none()
    if row is None or row.state not in ("failed", "expired", "cancelled"):
        return False
    db.execute(
        calls.update()
        .where(calls.c.endpoint == endpoint, calls.c.number == number)
        .values(state="queued", verdict=None, ended_at=None, faults=0, not_before=0.0, expires_at=expires_at)
    )
    _move(db, {endpoint: Counter({row.state: -1, "queued": 1})})
    return True


def forget(db: Connection, before: float, most: int) -> int:
    """Drop the records of calls that ended before a time, at most `most`. Returns how many there were."""
    rows = db.execute(
        sa.select(calls.c.endpoint, calls.c.number, calls.c.state)
        .where(calls.c.ended_at < before)
        .limit(most)
        .with_for_update(skip_locked=True)
    ).all()
    changes: dict[str, Counter[str]] = {}
    for row in rows:
        changes.setdefault(row.endpoint, Counter())[row.state] -= 1
    for endpoint, some in _by_endpoint(rows).items():
        numbers = [row.number for row in some]
        for table in (calls, payloads):
            db.execute(table.delete().where(table.c.endpoint == endpoint, table.c.number.in_(numbers)))
    _move(db, changes)
    return len(rows)


# Looks


def find(db: Connection, endpoint: str, inference_id: str) -> Any | None:
    """The row of the newest call with this id; None where there is none."""
    query = sa.select(calls).where(calls.c.endpoint == endpoint, calls.c.inference_id == inference_id)
    return db.execute(query.order_by(calls.c.number.desc()).limit(1)).one_or_none()


def place(db: Connection, endpoint: str, number: int) -> int:
    """How many calls are before this queued one, and itself: 1 is the next. Exact up to EXACT_PLACES."""
    queued = sa.and_(calls.c.endpoint == endpoint, calls.c.state == "queued")
    near = sa.select(calls.c.number).where(queued, calls.c.number < number).limit(EXACT_PLACES).subquery()
    before: int = db.execute(sa.select(sa.func.count()).select_from(near)).scalar_one()
    if before < EXACT_PLACES:
        return before + 1
    first: int = db.execute(sa.select(sa.func.min(calls.c.number)).where(queued)).scalar_one()
    return min(number - first + 1, count(db, endpoint).queued)


def list_calls(
    db: Connection, endpoint: str, states: Sequence[State], limit: int, before: int | None = None
) -> list[Any]:
    """Rows of one endpoint's calls in some states, the newest first.

    Args:
        before: only calls with smaller numbers: the last one of the page before.
    """
    found: list[Any] = []
    for state in states:  # one look into the index each: an `IN` would sort all of them
        query = sa.select(calls).where(calls.c.endpoint == endpoint, calls.c.state == state)
        if before is not None:
            query = query.where(calls.c.number < before)
        found += db.execute(query.order_by(calls.c.number.desc()).limit(limit)).all()
    return sorted(found, key=lambda row: -int(row.number))[:limit]


def count(db: Connection, endpoint: str) -> Counts:
    """How many calls of an endpoint are in each state."""
    return every_count(db, (endpoint,)).get(endpoint, Counts())


def every_count(db: Connection, endpoints: Sequence[str] | None = None) -> dict[str, Counts]:
    """Counts by endpoint, of all or of some endpoints."""
    query = sa.select(counts)
    if endpoints is not None:
        query = query.where(counts.c.endpoint.in_(endpoints))
    return {
        row.endpoint: Counts(**{state: getattr(row, state) for state in ("queued", "running", *OUTCOMES)})
        for row in db.execute(query)
    }


def oldest(db: Connection, endpoint: str) -> float | None:
    """When the first call that waits was accepted; None where none waits."""
    query = sa.select(calls.c.accepted_at).where(calls.c.endpoint == endpoint, calls.c.state == "queued")
    found: float | None = db.execute(query.order_by(calls.c.number).limit(1)).scalar_one_or_none()
    return found


def live(db: Connection, tokens: Iterable[Token]) -> set[Token]:
    """Those of the tokens whose attempt runs or is to be published."""
    wanted = set(tokens)
    found: set[Token] = set()
    for endpoint, some in _by_endpoint(wanted).items():
        numbers = [token.number for token in some]
        query = sa.select(calls.c.number, calls.c.attempt).where(
            calls.c.endpoint == endpoint, calls.c.number.in_(numbers), calls.c.state.in_(("running", "publishing"))
        )
        found |= {Token(endpoint, row.number, row.attempt) for row in db.execute(query)}
    return found & wanted


# Parts of the above


def _held(token: Token) -> tuple[sa.ColumnElement[bool], ...]:
    return (
        calls.c.endpoint == token.endpoint,
        calls.c.number == token.number,
        calls.c.attempt == token.attempt,
        calls.c.state == "running",
    )


def _write(db: Connection, changes: Changes | None, endpoint: str, **change: int) -> None:
    """Count a change, or write it at once where nobody collects."""
    collected = changes or Changes()
    collected.add(endpoint, **change)
    if changes is None:
        collected.write(db)


def _publications(db: Connection, rows: Sequence[Any]) -> list[Publication]:
    bodies = {
        endpoint: _bodies(db, endpoint, [row.number for row in some], "output")
        for endpoint, some in _by_endpoint(rows).items()
    }
    return [
        Publication(
            Token(row.endpoint, row.number, row.attempt),
            row.inference_id,
            row.accepted_at,
            row.output,
            row.failure,
            row.request,
            row.verdict,
            bodies[row.endpoint].get(row.number),
        )
        for row in rows
    ]


def _bodies(db: Connection, endpoint: str, numbers: Iterable[int], side: str) -> dict[int, bytes]:
    return dict(_BODIES(db, [(number,) for number in numbers], of_endpoint=endpoint, its_side=side))


def _by_endpoint(items: Iterable[T]) -> dict[str, list[T]]:
    """Tokens or rows by endpoint, in the order of their numbers: everybody locks rows in the same order."""
    found: dict[str, list[T]] = {}
    for item in sorted(items, key=lambda item: (item.endpoint, item.number)):
        found.setdefault(item.endpoint, []).append(item)
    return found


def _move(db: Connection, changes: Mapping[str, Counter[str]]) -> None:
    """Add to the counts of endpoints."""
    collected = Changes()
    for endpoint, change in changes.items():
        collected.add(endpoint, **change)
    collected.write(db)
