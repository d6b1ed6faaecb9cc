"""What became of alarms, and subscriptions that have ended but may be taken back."""

import sqlalchemy as sa
from alembic import op

revision = "0_1_0_alarm_history"
down_revision = "0_1_0_resources"


def upgrade() -> None:
    op.add_column("subscriptions", sa.Column("ended", sa.Boolean, nullable=False, server_default=sa.false()))
    op.create_table(
        "alarm_history",
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("alarm", sa.String, nullable=False),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("summary", sa.String, nullable=False),
        sa.Column("data", sa.Text, nullable=False),
    )
    op.create_index("alarm_history_by_alarm", "alarm_history", ["alarm", "number"])
    op.create_index("alarm_history_by_age", "alarm_history", ["at"])
