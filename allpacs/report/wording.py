"""What every report says in the same words and the same numbers."""

from __future__ import annotations

from allpacs.domain.findings import CellFinding, CellLabel, InstanceFindings, StudyFindings
from allpacs.domain.image import ScaleOrigin
from allpacs.domain.review import Decision, Signed
from allpacs.report import codes

RESEARCH_USE = (
    "Research use only. Not a diagnosis and not for clinical decisions: made by an algorithm, not verified by a person."
)
_SIGNED_RESEARCH_USE = (
    "Research use only. Not a diagnosis and not for clinical decisions: made by an algorithm, reviewed and signed by a "
    "person."
)
#: Name of a class for a reader; a cell is never named by the disease.
LABEL_NAMES = {CellLabel.ALL: "Lymphoblast", CellLabel.HEM: "Hematogone"}

#: Decimals of every probability and fraction: all reports state exactly the same number.
DECIMALS = 6


_SCALE_ORIGINS = {
    ScaleOrigin.PIXEL_SPACING: "as the image states it (Pixel Spacing)",
    ScaleOrigin.NOMINAL: "as the image states it (Nominal Scanned Pixel Spacing)",
    ScaleOrigin.OBJECTIVE: "from the camera's pitch and the objective's power",
    ScaleOrigin.RED_CELLS: "estimated from red cells, taken as 7.2 micrometres across",
    ScaleOrigin.CONFIGURED: "as configured for the sender",
    ScaleOrigin.ASSUMED: "assumed to be that of C-NMC images, which show one segmented cell on black",
}


def notice(signed: Signed | None) -> str:
    """Return the notice that every report begins with."""
    return RESEARCH_USE if signed is None else _SIGNED_RESEARCH_USE


def person(name: str) -> str:
    """Return a DICOM person name for a reader: component groups with spaces for carets, one after the other."""
    groups = (" ".join(group.replace("^", " ").split()) for group in name.split("="))
    return " / ".join(group for group in groups if group)


def review_summary(signed: Signed) -> str:
    """Return in one sentence what the person who signed did, without naming the person."""
    review = signed.review
    looked_at = len(review.cells)
    not_looked_at = len(signed.by_model) - looked_at
    rest = f"; {counted(not_looked_at, 'cell', 'cells')} not looked at one by one" if not_looked_at else ""
    return (
        f"Reviewed one by one: {counted(looked_at, 'cell', 'cells')} ({review.count(Decision.ACCEPTED)} accepted, "
        f"{review.count(Decision.RELABELLED)} changed, {review.count(Decision.EXCLUDED)} excluded){rest}."
    )


def stated(number: float) -> float:
    """Return the probability or fraction (0 to 1) as reports state it, rounded to `DECIMALS`."""
    return round(float(number), DECIMALS)


def class_probability(label: CellLabel, probability_all: float) -> float:
    """Return the probability, 0 to 1, of a cell's own class, which agrees in its last digit with the stated one."""
    return stated(probability_all) if label is CellLabel.ALL else 1.0 - stated(probability_all)


def decimal_string(number: float) -> str:
    """Return the stated number as a DICOM decimal string of at most 16 characters (PS3.5 section 6.2, VR DS)."""
    return f"{stated(number):.{DECIMALS}f}"


def percent_number(number: float) -> float:
    """Return a fraction in per cent, with the decimal that `percent` shows."""
    return float(f"{100 * stated(number):.1f}")


def percent(number: float) -> str:
    """Return a fraction as per cent for a reader: ``0.9731`` becomes ``97.3 %``."""
    return f"{percent_number(number):.1f} %"


def outcome(cell: CellFinding) -> str:
    """Return the outcome of a cell in a few words: its class, or why it has none."""
    if cell.label is not None:
        return LABEL_NAMES[cell.label]
    return "Not assessable" if cell.reason is None else f"Not assessable: {codes.REASONS[cell.reason].meaning.lower()}"


def counted(number: int, one: str, many: str) -> str:
    """Return ``1 cell`` or ``2 cells``."""
    return f"{number} {one if number == 1 else many}"


def summary(findings: StudyFindings) -> str:
    """Return the study's result in two or three sentences, ASCII, without any patient data."""
    counts = findings.counts
    unreadable = sum(instance.fault is not None for instance in findings.instances)
    sentences = []
    if counts.total == 0:
        sentences.append("No white cells were found.")
    else:
        found = findings.found
        sample = f", a random sample of {counts.total} looked at" if found > counts.total else ""
        sentences.append(
            f"{counted(found, 'white cell', 'white cells')} found{sample}: "
            f"{counted(counts.all, 'lymphoblast', 'lymphoblasts')}, "
            f"{counted(counts.hem, 'hematogone', 'hematogones')}, {counts.not_assessable} not assessable."
        )
    if findings.fraction is not None:
        fraction = findings.fraction
        sentences.append(
            f"Lymphoblasts among the {counted(counts.assessable, 'assessable cell', 'assessable cells')}: "
            f"{percent(fraction.value)} (95 % interval {percent(fraction.low)} to {percent(fraction.high)})."
        )
    elif counts.total:
        sentences.append("No fraction is stated, because no cell was assessable.")
    if unreadable:
        total = counted(len(findings.instances), "instance", "instances")
        sentences.append(f"{unreadable} of {total} could not be read.")
    left_out = sum(instance.left_out for instance in findings.instances)
    if left_out:
        total = counted(len(findings.instances), "instance", "instances")
        sentences.append(f"{left_out} of {total} left out on purpose: see the remarks.")
    return " ".join(sentences)


def remarks(instance: InstanceFindings) -> list[str]:
    """Return what a reader must know of an instance besides its cells, one line each, ASCII."""
    lines = [remark.text for remark in instance.remarks]
    if instance.scale is not None and not instance.left_out:
        micrometres = f"{instance.scale.spacing_um:.4g}"
        lines.append(f"Scale: {micrometres} micrometres per pixel, {_SCALE_ORIGINS[instance.scale.origin]}.")
    return lines
