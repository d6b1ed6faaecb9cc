"""Everything that release 0.1.0 keeps: named resources, tags, plans of transform jobs, serverless usage."""

import sqlalchemy as sa
from alembic import op

revision = "0_1_0_resources"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "resources",
        sa.Column("kind", sa.String, primary_key=True),
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("arn", sa.String, nullable=False, unique=True),
        sa.Column("status", sa.String, nullable=False, server_default=""),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("modified_at", sa.Float, nullable=False),
        sa.Column("document", sa.JSON, nullable=False),
    )
    op.create_index("resources_by_age", "resources", ["kind", "created_at", "name"])
    op.create_index("resources_by_status", "resources", ["kind", "status"])
    op.create_table(
        "tags",
        sa.Column("arn", sa.String, primary_key=True),
        sa.Column("key", sa.String, primary_key=True),
        sa.Column("value", sa.String, nullable=False),
    )
    op.create_table(
        "serverless_usage",
        sa.Column("endpoint", sa.String, primary_key=True),
        sa.Column("variant", sa.String, primary_key=True),
        sa.Column("memory_mb", sa.Integer, primary_key=True),
        sa.Column("minute", sa.BigInteger, primary_key=True),
        sa.Column("calls", sa.BigInteger, nullable=False),
        sa.Column("billed_ms", sa.BigInteger, nullable=False),
        sa.Column("provisioned_ms", sa.BigInteger, nullable=False),
        sa.Column("kept_ms", sa.BigInteger, nullable=False),
    )
    op.create_index("serverless_usage_by_minute", "serverless_usage", ["minute"])
    op.create_table(
        "transform_objects",
        sa.Column("job", sa.String, primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("url", sa.String, nullable=False),
        sa.Column("output", sa.String, nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("reason", sa.String, nullable=False, server_default=""),
        sa.Column("records", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("errors", sa.BigInteger, nullable=False, server_default="0"),
    )
    op.create_index("transform_objects_by_state", "transform_objects", ["job", "state"])
    op.create_table(
        "transform_shards",
        sa.Column("job", sa.String, primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("object", sa.Integer, nullable=True),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("owner", sa.String, nullable=False, server_default=""),
        sa.Column("attempt", sa.Integer, nullable=False, server_default="0"),
        sa.Column("lease_until", sa.Float, nullable=False, server_default="0"),
        sa.Column("work", sa.JSON, nullable=False),
        sa.Column("result", sa.JSON, nullable=True),
        sa.Column("records", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("errors", sa.BigInteger, nullable=False, server_default="0"),
    )
    op.create_index("transform_shards_by_state", "transform_shards", ["job", "state", "number"])
    op.create_index("transform_shards_by_object", "transform_shards", ["job", "object"])
    op.create_table(
        "metrics",
        sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("namespace", sa.String, nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("dimensions", sa.JSON, nullable=False),
        sa.Column("unit", sa.String, nullable=False),
        sa.Column("newest", sa.Float, nullable=False),
    )
    op.create_index("metrics_by_name", "metrics", ["namespace", "name"])
    op.create_table(
        "datapoints",
        sa.Column("metric", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("minute", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("samples", sa.Float, nullable=False),
        sa.Column("total", sa.Float, nullable=False),
        sa.Column("minimum", sa.Float, nullable=False),
        sa.Column("maximum", sa.Float, nullable=False),
        sa.Column("sketch", sa.LargeBinary, nullable=True),
    )
    op.create_index("datapoints_by_age", "datapoints", ["minute"])
    op.create_table(
        "topics",
        sa.Column("arn", sa.String, primary_key=True),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("secret", sa.String, nullable=False),
        sa.Column("attributes", sa.JSON, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
    )
    op.create_table(
        "subscriptions",
        sa.Column("arn", sa.String, primary_key=True),
        sa.Column("topic", sa.String, nullable=False),
        sa.Column("protocol", sa.String, nullable=False),
        sa.Column("endpoint", sa.String, nullable=False),
        sa.Column("confirmed", sa.Boolean, nullable=False),
        sa.Column("token", sa.String, nullable=False),
        sa.Column("attributes", sa.JSON, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.UniqueConstraint("topic", "protocol", "endpoint"),
    )
    op.create_table(
        "deliveries",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
        sa.Column("topic", sa.String, nullable=False),
        sa.Column("subscription", sa.String, nullable=False),
        sa.Column("message", sa.JSON, nullable=False),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("owner", sa.String, nullable=False, server_default=""),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("due_at", sa.Float, nullable=False),
        sa.Column("reason", sa.String, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
    )
    op.create_index("deliveries_by_time", "deliveries", ["state", "due_at"])
    op.create_index("deliveries_by_subscription", "deliveries", ["subscription"])
    op.create_index("deliveries_by_topic", "deliveries", ["topic", "state"])
    op.create_table(
        "async_calls",
        sa.Column("endpoint", sa.String, primary_key=True),
        sa.Column("number", sa.BigInteger, primary_key=True),
        sa.Column("inference_id", sa.String, nullable=False),
        sa.Column("key", sa.String, nullable=True),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("faults", sa.Integer, nullable=False),
        sa.Column("owner", sa.String, nullable=False),
        sa.Column("lease_until", sa.Float, nullable=False),
        sa.Column("not_before", sa.Float, nullable=False),
        sa.Column("accepted_at", sa.Float, nullable=False),
        sa.Column("expires_at", sa.Float, nullable=False),
        sa.Column("started_at", sa.Float, nullable=True),
        sa.Column("ended_at", sa.Float, nullable=True),
        sa.Column("output", sa.String, nullable=False),
        sa.Column("failure", sa.String, nullable=False),
        sa.Column("request", sa.Text, nullable=False),
        sa.Column("verdict", sa.Text, nullable=True),
    )
    op.create_index("async_calls_by_state", "async_calls", ["endpoint", "state", "number"])
    op.create_index("async_calls_by_id", "async_calls", ["endpoint", "inference_id", "number"])
    for name, columns, unique, where in (
        ("async_calls_by_key", ["endpoint", "key"], True, "key IS NOT NULL"),
        ("async_calls_by_expiry", ["expires_at"], False, "state = 'queued'"),
        ("async_calls_by_lease", ["lease_until"], False, "state IN ('running', 'publishing')"),
        ("async_calls_by_end", ["ended_at"], False, "ended_at IS NOT NULL"),
    ):
        condition = sa.text(where)
        op.create_index(name, "async_calls", columns, unique=unique, sqlite_where=condition, postgresql_where=condition)
    op.create_table(
        "async_payloads",
        sa.Column("endpoint", sa.String, primary_key=True),
        sa.Column("number", sa.BigInteger, primary_key=True),
        sa.Column("side", sa.String, primary_key=True),
        sa.Column("body", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "async_counts",
        sa.Column("endpoint", sa.String, primary_key=True),
        sa.Column("accepted", sa.BigInteger, nullable=False),
        sa.Column("queued", sa.BigInteger, nullable=False),
        sa.Column("running", sa.BigInteger, nullable=False),
        sa.Column("completed", sa.BigInteger, nullable=False),
        sa.Column("failed", sa.BigInteger, nullable=False),
        sa.Column("expired", sa.BigInteger, nullable=False),
        sa.Column("cancelled", sa.BigInteger, nullable=False),
    )
