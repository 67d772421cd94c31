"""Files that a crash left in the spool without a row in the index: taken in after all, or put aside.

The sender of such a file has had no 0x0000 for it and sends it again; taking it in meanwhile is no harm, since the
same bytes change nothing. A file that is no instance belongs to nobody, and a person may want to look at it.
"""

from __future__ import annotations

import time
from io import BytesIO
from pathlib import Path

import structlog
from pydicom import dcmread
from pydicom.errors import InvalidDicomError

from allpacs.dicom.status import CANNOT_UNDERSTAND, DATA_SET_DOES_NOT_MATCH
from allpacs.domain.errors import AllpacsError, InstanceRefused
from allpacs.receive.admit import admit
from allpacs.receive.header import read_header
from allpacs.store.scrub import SETTLED_S
from allpacs.store.store import Store

_log = structlog.get_logger("allpacs.flow.recovery")

#: Calling AE title of an instance whose sender is not known any more.
UNKNOWN_AE = "UNKNOWN"


def recover(store: Store, *, quiet_s: float, max_age_s: float, now: float | None = None) -> tuple[int, int]:
    """Take in or put aside every orphan of the spool; return how many of each.

    Parameters
    ----------
    quiet_s, max_age_s:
        When their studies are due; see `allpacs.receive.scp.SourceRule`.

    Raises
    ------
    StoreFault
        The spool or the index cannot be read or written.
    """
    at = time.time() if now is None else now
    adopted = put_aside = 0
    for path in list(store.scrub.orphans(not_after=at - SETTLED_S)):
        try:
            found = (store.spool.folder / path).stat()
            meta, data_set = _split(store.spool.folder / path)
            file_meta = dcmread(BytesIO(meta), force=True).file_meta
            transfer_syntax_uid = str(file_meta.TransferSyntaxUID)
            identity = admit(
                read_header(BytesIO(data_set), transfer_syntax_uid),
                sop_class_uid=str(file_meta.MediaStorageSOPClassUID),
                sop_instance_uid=path.stem,
                transfer_syntax_uid=transfer_syntax_uid,
            )
            if store.spool.instance_path(identity.study_uid, identity.sop_instance_uid) != path:
                raise InstanceRefused(DATA_SET_DOES_NOT_MATCH, "lies in another study's folder")
            store.receiving.keep_instance(
                identity,
                meta,
                data_set,
                calling_ae=UNKNOWN_AE,
                received_at=at,
                quiet_s=quiet_s,
                max_age_s=max_age_s,
            )
        except FileNotFoundError:
            continue  # deleted meanwhile
        except (InstanceRefused, InvalidDicomError, AttributeError, ValueError) as unusable:
            if not store.scrub.put_aside(path, found):
                continue  # its place has been taken by an instance
            put_aside += 1
            reason = str(unusable) if isinstance(unusable, AllpacsError) else type(unusable).__name__
            store.audit.record("file_put_aside", at=at, reason=reason)
            _log.warning("file_put_aside", reason=reason)
        else:
            adopted += 1
            store.audit.record(
                "file_taken_in",
                at=at,
                study_uid=identity.study_uid,
                sop_instance_uid=identity.sop_instance_uid,
            )
            _log.warning("file_taken_in", study_uid=identity.study_uid, sop_instance_uid=identity.sop_instance_uid)
    return adopted, put_aside


def _split(path: Path) -> tuple[bytes, bytes]:
    """Return preamble with File Meta Information, and the data set, of a Part 10 file."""
    content = path.read_bytes()
    if content[128:132] != b"DICM" or content[132:136] != b"\x02\x00\x00\x00":
        raise InstanceRefused(CANNOT_UNDERSTAND, "no Part 10 file")
    end = 144 + int.from_bytes(content[140:144], "little")
    return content[:end], content[end:]
