"""The PACS routes a study by itself; what comes back is in the same study, found and shown by DICOMweb."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

from dicomweb_client import DICOMwebClient
from pydicom import Dataset, dcmread
from pydicom.uid import (
    Comprehensive3DSRStorage,
    EncapsulatedPDFStorage,
    MicroscopyBulkSimpleAnnotationsStorage,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
)

from conformance.hospital import PeerHospital
from conformance.outcome import Check
from conformance.peers.orthanc import AE_TITLE
from conformance.peers.programs import dcmtk, debian_version, run

KEY_IMAGE = Path(__file__).parents[2] / "docs" / "conformance-key-images.png"

#: What comes back for a study of a few fields.
_RESULTS = {
    "structured report": Comprehensive3DSRStorage,
    "key image": MultiFrameTrueColorSecondaryCaptureImageStorage,
    "PDF": EncapsulatedPDFStorage,
}


def checks(hospital: PeerHospital, files: list[Path]) -> Iterator[Check]:
    """Send the study to the PACS, as a modality does, and look for the results there."""
    pacs = hospital.pacs
    uids = {dcmread(file, stop_before_pixels=True).SOPInstanceUID for file in files}
    study_uid = dcmread(files[0], stop_before_pixels=True).StudyInstanceUID
    sent = run(
        dcmtk("storescu"), "-R", "-v", "-aet", "MODALITY", "-aec", AE_TITLE, "127.0.0.1", str(pacs.dicom_port), *files
    )
    yield Check(
        "DCMTK",
        debian_version("dcmtk"),
        "storescu sends the study to the PACS",
        _unless(sent.returncode == 0, sent.stderr),
    )

    def check(what: str, *faults: str) -> Check:
        return Check("Orthanc", pacs.version, what, tuple(fault for fault in faults if fault))

    try:
        hospital.wait_until_delivered(study_uid)
    except TimeoutError as late:
        yield check("routes a study by Lua, and results come back", str(late))
        return
    held = [dcmread(BytesIO(content)) for content in pacs.files(study_uid)]
    results = [one for one in held if one.SOPInstanceUID not in uids]
    studies = pacs.get("/studies")
    yield check(
        "routes a study by Lua, and the results come back into the same study",
        "" if len(studies) == 1 else f"the PACS holds {len(studies)} studies",
        *(f"no {what} came back" for what, uid in _RESULTS.items() if uid not in {one.SOPClassUID for one in results}),
        "" if len(held) == len(uids) + len(results) else "an image is missing",
    )
    deliveries = {one["destination"]: one for one in hospital.shown(study_uid)["deliveries"]}
    state = deliveries["pacs"]["state"]
    yield check(
        "commits to the results (Storage Commitment), and allpacs counts them as delivered only then",
        "" if state == "committed" else f"the delivery is {state}: {deliveries['pacs']['detail']}",
    )
    yield check("what comes back is not routed again", *_routed_again(hospital, study_uid, len(files)))
    client = DICOMwebClient(f"{pacs.base_url}/dicom-web")
    found = client.search_for_instances(study_uid, search_filters={"Modality": "SR"})
    report = next((one for one in results if one.Modality == "SR"), Dataset())
    yield check(
        "QIDO-RS finds the structured report by study and modality",
        "" if [_value(one, "00080018") for one in found] == [report.get("SOPInstanceUID")] else f"found {len(found)}",
    )
    by_accession = client.search_for_studies(search_filters={"AccessionNumber": report.get("AccessionNumber")})
    yield check(
        "QIDO-RS finds the study by accession number",
        "" if [_value(one, "0020000D") for one in by_accession] == [study_uid] else "it does not",
    )
    retrieved = client.retrieve_instance(study_uid, report.SeriesInstanceUID, report.SOPInstanceUID)
    yield check("WADO-RS returns the report as it was sent", "" if retrieved == report else "it differs")
    image = next(one for one in held if one.SOPInstanceUID in uids)
    rendered = client.retrieve_instance_rendered(
        study_uid, image.SeriesInstanceUID, image.SOPInstanceUID, media_types=("image/png",)
    )
    yield check("WADO-RS renders the image", "" if rendered.startswith(b"\x89PNG") else "no PNG came back")
    pages = next(one for one in results if one.SOPClassUID == MultiFrameTrueColorSecondaryCaptureImageStorage)
    frame = client.retrieve_instance_frames_rendered(
        study_uid, pages.SeriesInstanceUID, pages.SOPInstanceUID, [1], media_types=("image/png",)
    )
    yield check("WADO-RS renders the key images", "" if frame.startswith(b"\x89PNG") else "no PNG came back")
    KEY_IMAGE.write_bytes(frame)


def bulk_annotations(hospital: PeerHospital, files: list[Path]) -> Iterator[Check]:
    """Send images of many cells: annotations of each come back beside a summary report, which names them."""
    pacs = hospital.pacs
    study_uid = dcmread(files[0], stop_before_pixels=True).StudyInstanceUID
    run(dcmtk("storescu"), "-R", "-aet", "MODALITY", "-aec", AE_TITLE, "127.0.0.1", str(pacs.dicom_port), *files)
    what = "annotations of every image of many cells come back into the same study"
    try:
        hospital.wait_until_delivered(study_uid)
    except TimeoutError as late:
        yield Check("Orthanc", pacs.version, what, (str(late),))
        return
    held = [dcmread(BytesIO(content)) for content in pacs.files(study_uid)]
    made = [one for one in held if one.SOPClassUID == MicroscopyBulkSimpleAnnotationsStorage]
    images = {one.ReferencedImageSequence[0].ReferencedSOPInstanceUID for one in made}
    sent = {dcmread(file, stop_before_pixels=True).SOPInstanceUID for file in files}
    yield Check("Orthanc", pacs.version, what, () if images == sent else (f"of {len(images)} of {len(sent)} images",))
    (report,) = [one for one in held if one.SOPClassUID == Comprehensive3DSRStorage]
    named = {
        item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID
        for item in report.ContentSequence
        if item.ValueType == "COMPOSITE"
    }
    yield Check(
        "Orthanc", pacs.version, "the summary report names all of them",
        () if named == {one.SOPInstanceUID for one in made} else (f"it names {len(named)} of {len(made)}",),
    )  # fmt: skip
    with hospital.store() as store:
        cells = [cell for instance in store.findings.get(study_uid, 1) for cell in instance.cells]
    found = sum(int(group.NumberOfAnnotations) for one in made for group in one.AnnotationGroupSequence)
    yield Check(
        "Orthanc", pacs.version, "the annotations are of every cell in the store",
        () if found == len(cells) > 8 else (f"{found} annotations of {len(cells)} cells",),
    )  # fmt: skip


def _routed_again(hospital: PeerHospital, study_uid: str, sent: int) -> list[str]:
    with hospital.store() as store:
        row = store.studies.get(study_uid)
        if row is None or (row.instances, row.revision) != (sent, 1):
            return [f"allpacs holds {row}"]
    return []


def _value(found: dict[str, dict[str, list[str]]], tag: str) -> str:
    return found[tag]["Value"][0]


def _unless(good: bool, said: str) -> tuple[str, ...]:
    return () if good else tuple(said.splitlines()[-3:]) or ("it said nothing",)
