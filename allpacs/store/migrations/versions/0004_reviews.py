"""Reviews: what a report says in numbers, what people decided about its cells, who signed it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "outcomes",
        sa.Column("study_uid", sa.String(length=64), nullable=False),
        sa.Column("revision", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("bundle_digest", sa.String(length=80), nullable=False),
        sa.Column("decision_digest", sa.String(length=80), nullable=False),
        sa.Column("cells", sa.Integer(), nullable=False),
        sa.Column("cells_all", sa.Integer(), nullable=False),
        sa.Column("cells_hem", sa.Integer(), nullable=False),
        sa.Column("unreadable", sa.Integer(), nullable=False),
        sa.Column("fraction", sa.Double(), nullable=True),
        sa.Column("fraction_low", sa.Double(), nullable=True),
        sa.Column("fraction_high", sa.Double(), nullable=True),
        sa.Column("scores", sa.Text(), nullable=False),
        sa.Column("reasons", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["study_uid", "revision"], ["revisions.study_uid", "revisions.revision"], name=op.f("fk_outcomes_revisions")
        ),
        sa.PrimaryKeyConstraint("study_uid", "revision", name=op.f("pk_outcomes")),
    )
    op.create_table(
        "reviews",
        sa.Column("study_uid", sa.String(length=64), nullable=False),
        sa.Column("revision", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("comment", sa.Text(), nullable=False),
        sa.Column("changed_by", sa.String(length=64), nullable=False),
        sa.Column("changed_at", sa.Double(), nullable=False),
        sa.Column("signed_at", sa.Double(), nullable=True),
        sa.Column("signed_by", sa.String(length=64), nullable=True),
        sa.Column("reviewer_name", sa.String(length=64), nullable=True),
        sa.Column("organisation", sa.String(length=64), nullable=True),
        sa.Column("signed_revision", sa.Integer(), nullable=True),
        sa.Column("decisions", sa.Text(), nullable=True),
        sa.Column("accepted", sa.Integer(), nullable=True),
        sa.Column("relabelled", sa.Integer(), nullable=True),
        sa.Column("excluded", sa.Integer(), nullable=True),
        sa.ForeignKeyConstraint(
            ["study_uid", "revision"], ["revisions.study_uid", "revisions.revision"], name=op.f("fk_reviews_revisions")
        ),
        sa.PrimaryKeyConstraint("study_uid", "revision", name=op.f("pk_reviews")),
    )
    op.create_index(
        op.f("ix_reviews_study_uid_signed_revision"), "reviews", ["study_uid", "signed_revision"], unique=False
    )
    op.create_table(
        "cell_decisions",
        sa.Column("study_uid", sa.String(length=64), nullable=False),
        sa.Column("tracking_uid", sa.String(length=64), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("decision", sa.String(length=16), nullable=True),
        sa.Column("label", sa.String(length=8), nullable=True),
        sa.Column("decided_by", sa.String(length=64), nullable=False),
        sa.Column("decided_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["study_uid"], ["studies.study_uid"], name=op.f("fk_cell_decisions_studies")),
        sa.PrimaryKeyConstraint("study_uid", "tracking_uid", name=op.f("pk_cell_decisions")),
    )
