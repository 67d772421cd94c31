"""Revisions say how large their study was, so that large ones wait in a queue of their own."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("revisions", sa.Column("size_bytes", sa.BigInteger(), nullable=True))
