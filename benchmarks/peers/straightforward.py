"""A plugin as one would write it in an afternoon: a pynetdicom handler that decodes, predicts, and sends an SR.

Each instance is decoded and classified by `model.predict` in the handler of its C-STORE, which then answers; when the
association is released, highdicom builds one Comprehensive 3D SR with a measurement group an instance, which is sent
to the PACS. Nothing is kept on disk: a crash loses it. Run as ``python -m benchmarks.peers.straightforward PORT PACS``.
"""

from __future__ import annotations

import sys
import threading
from typing import Any

import numpy as np
from highdicom.sr import (
    AlgorithmIdentification,
    CodedConcept,
    Comprehensive3DSR,
    DeviceObserverIdentifyingAttributes,
    FindingSite,
    ImageRegion,
    Measurement,
    MeasurementReport,
    ObservationContext,
    ObserverContext,
    PlanarROIMeasurementsAndQualitativeEvaluations,
    SourceImageForRegion,
    TrackingIdentifier,
)
from highdicom.sr.enum import GraphicTypeValues
from PIL import Image
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import generate_uid
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, evt
from pynetdicom.sop_class import Comprehensive3DSRStorage, Verification, VLMicroscopicImageStorage

from allpacs.classify.bundle import load_bundle
from allpacs.classify.network import network_of
from allpacs.settings import Settings

_LYMPHOBLAST = CodedConcept("15433008", "SCT", "Lymphoblast")
_HEMATOGONE = CodedConcept("HEM", "99PEER", "Hematogone")


def serve(port: int, pacs_port: int) -> None:
    """Serve until the process is ended."""
    bundle = load_bundle(Settings().model.bundle)
    network = network_of(bundle)
    side = bundle.input_px
    network.predict(np.zeros((1, side, side, 3), np.uint8), verbose=0)
    found: dict[Any, list[tuple[Dataset, float]]] = {}

    def on_store(event: evt.Event) -> int:
        instance = event.dataset
        instance.file_meta = event.file_meta
        picture = np.asarray(Image.fromarray(instance.pixel_array).resize((side, side)))
        logits = network.predict(picture[np.newaxis], verbose=0)[0]
        probability = float(1 / (1 + np.exp(logits[1] - logits[0])))
        del instance.PixelData
        found.setdefault(event.assoc, []).append((instance, probability))
        return 0x0000

    def on_released(event: evt.Event) -> None:
        cells = found.pop(event.assoc, [])
        if cells:
            _send(_report(cells), pacs_port)

    ae = AE("PEER")
    ae.maximum_pdu_size = 131_072
    ae.add_supported_context(Verification)
    ae.add_supported_context(VLMicroscopicImageStorage, ALL_TRANSFER_SYNTAXES)
    handlers = [(evt.EVT_C_STORE, on_store), (evt.EVT_RELEASED, on_released)]
    ae.start_server(("127.0.0.1", port), block=False, evt_handlers=handlers)
    threading.Event().wait()


def _report(cells: list[tuple[Dataset, float]]) -> Comprehensive3DSR:
    groups = []
    for number, (instance, probability) in enumerate(cells, start=1):
        outline = np.array(
            [[0, 0], [instance.Columns, 0], [instance.Columns, instance.Rows], [0, instance.Rows], [0, 0]], float
        )
        region = ImageRegion(GraphicTypeValues.POLYLINE, outline, SourceImageForRegion.from_source_image(instance))
        groups.append(
            PlanarROIMeasurementsAndQualitativeEvaluations(
                tracking_identifier=TrackingIdentifier(generate_uid(), f"cell {number}"),
                referenced_region=region,
                finding_type=_LYMPHOBLAST if probability >= 0.5 else _HEMATOGONE,
                finding_sites=[FindingSite(codes.SCT.BoneMarrow)],
                algorithm_id=AlgorithmIdentification("peer", "1", codes.DCM.ArtificialIntelligence),
                measurements=[
                    Measurement(CodedConcept("122157", "DCM", "Probability"), probability, codes.UCUM.NoUnits)
                ],
            )
        )
    context = ObservationContext(
        observer_device_context=ObserverContext(
            codes.DCM.Device, DeviceObserverIdentifyingAttributes(uid=generate_uid())
        )
    )
    report = MeasurementReport(
        observation_context=context,
        procedure_reported=CodedConcept("18748-4", "LN", "Diagnostic imaging study"),
        imaging_measurements=groups,
    )
    return Comprehensive3DSR(
        evidence=[instance for instance, _ in cells],
        content=report[0],
        series_number=1,
        series_instance_uid=generate_uid(),
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="peer",
    )


def _send(report: Comprehensive3DSR, pacs_port: int) -> None:
    ae = AE("PEER")
    ae.add_requested_context(Comprehensive3DSRStorage)
    association = ae.associate("127.0.0.1", pacs_port)
    association.send_c_store(report)
    association.release()


if __name__ == "__main__":
    serve(int(sys.argv[1]), int(sys.argv[2]))
