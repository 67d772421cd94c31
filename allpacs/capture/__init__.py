"""Pictures of a microscope camera, which know no patient and no study, to DICOM instances that do."""
