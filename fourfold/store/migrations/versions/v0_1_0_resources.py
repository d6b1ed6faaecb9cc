"""Named resources and tags."""

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
