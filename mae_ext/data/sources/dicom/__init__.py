"""A folder as a PACS exports it: DICOM files found by content, grouped into series, each at an address of its own."""
