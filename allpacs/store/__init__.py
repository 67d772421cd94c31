"""Spool of Part 10 files, and the index of studies, instances, findings, artefacts and deliveries."""
