"""The orders that a study answers, as its images name them: one, none, or several (the IHE group case).

Source: PS3.3 10.6 (Request Attributes Macro), C.17.2 (Referenced Request Sequence), Table 10-17 (HL7v2 Hierarchic
Designator); IHE RAD TF-2 4.6.4.1.2.3 (group case: study-level Accession Number empty, one item for each request).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, replace

from pydicom.dataset import Dataset
from pydicom.sr.coding import Code

from allpacs.report.elements import coded_concepts, items, text

_SEVERAL_ACCESSIONS = (
    "The study level of the images names another accession number than their requests: the report names all of them."
)


@dataclass(frozen=True, slots=True)
class Authority:
    """Who issued an identifier (HL7v2 Hierarchic Designator); each may be empty.

    Attributes
    ----------
    kind:
        Of the universal ID: ``ISO``, ``DNS``, ``UUID``, …
    """

    namespace: str = ""
    universal_id: str = ""
    kind: str = ""


@dataclass(frozen=True, slots=True)
class Order:
    """One order; empty texts where the images do not say.

    Attributes
    ----------
    accession, placer, filler:
        Numbers of the imaging service request: of the department, of who ordered it, of who carries it out.
    procedure_id, procedure:
        Requested Procedure ID and Description.
    procedure_codes:
        Requested Procedure Code Sequence.
    """

    accession: str = ""
    accession_issuer: Authority = Authority()
    placer: str = ""
    placer_issuer: Authority = Authority()
    filler: str = ""
    filler_issuer: Authority = Authority()
    procedure_id: str = ""
    procedure: str = ""
    procedure_codes: tuple[Code, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether the images name nothing by which an order could be found."""
        return not (self.accession or self.placer or self.filler or self.procedure_id)


def read_orders(headers: Iterable[Dataset]) -> tuple[Order, ...]:
    """Return the orders that the headers name, each once, in the order in which they are first named.

    An item of Request Attributes Sequence without a number of its own takes that of the study level. A study-level
    accession number that no item has is an order of its own: nothing that the images state is lost.
    """
    orders: list[Order] = []
    for header in headers:
        for order in _of_header(header):
            for place, known in enumerate(orders):
                if (merged := _merged(known, order)) is not None:
                    orders[place] = merged
                    break
            else:
                orders.append(order)
    return tuple(orders)


def contradictions(headers: Iterable[Dataset]) -> list[str]:
    """Return a line for a person if the study level names another accession number than the requests do.

    The line holds no number: it is written where patient data must not be.
    """
    for header in headers:
        own = text(header, "AccessionNumber")
        stated = {text(item, "AccessionNumber") for item in items(header, "RequestAttributesSequence")} - {""}
        if own and stated and own not in stated:
            return [_SEVERAL_ACCESSIONS]
    return []


def _of_header(header: Dataset) -> Iterator[Order]:
    study = _order(header)
    requested = [_order(item) for item in items(header, "RequestAttributesSequence")]
    requested = [order for order in requested if not order.is_empty]
    if len(requested) == 1:
        (order,) = requested
        if order.accession in {"", study.accession}:
            yield _filled(order, study)
            return
    yield from requested
    if not study.is_empty and all(_merged(order, study) is None for order in requested):
        yield study


def _order(item: Dataset) -> Order:
    return Order(
        accession=text(item, "AccessionNumber"),
        accession_issuer=_authority(item, "IssuerOfAccessionNumberSequence"),
        placer=text(item, "PlacerOrderNumberImagingServiceRequest"),
        placer_issuer=_authority(item, "OrderPlacerIdentifierSequence"),
        filler=text(item, "FillerOrderNumberImagingServiceRequest"),
        filler_issuer=_authority(item, "OrderFillerIdentifierSequence"),
        procedure_id=text(item, "RequestedProcedureID"),
        procedure=text(item, "RequestedProcedureDescription"),
        procedure_codes=tuple(coded_concepts(item, "RequestedProcedureCodeSequence")),
    )


def _authority(item: Dataset, keyword: str) -> Authority:
    issuer = next(items(item, keyword), Dataset())
    return Authority(
        text(issuer, "LocalNamespaceEntityID"),
        text(issuer, "UniversalEntityID"),
        text(issuer, "UniversalEntityIDType"),
    )


def _filled(order: Order, other: Order) -> Order:
    """Return an order with what it does not state taken from another."""
    missing = {one.name: getattr(other, one.name) for one in fields(Order) if getattr(order, one.name) == one.default}
    return replace(order, **missing)


def _merged(known: Order, other: Order) -> Order | None:
    """Return two statements of one order as one; None if they are different orders."""
    numbers = ("accession", "placer", "filler", "procedure_id")
    stated = [(getattr(known, name), getattr(other, name)) for name in numbers]
    both = [(one, two) for one, two in stated if one and two]
    return _filled(known, other) if both and all(one == two for one, two in both) else None
