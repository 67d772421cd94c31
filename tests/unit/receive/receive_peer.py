"""A peer that sends whatever bytes a test makes up."""

from __future__ import annotations

import struct
import time
from collections.abc import Sequence
from io import BytesIO
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dsutils import encode

from allpacs.dicom.network.requestor import hold_at_checkpoint
from allpacs.receive.admit import ACCEPTED_SOP_CLASSES

MICROSCOPIC = "1.2.840.10008.5.1.4.1.1.77.1.2"
TRANSFER_SYNTAXES = (
    "1.2.840.10008.1.2.1",
    "1.2.840.10008.1.2",
    "1.2.840.10008.1.2.2",
    "1.2.840.10008.1.2.1.99",
    "1.2.840.10008.1.2.4.50",
    "1.2.840.10008.1.2.5",
)


class Peer:
    """A PACS with one association; sends encoded data sets as they are, right or wrong."""

    def __init__(
        self,
        port: int,
        *,
        calling: str = "PACS",
        called: str = "ALLPACS",
        others: tuple[str, ...] = (),
        handlers: Sequence[Any] = (),
    ) -> None:
        self._ae = AE(calling)
        self._ae.acse_timeout = self._ae.dimse_timeout = self._ae.network_timeout = 20
        self._ae.add_requested_context("1.2.840.10008.1.1")
        for sop_class in (*ACCEPTED_SOP_CLASSES, *others):
            for transfer_syntax in TRANSFER_SYNTAXES:
                self._ae.add_requested_context(sop_class, transfer_syntax)
        self.association = self._ae.associate("127.0.0.1", port, ae_title=called, evt_handlers=list(handlers))
        hold_at_checkpoint(self.association)

    @property
    def established(self) -> bool:
        return bool(self.association.is_established)

    def echo(self) -> int:
        return int(self.association.send_c_echo().Status)

    def accepts(self, sop_class: str, transfer_syntax: str) -> bool:
        return any(
            cx.abstract_syntax == sop_class and cx.transfer_syntax[0] == transfer_syntax
            for cx in self.association.accepted_contexts
        )

    def send(self, data_set: Dataset | bytes, *, transfer_syntax: str = ExplicitVRLittleEndian, **affected: str) -> int:
        """Send a data set, and return the status of the answer.

        ``sop_class`` and ``sop_instance`` in `affected` say otherwise than the data set.
        """
        sop_class, sop_instance = MICROSCOPIC, "1.2.3.4"
        if isinstance(data_set, Dataset):
            sop_class = str(data_set.get("SOPClassUID", sop_class))
            sop_instance = str(data_set.get("SOPInstanceUID", sop_instance))
            data_set = encoded(data_set, transfer_syntax)
        request = C_STORE()
        request.MessageID = 1
        request.Priority = 2
        request.AffectedSOPClassUID = affected.get("sop_class", sop_class)
        request.AffectedSOPInstanceUID = affected.get("sop_instance", sop_instance)
        request.DataSet = BytesIO(data_set)
        (context,) = [
            cx.context_id
            for cx in self.association.accepted_contexts
            if cx.transfer_syntax[0] == transfer_syntax and cx.abstract_syntax == affected.get("context", sop_class)
        ]
        return int(self.ask(request, context).Status)

    def ask(self, request: Any, context: int) -> Any:
        """Send a request in a presentation context, right or wrong, and return the answer."""
        self.association._reactor_checkpoint.clear()
        while not self.association._is_paused:
            time.sleep(0.001)
        self.association.dimse.send_msg(request, context)
        _, answer = self.association.dimse.get_msg(block=True)
        self.association._reactor_checkpoint.set()
        assert answer is not None, "no answer"
        return answer

    def release(self) -> None:
        self.association.release()

    def abort(self) -> None:
        self.association.abort()


def encoded(data_set: Dataset, transfer_syntax: str = ExplicitVRLittleEndian) -> bytes:
    uid = UID(transfer_syntax)
    result = encode(data_set, uid.is_implicit_VR, uid.is_little_endian, uid.is_deflated)
    assert result is not None
    return bytes(result)


def make_instance(number: int = 1, *, sop_class: str = MICROSCOPIC, **elements: Any) -> Dataset:
    """Return a small image; ``None`` among the elements removes one."""
    data_set = Dataset()
    data_set.SpecificCharacterSet = "ISO_IR 192"
    data_set.SOPClassUID = sop_class
    data_set.SOPInstanceUID = f"1.2.3.5.{number}"
    data_set.PatientName = "SECRETNAME^GIVEN"
    data_set.PatientID = "SECRETID77"
    data_set.StudyInstanceUID = "1.2.3"
    data_set.SeriesInstanceUID = "1.2.3.4"
    data_set.SamplesPerPixel = 3
    data_set.PhotometricInterpretation = "RGB"
    data_set.PlanarConfiguration = 0
    data_set.Rows = data_set.Columns = 8
    data_set.BitsAllocated = data_set.BitsStored = 8
    data_set.HighBit = 7
    data_set.PixelRepresentation = 0
    data_set.add_new(0x7FE00010, "OB", bytes(range(192)))
    for keyword, value in elements.items():
        if value is None:
            delattr(data_set, keyword)
        else:
            setattr(data_set, keyword, value)
    return data_set


def store_command(context: int) -> bytes:
    """Return a whole C-STORE-RQ command as a presentation data value."""
    elements = (
        (0x0002, MICROSCOPIC.encode()),
        (0x0100, struct.pack("<H", 0x0001)),
        (0x0110, struct.pack("<H", 1)),
        (0x0700, struct.pack("<H", 0)),
        (0x0800, struct.pack("<H", 0x0000)),
        (0x1000, b"1.2.3.5.99"),
    )
    content = b"".join(struct.pack("<HHL", 0, element, len(value)) + value for element, value in elements)
    content = struct.pack("<HHLL", 0, 0, 4, len(content)) + content
    return struct.pack(">LBB", len(content) + 2, context, 0x03) + content
