"""Which DICOM objects are no scan: by their class (PS3.4, B.5) and what they say of themselves."""

_ROOT = "1.2.840.10008.5.1.4.1.1."

REPORTS, STATES, PAPERS = "DICOM reports", "DICOM presentation states", "DICOM documents"
MASKS, DOSES, RADIOTHERAPY = "DICOM label maps", "DICOM doses", "DICOM plans and other objects of radiotherapy"
CAPTURES, SCOUTS, COLOUR = "secondary captures", "localizers", "colour pictures"
PROJECTIONS, CURVES, NO_PIXELS = "projections", "curves and spectra", "DICOM objects without pixels"
SINGLES, COPIES, UNNAMED = "single pictures", "copies of DICOM images", "files that name no series"
BROKEN, CALLED_SO = "broken DICOM files", "files that are called DICOM and are none"

REMEDIES = {
    REPORTS: "structured reports hold no voxels",
    STATES: "how a picture is to be shown holds no voxels",
    PAPERS: "PDFs and other papers hold no voxels",
    MASKS: "SEG and RTSTRUCT are what a task may learn to answer: give them to one by task.masks",
    DOSES: "doses in Gy lie on the lattice of a plan: read one by its own path if it is meant",
    RADIOTHERAPY: "they hold no voxels of a scanner",
    CAPTURES: "pictures of a screen, whose values measure nothing",
    SCOUTS: "they show where the others were planned; a file named by itself is read",
    COLOUR: "volumes have one measured value a voxel; as pictures, export them as PNG and use --reader image",
    PROJECTIONS: "X-rays, mammograms, ultrasound and slides are no volumes; as pictures, export them as PNG and use "
    "--reader image",
    CURVES: "waveforms and spectra are no volumes",
    NO_PIXELS: "registrations, notes and indices hold no voxels",
    SINGLES: "one plane by itself is no volume; if others of its series are missing, export it again",
    COPIES: "the same image (SOPInstanceUID) counts once, the first by name",
    UNNAMED: "without SeriesInstanceUID nothing says what belongs together: convert them, or anonymise them anew with "
    "the UIDs kept",
    CALLED_SO: "they begin as nothing that DICOM knows: look at them, or take the suffix away",
    BROKEN: "the header ends in its middle: export them again",
}

_BY_CLASS = {
    "88.": REPORTS, "11.": STATES, "104.": PAPERS, "66.4": MASKS, "66.5": MASKS, "66.7": MASKS, "481.3": MASKS,
    "481.2": DOSES, "481.": RADIOTHERAPY, "7": CAPTURES, "9.": CURVES, "4.2": CURVES, "1": PROJECTIONS,
    "1.1": PROJECTIONS, "1.2": PROJECTIONS, "1.3": PROJECTIONS, "3.1": PROJECTIONS, "6.1": PROJECTIONS,
    "6": PROJECTIONS, "3": PROJECTIONS, "12.": PROJECTIONS, "77.": PROJECTIONS,
}  # fmt: skip
"""By the rest of the UID: its beginning where it ends in a dot, else all of it or all up to a dot."""


def reason_of(class_uid: str, image_type: str, pixels: bool, scout: bool) -> str:
    """Why such an object is left out; "" where it may be of a volume."""
    rest = class_uid.removeprefix(_ROOT) if class_uid.startswith(_ROOT) else ""
    matching = [key for key in _BY_CLASS if rest == key.rstrip(".") or rest.startswith(f"{key.rstrip('.')}.")]
    exact = [key for key in matching if key.endswith(".") or rest == key or key in ("7", "1.1", "1.2", "1.3")]
    if exact:
        return _BY_CLASS[max(exact, key=len)]
    if not pixels:
        return NO_PIXELS
    if scout:
        return SCOUTS
    return CAPTURES if "SCREEN SAVE" in image_type or "SCREENSHOT" in image_type else ""
