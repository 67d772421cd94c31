"""DICOM that several rooms need: storage commitment data sets, deflate, de-identification, TLS."""
