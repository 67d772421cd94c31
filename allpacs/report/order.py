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

#: The numbers by which an order is known, each with its issuer, and what a person calls them.
_NUMBERS = (
    ("accession", "accession_issuer", "accession number"),
    ("placer", "placer_issuer", "placer order number"),
    ("filler", "filler_issuer", "filler order number"),
    ("procedure_id", None, "requested procedure ID"),
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

    Two statements are of one order if they share a number and contradict each other in none. What contradicts is kept
    as an order of its own: nothing that the images state is lost.
    """
    orders: list[Order] = []
    for header in headers:
        for order in _of_header(header):
            _add(orders, order)
    return tuple(orders)


def contradictions(headers: Iterable[Dataset]) -> list[str]:
    """Return a line for a person for each kind of number in which the study level contradicts the requests.

    Also if images name different accession numbers at the study level. The lines hold no number: they are written where
    patient data must not be.
    """
    lines: list[str] = []
    studies: list[Order] = []
    for header in headers:
        study = _order(header)
        requests = [_order(item) for item in items(header, "RequestAttributesSequence")]
        for number, issuer, name in _NUMBERS:
            stated = [order for order in requests if getattr(order, number)]
            if getattr(study, number) and stated and not any(_same(study, one, number, issuer) for one in stated):
                lines.append(
                    f"The study level of the images names another {name} than their requests: the report names all of "
                    "them."
                )
        studies.append(study)
    accessions = [study for study in studies if study.accession]
    if any(not _same(accessions[0], one, "accession", "accession_issuer") for one in accessions[1:]):
        lines.append("The images name different accession numbers: the report names all of them.")
    return list(dict.fromkeys(lines))


def _of_header(header: Dataset) -> Iterator[Order]:
    study = _order(header)
    requests = [one for one in map(_order, items(header, "RequestAttributesSequence")) if not one.is_empty]
    if len(requests) == 1 and not _contradict(requests[0], study):
        yield _filled(requests[0], study)
        return
    yield from requests
    if not study.is_empty and not any(_one(order, study) for order in requests):
        yield study


def _add(orders: list[Order], order: Order) -> None:
    """Add an order, joined with all that are the same: it may name two that were not known to be one."""
    same = [known for known in orders if _one(known, order)]
    if not same:
        orders.append(order)
        return
    joined = _filled(same[0], order)
    place = orders.index(same[0])
    rest = [known for known in same[1:] if not _contradict(joined, known)]
    for known in rest:
        joined = _filled(joined, known)
        orders.remove(known)
    orders[place] = joined


def _same(one: Order, other: Order, number: str, issuer: str | None) -> bool:
    """Whether two orders have the same number; issuers differ only if both are stated."""
    if getattr(one, number) != getattr(other, number):
        return False
    issuers = [] if issuer is None else [getattr(order, issuer) for order in (one, other)]
    stated = [authority for authority in issuers if authority != Authority()]
    return len(set(stated)) <= 1


def _contradict(one: Order, other: Order) -> bool:
    """Whether two statements name different numbers of one kind."""
    return any(
        getattr(one, number) and getattr(other, number) and not _same(one, other, number, issuer)
        for number, issuer, _ in _NUMBERS
    )


def _one(known: Order, other: Order) -> bool:
    """Whether two statements are of one order."""
    shared = any(getattr(known, number) and _same(known, other, number, issuer) for number, issuer, _ in _NUMBERS)
    return shared and not _contradict(known, other)


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
