"""Deliveries remember how many attempts were made before a person asked for them again."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("deliveries", sa.Column("attempts_forgiven", sa.Integer(), nullable=False, server_default="0"))
