"""A slide's findings come in parts; a revision says how many of its pieces have been read."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("findings") as findings:
        findings.add_column(sa.Column("part", sa.Integer(), nullable=False, server_default="0"))
        findings.drop_constraint("pk_findings", type_="primary")
        findings.create_primary_key("pk_findings", ["study_uid", "revision", "sop_instance_uid", "part"])
    op.add_column("revisions", sa.Column("pieces", sa.Integer(), nullable=True))
    op.add_column("revisions", sa.Column("pieces_read", sa.Integer(), nullable=True))
