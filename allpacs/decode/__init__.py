"""Part 10 files and pictures to RGB frames.

=================== ====================================================================================
`open.py`           picks the reader by the first bytes
`part10.py`         DICOM: opens the file, checks what the header promises against what is there
`elements.py`       elements of a data set, as it is encoded, as far as they are needed
`layout.py`         Image Pixel module: the checked shape of the pixels
`encapsulation.py`  where each frame of encapsulated Pixel Data lies
`codecs.py`         one encoded frame to samples, one function a family of transfer syntaxes
`colour.py`         samples to RGB
`icc.py`            RGB under an ICC profile to sRGB
`scale.py`          what the object says of the distance between its pixels
`slide.py`          whole slides: headers, tiles, regions of the matrix
`ai_generated.py`   whether artificial intelligence made an image
`picture.py`        BMP, PNG, JPEG, TIFF
`guard.py`          what foreign decoders raise becomes the sender's fault
=================== ====================================================================================
"""
