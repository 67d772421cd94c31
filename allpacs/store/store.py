"""The store: one folder (or one folder and one PostgreSQL database), and everything that is kept in it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from allpacs.domain.errors import StoreFault
from allpacs.store.artefacts import Artefacts
from allpacs.store.audit import Audit
from allpacs.store.backlog import Backlog
from allpacs.store.bundles import Bundles
from allpacs.store.commitments import Commitments
from allpacs.store.database import Database
from allpacs.store.deliveries import Deliveries
from allpacs.store.findings import Findings
from allpacs.store.outcomes import Outcomes
from allpacs.store.receiving import Receiving
from allpacs.store.retention import Retention
from allpacs.store.reviews import Reviews
from allpacs.store.revisions import Revisions
from allpacs.store.scrub import Scrub
from allpacs.store.sessions import Sessions
from allpacs.store.spool import Spool
from allpacs.store.studies import Studies
from allpacs.store.workers import Workers
from allpacs.store.worklist import Worklist


@dataclass(frozen=True, slots=True)
class Store:
    """Everything kept, by who needs it; safe to share among threads, and the folder among processes.

    ``spool/`` holds what was received, ``artefacts/`` what is sent on, ``index.sqlite`` the index.
    """

    receiving: Receiving
    revisions: Revisions
    findings: Findings
    outcomes: Outcomes
    reviews: Reviews
    worklist: Worklist
    artefacts: Artefacts
    deliveries: Deliveries
    commitments: Commitments
    studies: Studies
    backlog: Backlog
    bundles: Bundles
    workers: Workers
    sessions: Sessions
    audit: Audit
    retention: Retention
    scrub: Scrub
    spool: Spool
    database: Database

    @classmethod
    def open(cls, folder: Path, database_url: str | None = None) -> Store:
        """Open the store, making the folder and bringing the index up to date where needed.

        Raises
        ------
        StoreFault
            The folder or the index cannot be read or written.
        """
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise StoreFault(f"store: {folder}: {error.strerror or error}") from error
        database = Database.open(folder, database_url)
        spool, results = Spool(folder / "spool"), Spool(folder / "artefacts")
        audit = Audit(database)
        return cls(
            receiving=Receiving(database, spool, audit),
            revisions=Revisions(database, spool),
            findings=Findings(database),
            artefacts=Artefacts(database, results),
            outcomes=Outcomes(database),
            reviews=Reviews(database),
            worklist=Worklist(database, spool),
            deliveries=Deliveries(database),
            commitments=Commitments(database, spool),
            studies=Studies(database),
            backlog=Backlog(database),
            bundles=Bundles(database),
            workers=Workers(database),
            sessions=Sessions(database),
            audit=audit,
            retention=Retention(database, spool),
            scrub=Scrub(database, spool, results),
            spool=spool,
            database=database,
        )

    def close(self) -> None:
        """Close all connections to the index."""
        self.database.close()
