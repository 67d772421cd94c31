"""DIMSE statuses and Failure Reasons that allpacs sends or judges.

Source: PS3.7 Annex C, PS3.4 Table B.2-1 (Storage), PS3.3 C.14.1.1 (Failure Reason).
"""

from __future__ import annotations

from typing import Final

SUCCESS: Final = 0x0000

#: A temporary fault of the receiver's software; many archives answer it while their database is down.
PROCESSING_FAILURE: Final = 0x0110
#: Another object is stored under this SOP Instance UID.
DUPLICATE_SOP_INSTANCE: Final = 0x0111
NO_SUCH_SOP_INSTANCE: Final = 0x0112
INVALID_SOP_INSTANCE: Final = 0x0117
CLASS_INSTANCE_CONFLICT: Final = 0x0119
SOP_CLASS_NOT_SUPPORTED: Final = 0x0122
NOT_AUTHORISED: Final = 0x0124
RESOURCE_LIMITATION: Final = 0x0213

#: First and last of the range "Refused: Out of Resources": the sender keeps the instance and tries again.
OUT_OF_RESOURCES: Final = 0xA700
OUT_OF_RESOURCES_LAST: Final = 0xA7FF
DATA_SET_DOES_NOT_MATCH: Final = 0xA900
CANNOT_UNDERSTAND: Final = 0xC000
