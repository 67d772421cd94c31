"""The HL7 v2 message is valid by a library that did not write it, and an MLLP server of another takes it."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version

from hl7apy.consts import VALIDATION_LEVEL
from hl7apy.exceptions import HL7apyException
from hl7apy.parser import parse_message

from allpacs.deliver.mllp import MllpDestination
from allpacs.domain.artefacts import Artefact
from allpacs.domain.errors import DeliveryRejected, DeliveryUnavailable
from conformance.outcome import Check
from conformance.support.hl7_server import hl7_server


def checks(message: Artefact) -> Iterator[Check]:
    """Judge the message, and send it."""
    faults = []
    try:
        parse_message(message.content.decode(), validation_level=VALIDATION_LEVEL.STRICT).validate()
    except HL7apyException as invalid:
        faults = [str(invalid)]
    yield Check("hl7apy", version("hl7apy"), "finds the ORU^R01 valid HL7 2.5.1", tuple(faults))
    received: dict[str, bytes] = {}
    said = ""
    try:
        with hl7_server(received) as port:
            said = MllpDestination("127.0.0.1", port, timeout_s=10.0).deliver([message, message]).detail
    except (DeliveryRejected, DeliveryUnavailable) as failed:
        said = failed.reason
    good = said == "AA, AA" and list(received.values()) == [message.content]
    yield Check(
        "python-hl7", version("hl7"), "takes the ORU^R01 over MLLP, twice, as one message", () if good else (said,)
    )
