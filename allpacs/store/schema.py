"""Tables of the index. No column holds patient data: UIDs, AE titles, states, times, digests and findings only.

The one exception is what a reviewer writes in their own words (`reviews.comment`).

Times are UTC seconds since the epoch (double precision). A change here needs a new file in ``migrations/versions``; a
test compares the two.
"""

from __future__ import annotations

import sqlalchemy as sa

#: Names every constraint and index, so that a migration can address them on any database.
metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

_UID = sa.String(64)  # PS3.5 section 6.2, VR UI
_AE = sa.String(16)  # PS3.5 section 6.2, VR AE

studies = sa.Table(
    "studies",
    metadata,
    sa.Column("study_uid", _UID, primary_key=True),
    sa.Column("source_ae", _AE, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("opened_at", sa.Double, nullable=False),
    sa.Column("last_received_at", sa.Double, nullable=False),
    sa.Column("due_at", sa.Double),
    sa.Index(None, "state", "due_at"),
    sa.Index(None, "last_received_at"),
)

series = sa.Table(
    "series",
    metadata,
    sa.Column("study_uid", _UID, sa.ForeignKey("studies.study_uid"), primary_key=True),
    sa.Column("series_uid", _UID, primary_key=True),
    sa.Column("first_received_at", sa.Double, nullable=False),
)

instances = sa.Table(
    "instances",
    metadata,
    sa.Column("sop_instance_uid", _UID, primary_key=True),
    sa.Column("study_uid", _UID, sa.ForeignKey("studies.study_uid"), nullable=False),
    sa.Column("series_uid", _UID, nullable=False),
    sa.Column("sop_class_uid", _UID, nullable=False),
    sa.Column("transfer_syntax_uid", _UID, nullable=False),
    sa.Column("calling_ae", _AE, nullable=False),
    sa.Column("received_at", sa.Double, nullable=False),
    sa.Column("path", sa.String(255), nullable=False),  # relative to the spool
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column("sha256", sa.String(64), nullable=False),
    sa.Column("revision", sa.Integer),  # the one that first included it
    sa.Column("deleted_at", sa.Double),  # when its bytes were deleted by retention
    sa.Index(None, "study_uid", "revision"),
)

revisions = sa.Table(
    "revisions",
    metadata,
    sa.Column("study_uid", _UID, sa.ForeignKey("studies.study_uid"), primary_key=True),
    sa.Column("revision", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("state", sa.String(16), nullable=False, index=True),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("finished_at", sa.Double),
    sa.Column("reason", sa.Text),
    sa.Column("bundle_digest", sa.String(80)),
    sa.Column("attempts", sa.Integer, nullable=False),  # readings asked for: 1, and one more for each retry
    sa.Column("pieces", sa.Integer),  # checkpoints that its reading has
    sa.Column("pieces_read", sa.Integer),
    sa.Column("size_bytes", sa.BigInteger),  # of the study's instances when it closed; none where no pixels are read
)


def _of_revision() -> tuple[sa.Column[str], sa.Column[int], sa.ForeignKeyConstraint]:
    return (
        sa.Column("study_uid", _UID, primary_key=True),
        sa.Column("revision", sa.Integer, primary_key=True, autoincrement=False),
        sa.ForeignKeyConstraint(["study_uid", "revision"], ["revisions.study_uid", "revisions.revision"]),
    )


findings = sa.Table(
    "findings",
    metadata,
    *_of_revision(),
    sa.Column("sop_instance_uid", _UID, primary_key=True),
    sa.Column("part", sa.Integer, primary_key=True, autoincrement=False, server_default="0"),  # of a slide, several
    sa.Column("stage", sa.String(16), nullable=False),
    sa.Column("body", sa.Text, nullable=False),  # JSON of domain.findings.InstanceFindings
)

artefacts = sa.Table(
    "artefacts",
    metadata,
    *_of_revision(),
    sa.Column("kind", sa.String(16), primary_key=True),
    sa.Column("uid", _UID, nullable=False),
    sa.Column("media_type", sa.String(80), nullable=False),
    sa.Column("path", sa.String(255), nullable=False),  # relative to the artefacts folder
    sa.Column("sha256", sa.String(64), nullable=False),
    sa.Column("supersedes", _UID),
)

deliveries = sa.Table(
    "deliveries",
    metadata,
    *_of_revision(),
    sa.Column("destination", sa.String(64), primary_key=True),
    sa.Column("state", sa.String(16), nullable=False, index=True),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("attempts_forgiven", sa.Integer, nullable=False, server_default="0"),  # made before it was revived
    sa.Column("next_attempt_at", sa.Double),
    sa.Column("sent_at", sa.Double),  # when the destination took it; none again where it then did not commit to it
    sa.Column("reason", sa.Text),
    sa.Column("updated_at", sa.Double, nullable=False),
)

#: Heartbeats of the processes that read studies.
workers = sa.Table(
    "workers",
    metadata,
    sa.Column("executor_id", sa.String(64), primary_key=True),
    sa.Column("incarnation", sa.String(36), nullable=False),  # of the process that goes by that name now
    sa.Column("beats", sa.BigInteger, nullable=False),
)

#: What we asked destinations to commit to, and what they answered (PS3.4 Annex J, SCU).
commitments = sa.Table(
    "commitments",
    metadata,
    sa.Column("transaction_uid", _UID, primary_key=True),
    sa.Column("study_uid", _UID, nullable=False),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("destination", sa.String(64), nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("sop_instance_uids", sa.Text, nullable=False),  # separated by spaces
    sa.Column("asked_at", sa.Double, nullable=False),
    sa.Column("outcome", sa.String(16)),  # committed, failed; none: not answered yet
    sa.Column("reason", sa.Text),
    sa.Column("settled", sa.Boolean, nullable=False, server_default=sa.false()),  # the delivery has been told
    sa.Index(None, "settled", "outcome"),
)

#: What senders asked us to commit to, until they have been answered (PS3.4 Annex J, SCP).
commitment_requests = sa.Table(
    "commitment_requests",
    metadata,
    sa.Column("calling_ae", _AE, primary_key=True),
    sa.Column("transaction_uid", _UID, primary_key=True),
    sa.Column("body", sa.Text, nullable=False),  # JSON: [[SOP Class UID, SOP Instance UID], ...]
    sa.Column("received_at", sa.Double, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("next_attempt_at", sa.Double, nullable=False),
    sa.Index(None, "next_attempt_at"),
)

outcomes = sa.Table(
    "outcomes",  # what a revision's report says, in numbers: lists and trends need not read every cell
    metadata,
    *_of_revision(),
    sa.Column("model", sa.Text, nullable=False),  # JSON of domain.findings.ModelIdentity
    sa.Column("bundle_digest", sa.String(80), nullable=False),
    sa.Column("decision_digest", sa.String(80), nullable=False),
    sa.Column("cells", sa.Integer, nullable=False),
    sa.Column("cells_all", sa.Integer, nullable=False),
    sa.Column("cells_hem", sa.Integer, nullable=False),
    sa.Column("unreadable", sa.Integer, nullable=False),  # instances whose pixels could not be read
    sa.Column("fraction", sa.Double),
    sa.Column("fraction_low", sa.Double),
    sa.Column("fraction_high", sa.Double),
    sa.Column("scores", sa.Text, nullable=False),  # JSON: cells by probability, in bins of equal width
    sa.Column("reasons", sa.Text, nullable=False),  # JSON: cells not assessable, by reason
)

reviews = sa.Table(
    "reviews",  # what people decided about a revision, and whether one of them signed it
    metadata,
    *_of_revision(),
    sa.Column("version", sa.Integer, nullable=False),  # counts every change: who signs has seen them all
    sa.Column("comment", sa.Text, nullable=False),  # a person's own words: the one column that may name a patient
    sa.Column("changed_by", sa.String(64), nullable=False),
    sa.Column("changed_at", sa.Double, nullable=False),
    sa.Column("signed_at", sa.Double),
    sa.Column("signed_by", sa.String(64)),
    sa.Column("reviewer_name", sa.String(64)),
    sa.Column("organisation", sa.String(64)),
    sa.Column("signed_revision", sa.Integer),  # the revision that was made of it
    sa.Column("decisions", sa.Text),  # JSON: tracking UID, decision and label of each cell, as they were signed
    sa.Column("accepted", sa.Integer),
    sa.Column("relabelled", sa.Integer),
    sa.Column("excluded", sa.Integer),
    sa.Index(None, "study_uid", "signed_revision"),
)

cell_decisions = sa.Table(
    "cell_decisions",  # of a cell, not of a revision: one that is read again keeps its tracking UID and its decision
    metadata,
    sa.Column("study_uid", _UID, sa.ForeignKey("studies.study_uid"), primary_key=True),
    sa.Column("tracking_uid", _UID, primary_key=True),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("decision", sa.String(16)),  # None where it was taken back
    sa.Column("label", sa.String(8)),
    sa.Column("decided_by", sa.String(64), nullable=False),
    sa.Column("decided_at", sa.Double, nullable=False),
)

console_sessions = sa.Table(
    "console_sessions",  # that are open; who signs out removes theirs
    metadata,
    sa.Column("digest", sa.String(64), primary_key=True),  # SHA-256 of what the cookie carries
    sa.Column("identifier", sa.String(64), nullable=False, index=True),
    sa.Column("opened_at", sa.Double, nullable=False),
)

bundle_changes = sa.Table(
    "bundle_changes",  # requests to use another bundle than the configured one
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("folder", sa.Text, nullable=False),
    sa.Column("configured", sa.Text, nullable=False),
    sa.Column("state", sa.String(10), nullable=False),
    sa.Column("digest", sa.String(80)),
    sa.Column("reason", sa.Text),
    sa.Column("asked_by", sa.String(64), nullable=False),
    sa.Column("asked_at", sa.Double, nullable=False),
    sa.Column("changed_at", sa.Double, nullable=False),
)

audit = sa.Table(
    "audit",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("at", sa.Double, nullable=False),
    sa.Column("event", sa.String(40), nullable=False),
    sa.Column("study_uid", _UID),
    sa.Column("sop_instance_uid", _UID),
    sa.Column("calling_ae", _AE),
    sa.Column("status", sa.Integer),
    sa.Column("reason", sa.Text),
    sa.Index(None, "study_uid"),
    sa.Index(None, "sop_instance_uid"),
)
