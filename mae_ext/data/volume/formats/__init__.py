"""File formats of scans besides NIfTI, MGH, NRRD and DICOM, and which of all of them an address has."""
