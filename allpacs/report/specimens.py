"""A study's findings by specimen: marrow and blood of one study never become one fraction."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from allpacs.domain.counting import part_of
from allpacs.domain.findings import StudyFindings
from allpacs.report import wording
from allpacs.report.source import Source, Specimen


@dataclass(frozen=True, slots=True, eq=False)
class SpecimenResult:
    """What was found in the images of one specimen.

    Attributes
    ----------
    specimens:
        The specimen; several if the images show several, empty if the images name none.
    findings:
        Of these images alone, with their own counts and fraction.
    name:
        For a reader: ``Bone marrow specimen SP-1``; different for each specimen of the study.
    """

    specimens: tuple[Specimen, ...]
    findings: StudyFindings
    name: str

    @property
    def specimen(self) -> Specimen | None:
        """The specimen, if it is exactly one."""
        return self.specimens[0] if len(self.specimens) == 1 else None


def by_specimen(findings: StudyFindings, source: Source) -> tuple[SpecimenResult, ...]:
    """Return the findings of each specimen, in order of identifier; images that name none come last.

    Images that were left out on purpose (labels, overviews) make no part of their own.
    """
    groups: dict[tuple[Specimen, ...], set[str]] = {}
    for instance in findings.instances:
        specimens = source.specimens.get(instance.sop_instance_uid, ())
        if specimens or not instance.left_out:
            groups.setdefault(specimens, set()).add(instance.sop_instance_uid)
    if len(groups) <= 1:
        specimens = next(iter(groups), ())
        return (SpecimenResult(specimens, findings, _name(specimens)),)
    ordered = sorted(groups, key=lambda several: (not several, [(one.identifier, one.uid) for one in several]))
    parts = [SpecimenResult(several, part_of(findings, groups[several]), _name(several)) for several in ordered]
    repeated = {name for name, number in Counter(part.name for part in parts).items() if number > 1}
    return tuple(
        SpecimenResult(part.specimens, part.findings, _name(part.specimens, with_uid=part.name in repeated))
        for part in parts
    )


def summary(parts: Sequence[SpecimenResult]) -> str:
    """Return the result in a few sentences, for each specimen if there are several; ASCII but for specimens' names."""
    if len(parts) == 1:
        return wording.summary(parts[0].findings)
    return " ".join(f"{part.name}: {wording.summary(part.findings)}" for part in parts)


def contradictions(parts: Sequence[SpecimenResult]) -> list[str]:
    """Return what the images contradict themselves in: specimens that share an identifier, one line each."""
    specimens = {specimen for part in parts for specimen in part.specimens}
    shared = Counter(specimen.identifier for specimen in specimens if specimen.identifier)
    return [
        f"The images name {number} different specimens with the identifier {identifier}: their cells are counted apart."
        for identifier, number in sorted(shared.items())
        if number > 1
    ]


def _name(specimens: Sequence[Specimen], *, with_uid: bool = False) -> str:
    if not specimens:
        return "Specimen not stated"
    return " and ".join(
        " ".join(
            filter(
                None,
                (
                    specimen.type.meaning if specimen.type else "Specimen",
                    specimen.identifier or specimen.uid,
                    f"({specimen.uid})" if with_uid and specimen.identifier and specimen.uid else "",
                ),
            )
        )
        for specimen in specimens
    )
