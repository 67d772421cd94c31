"""DICOMweb of the console: searches (QIDO-RS) and retrieval (WADO-RS), read only."""
