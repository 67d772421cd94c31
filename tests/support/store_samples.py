"""What tests put into a store."""

from __future__ import annotations

from allpacs.domain.instance import InstanceIdentity
from allpacs.store.store import Store


def keep_one(store: Store, study_uid: str = "1.2") -> None:
    """Put a study of one instance into a store, and close its first revision."""
    identity = InstanceIdentity(
        f"{study_uid}.1.1", "1.2.840.10008.5.1.4.1.1.77.1.2", "1.2.840.10008.1.2.1", study_uid, f"{study_uid}.1"
    )
    store.receiving.keep_instance(
        identity, b"meta", b"data", calling_ae="PACS", received_at=1.0, quiet_s=1.0, max_age_s=9.0
    )
    assert store.revisions.close_due(10.0) == [(study_uid, 1)]
