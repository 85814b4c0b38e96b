"""DICOM: planes, and the series that they make."""
