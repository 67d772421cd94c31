"""Report formats: what a format declares about itself, and how formats are found.

A report format is one module in `allpacs.report` that has a `Format` as its ``FORMAT``. Nothing else names it: results
are written in every format that is found here, and destinations choose among results by media type.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module

import allpacs.report
from allpacs.domain.artefacts import Artefact, is_kind
from allpacs.domain.findings import StudyFindings
from allpacs.report.context import ReportContext
from allpacs.report.inputs import FormatInputs


def _always(_context: ReportContext, _findings: StudyFindings) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Format:
    """A report format, as its module declares it.

    Attributes
    ----------
    kind:
        Name among the results of a revision: lower-case words with hyphens, see `allpacs.domain.artefacts.is_kind`.
    media_type:
        Of the files; destinations choose by it.
    suffix:
        End of the file names, with its dot; what comes before is the UID.
    write:
        Returns the results of one run: one, several, or None if there are none. Same inputs, same bytes.
    wants:
        Whether the format is wanted for these findings and settings.
    after:
        Kinds that are written before this one, whose results it refers to if there are any.
    embeds:
        Like `after`; the format holds their bytes, too.
    over_signed:
        Whether it is written if an earlier revision is signed and this one is not. False for reports of which a
        receiver holds one for each study: an unsigned one must not take the place of a signed one.
    check:
        Looks whether this machine can write the format and returns one line for the operator; raises ConfigFault.
    setting:
        Key of the section ``[report]`` that asks for the format; None if it is always asked for.
    """

    kind: str
    media_type: str
    suffix: str
    write: Callable[[FormatInputs], Artefact | Iterable[Artefact] | None]
    wants: Callable[[ReportContext, StudyFindings], bool] = _always
    after: tuple[str, ...] = ()
    embeds: tuple[str, ...] = ()
    over_signed: bool = True
    check: Callable[[], str] | None = None
    setting: str | None = None

    def __post_init__(self) -> None:
        if not is_kind(self.kind):
            raise ValueError(f"{self.kind!r} is no kind of result: use lower-case words with hyphens between them")

    def artefact(self, uid: str, content: bytes, *, number: int = 1, supersedes: str | None = None) -> Artefact:
        """Return a result of this format, with its media type and file name."""
        return Artefact(self.kind, uid, self.media_type, f"{uid}{self.suffix}", content, supersedes, number)

    def artefacts(self, inputs: FormatInputs) -> Iterator[Artefact]:
        """Return the results of one run, one after the other."""
        written = self.write(inputs)
        if written is None:
            return iter(())
        return iter((written,)) if isinstance(written, Artefact) else iter(written)

    def is_wanted(self, context: ReportContext, findings: StudyFindings) -> bool:
        """Whether results in this format are written."""
        if context.signed is None and context.signed_before and not self.over_signed:
            return False
        return self.wants(context, findings)


def formats() -> list[Format]:
    """Return every format that a module of `allpacs.report` declares, in the order in which they are written.

    The order is that of the modules' names, but for formats that others are written after: these come before them.

    Raises
    ------
    ValueError
        Two modules declare the same kind, a format is written after a kind that nobody declares, or after itself.
    """
    declared: dict[str, Format] = {}
    modules: dict[str, str] = {}
    for module in sorted(module.name for module in pkgutil.iter_modules(allpacs.report.__path__)):
        found = getattr(import_module(f"{allpacs.report.__name__}.{module}"), "FORMAT", None)
        if isinstance(found, Format):
            if found.kind in declared:
                raise ValueError(
                    f"two modules declare the report format {found.kind}: {modules[found.kind]} and {module}; "
                    "give one of them another kind"
                )
            declared[found.kind], modules[found.kind] = found, module
    ordered: dict[str, Format] = {}
    for kind in declared:
        _add(kind, declared, ordered, ())
    return list(ordered.values())


def _add(kind: str, declared: Mapping[str, Format], ordered: dict[str, Format], for_: tuple[str, ...]) -> None:
    """Add a format to those in order, and before it the formats that it is written after."""
    if kind in for_:
        raise ValueError(f"report format {kind} is written after itself: {' after '.join((*for_, kind))}")
    if kind not in declared:
        raise ValueError(f"report format {for_[-1]} is written after {kind}, which no module declares")
    if kind not in ordered:
        for earlier in (*declared[kind].after, *declared[kind].embeds):
            _add(earlier, declared, ordered, (*for_, kind))
        ordered[kind] = declared[kind]
