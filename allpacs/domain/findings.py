"""What was found in a study: plain frozen values that reports are written from.

A cell is a lymphoblast or a hematogone, or it is *not assessable* with a reason; it never "has leukaemia".
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from allpacs.domain.geometry import BoxPx, PixelMatrix, PointPx
from allpacs.domain.identity import derive_uid
from allpacs.domain.image import Scale, UnreadableFrame


class CellLabel(StrEnum):
    """The two classes of the paper and of C-NMC, by their short names."""

    ALL = "ALL"  # lymphoblast of acute lymphoblastic leukaemia
    HEM = "HEM"  # hematogone: normal lymphoid precursor


class NotAssessable(StrEnum):
    """Why a cell carries no label."""

    EMPTY = "empty"  # nothing but background
    BLURRED = "blurred"  # out of focus
    TOO_SMALL = "too-small"  # too few pixels to judge
    CUT_OFF = "cut-off"  # cut by the edge of the frame
    INDETERMINATE = "indeterminate"  # between the two thresholds of the bundle
    OUT_OF_DISTRIBUTION = "out-of-distribution"  # unlike anything the model was trained on
    SCALE_UNKNOWN = "scale-unknown"  # nothing tells the pixel size, and the model needs it
    # The model recognises the cell as a type that is neither lymphoblast nor hematogone.
    NEUTROPHIL = "neutrophil"
    EOSINOPHIL = "eosinophil"
    BASOPHIL = "basophil"
    MONOCYTE = "monocyte"
    IMMATURE_GRANULOCYTE = "immature-granulocyte"
    ERYTHROBLAST = "erythroblast"
    PLATELET = "platelet"
    ARTEFACT = "artefact"  # smudge or torn cell, debris, stain
    MODEL_FAILED = "model-failed"  # the model gave no finite answer for it
    EXCLUDED = "excluded"  # a reviewer took it out (see `allpacs.domain.review`); never the model's answer


#: What a cell can be that is neither lymphoblast nor hematogone.
OTHER_TYPES = (
    NotAssessable.NEUTROPHIL,
    NotAssessable.EOSINOPHIL,
    NotAssessable.BASOPHIL,
    NotAssessable.MONOCYTE,
    NotAssessable.IMMATURE_GRANULOCYTE,
    NotAssessable.ERYTHROBLAST,
    NotAssessable.PLATELET,
    NotAssessable.ARTEFACT,
)


class RemarkKind(StrEnum):
    """What a reader must know of an instance besides its cells."""

    LEFT_OUT = "left-out"  # on purpose: a label, an overview, another level of the pyramid, another focal plane
    UNREADABLE_FRAMES = "unreadable-frames"  # some frames do not decode; the others were judged
    INCOMPLETE = "incomplete"  # parts of a concatenation or levels of a pyramid are not there
    SELECTED = "selected"  # of several levels, focal planes or optical paths one was judged
    NO_CELLS = "no-cells"  # everything was looked at, and no white cell is there
    SAMPLED = "sampled"  # more cells than are judged: a random sample was
    NOT_ANALYSED = "not-analysed"  # a fault of allpacs kept a region from being analysed
    SCALE_CONFLICT = "scale-conflict"  # the stated pixel size and the red cells contradict each other


@dataclass(frozen=True, slots=True)
class Remark:
    """One thing a reader must know of an instance besides its cells.

    Attributes
    ----------
    text:
        One line for a person; no patient data.
    """

    kind: RemarkKind
    text: str


@dataclass(frozen=True, slots=True)
class MatrixPlace:
    """Where a cell lies on the total pixel matrix of a slide; the frames are the matrix's tiles.

    A cell may reach over several tiles: this is the whole of it, while `CellFinding.box` and `outline` are the part of
    it that lies on the frame with its middle.
    """

    box: BoxPx
    outline: tuple[PointPx, ...]


@dataclass(frozen=True, slots=True)
class CellFinding:
    """One cell and what the model says of it.

    Attributes
    ----------
    frame_number, cell_number:
        From 1: the frame within the SOP Instance, the cell within the frame.
    label:
        None where the cell is not assessable; then `reason` says why.
    box, outline:
        In pixels of the frame.
    probability_all:
        Calibrated probability (0 to 1) that the cell is a lymphoblast; None where the model was not asked.
    on_matrix:
        Its place on the total pixel matrix of a slide; None of an image that is not tiled. `InstanceFindings.matrix`
        turns its points into millimetres on the slide.
    """

    sop_instance_uid: str
    frame_number: int
    cell_number: int
    box: BoxPx
    outline: tuple[PointPx, ...]
    label: CellLabel | None = None
    probability_all: float | None = None
    reason: NotAssessable | None = None
    on_matrix: MatrixPlace | None = None

    @property
    def assessable(self) -> bool:
        """Whether the cell counts towards the fraction."""
        return self.label is not None

    @property
    def tracking_uid(self) -> str:
        """Tracking Unique Identifier (DCM 112040): stable when the study is analysed again.

        Derived from the cell's place and size, not from its number: if the finder's order changes, a decision of a
        person stays with the cell for which it was made.
        """
        place = self.box if self.on_matrix is None else self.on_matrix.box
        return derive_uid("cell", self.sop_instance_uid, str(self.frame_number), *map(str, place.as_list()))


@dataclass(frozen=True, slots=True)
class InstanceFindings:
    """One SOP Instance: its cells, or why it could not be read.

    Of an instance that is read in parts, also the findings of one part (`allpacs.domain.parts`).

    Attributes
    ----------
    frames:
        How many frames it has; of a part, those up to its last one.
    fault:
        None, or one line that says why the pixels could not be read (no patient data).
    scale:
        Distance of its pixels; None where it is not known.
    matrix:
        The total pixel matrix that its frames are tiles of; None of an image that is not tiled.
    cells_found:
        All cells found, where `cells` is a random sample of them; None where `cells` are all.
    remarks:
        What else a reader must know; an instance left out on purpose has a remark, and no fault.
    unreadable:
        Frames that cannot be decoded, among others that may be, in order.
    measured_um:
        The scales of its frames, in micrometres, that were measured on their red cells.
    """

    sop_instance_uid: str
    sop_class_uid: str
    series_uid: str
    frames: int
    cells: tuple[CellFinding, ...]
    fault: str | None = None
    scale: Scale | None = None
    matrix: PixelMatrix | None = None
    cells_found: int | None = None
    remarks: tuple[Remark, ...] = ()
    unreadable: tuple[UnreadableFrame, ...] = ()
    measured_um: tuple[float, ...] = ()

    @property
    def found(self) -> int:
        """How many cells were found, also those outside the sample."""
        return len(self.cells) if self.cells_found is None else self.cells_found

    @property
    def left_out(self) -> bool:
        """Whether the instance was not looked at, on purpose."""
        return any(remark.kind is RemarkKind.LEFT_OUT for remark in self.remarks)


def tracking_id(image: int, frames: int, cell: CellFinding) -> str:
    """Return the Tracking Identifier (DCM 112039) of a cell: readable, and unique within its study.

    ``image 3 cell 15``; of an image with several frames ``image 3 frame 2 cell 15``. Every report and the console use
    this name.

    Parameters
    ----------
    image:
        Number of the image within the study, from 1: its place in `StudyFindings.instances`.
    frames:
        How many frames the image has.
    """
    frame = f" frame {cell.frame_number}" if frames > 1 else ""
    return f"image {image}{frame} cell {cell.cell_number}"


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """The bundle that judged the cells.

    Attributes
    ----------
    digest:
        ``sha256:`` and 64 hexadecimal digits over the bundle's files: a changed model is a changed digest.
    family:
        Network name, for example ``EfficientNetB3``.
    """

    name: str
    version: str
    digest: str
    family: str
    manufacturer: str = "allpacs"

    def __post_init__(self) -> None:
        if not all(part.strip() for part in (self.name, self.version, self.digest, self.family, self.manufacturer)):
            raise ValueError("a model has a name, a version, a digest, a family and a manufacturer")

    @property
    def device_uid(self) -> str:
        """Device UID of the algorithm: a new one whenever the model changes."""
        return derive_uid("device", self.digest)


@dataclass(frozen=True, slots=True)
class Counts:
    """Cells of a study by outcome."""

    all: int
    hem: int
    not_assessable: int

    @property
    def assessable(self) -> int:
        """Cells with a label."""
        return self.all + self.hem

    @property
    def total(self) -> int:
        """All cells found."""
        return self.all + self.hem + self.not_assessable


@dataclass(frozen=True, slots=True)
class Fraction:
    """Share of lymphoblasts among assessable cells, with its two-sided 95 % Wilson interval; each 0 to 1."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class StudyFindings:
    """Everything a report is written from.

    Attributes
    ----------
    revision:
        From 1; a late instance makes a new revision, which supersedes the reports of the one before.
    decision_digest:
        Digest of what else decides the outcome: thresholds, way of finding cells.
    fraction:
        None where no cell was assessable.
    instances:
        In order of series and SOP Instance UID.
    """

    study_uid: str
    revision: int
    model: ModelIdentity
    decision_digest: str
    instances: tuple[InstanceFindings, ...]
    counts: Counts
    fraction: Fraction | None

    @property
    def image_numbers(self) -> dict[str, int]:
        """Number of each image within the study, from 1, by SOP Instance UID: reports and the console count so."""
        return {instance.sop_instance_uid: number for number, instance in enumerate(self.instances, start=1)}

    @property
    def found(self) -> int:
        """How many cells were found in all instances, also those outside a sample."""
        return sum(instance.found for instance in self.instances)

    @property
    def cells(self) -> tuple[CellFinding, ...]:
        """All cells of all instances, in order."""
        return tuple(cell for instance in self.instances for cell in instance.cells)
