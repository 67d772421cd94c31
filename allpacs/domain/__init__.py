"""Frozen values every stage speaks in. Standard library and numpy only: no I/O, no DICOM, FHIR or model library."""
