"""The devices of a FHIR bundle: the model, and the computer that it ran on.

Source: HL7 FHIR R4 Device.
"""

from __future__ import annotations

import allpacs
from allpacs.report import codes, wording
from allpacs.report.elements import clean
from allpacs.report.fhir_elements import SYSTEMS, Resource, concept, dicom_identifier, narrative
from allpacs.report.fhir_shared import Shared


def host_device(shared: Shared) -> Resource:
    """Return the computer that ran allpacs, as a Device."""
    name = clean(shared.context.host_name)
    return {
        "resourceType": "Device",
        "text": narrative(f"Computer {name}, on which allpacs {allpacs.__version__} runs."),
        "identifier": [{"system": SYSTEMS[codes.PRIVATE_SCHEME], "value": f"host:{name}"}],
        "status": "active",
        "deviceName": [{"name": name, "type": "user-friendly-name"}],
        "version": [{"type": {"text": "allpacs"}, "value": allpacs.__version__}],
    }


def model_device(shared: Shared) -> Resource:
    """Return the model, as a Device."""
    model = shared.findings.model
    name = clean(model.name)
    device: Resource = {
        "resourceType": "Device",
        "text": narrative(f"Algorithm {name} {clean(model.version)} ({clean(model.family)}). Research use only."),
        "identifier": [
            dicom_identifier(model.device_uid),
            {"system": SYSTEMS[codes.PRIVATE_SCHEME], "value": model.digest},
        ],
        "status": "active",
        "manufacturer": clean(model.manufacturer),
        "modelNumber": clean(model.family),
        "deviceName": [{"name": name, "type": "model-name"}],
        "type": concept(codes.ARTIFICIAL_INTELLIGENCE),
        "version": [
            {"type": {"text": "model"}, "value": clean(model.version)},
            {"type": {"text": "allpacs"}, "value": allpacs.__version__},
        ],
        "note": [{"text": wording.RESEARCH_USE}],
    }
    if shared.context.model_card.strip():
        device["note"].append({"text": shared.context.model_card.strip()})
    if shared.context.host_name:
        device["parent"] = {"reference": shared.host_url}
    return device
