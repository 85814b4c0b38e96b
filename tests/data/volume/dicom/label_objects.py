"""DICOM objects that are label maps, for tests: segmentations of all kinds, and structure sets."""

import numpy as np
import pydicom
from data.volume.dicom.dicom_files import _image, _item, _macros, _save
from pydicom.dataset import Dataset, FileMetaDataset

SEG, LABELMAP = (f"1.2.840.10008.5.1.4.1.1.66.{n}" for n in (4, 7))
RTSTRUCT = "1.2.840.10008.5.1.4.1.1.481.3"
BOX = (-100, -90, 30)  # where the slices of dicom_files.series begin


def _place(z, corner, orientation, spacing):
    normal = np.cross(orientation[:3], orientation[3:])
    position = [float(v) for v in np.array(corner) + 2.5 * z * normal]
    return {"position": position, "orientation": orientation, "spacing": spacing, "scale": None}


def segmentation(path, frames, names, kind="BINARY", corner=BOX, orientation=(1, 0, 0, 0, 1, 0), **tags):
    """frames: (slice, segment, (rows, columns)), segment 1 being the first of `names`; of a LABELMAP it is not written.
    Slices are 2.5 mm apart from `corner`, rows 0.7, columns 0.8; `spacing` says otherwise."""
    spacing = tags.pop("spacing", (0.7, 0.8))
    stored = np.array([plane for _, _, plane in frames]).astype(np.uint8)
    data = _image(stored.shape[1:], LABELMAP if kind == "LABELMAP" else SEG, np.ascontiguousarray(stored))
    data.Modality, data.SegmentationType, data.NumberOfFrames = "SEG", kind, len(frames)
    if kind == "BINARY":
        data.BitsAllocated, data.BitsStored, data.HighBit = 1, 1, 0
        bits = np.packbits(stored.ravel(), bitorder="little").tobytes()
        data.PixelData = bits + bytes(len(bits) % 2)
    if kind == "FRACTIONAL":
        data.MaximumFractionalValue, data.SegmentationFractionalType = 200, "PROBABILITY"
    items = [_item(SegmentNumber=n, SegmentLabel=name)[0] for n, name in enumerate(names, start=1)]
    data.SegmentSequence = pydicom.Sequence(items)
    data.SharedFunctionalGroupsSequence = pydicom.Sequence([Dataset()])
    every = []
    for z, segment, _ in frames:
        groups = _macros(_place(z, corner, orientation, spacing), ())
        if kind != "LABELMAP":
            groups.SegmentIdentificationSequence = _item(ReferencedSegmentNumber=segment)
        every.append(groups)
    data.PerFrameFunctionalGroupsSequence = pydicom.Sequence(every)
    _save(path, data, tags)


def structures(path, regions, frame="", **tags):
    """regions: {name: [(points, 3) mm LPS, ...]}, numbered from 1 on. frame: FrameOfReferenceUID of them all."""
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = RTSTRUCT
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    data.Modality, listed, drawn = "RTSTRUCT", [], []
    for number, (name, outlines) in enumerate(regions.items(), start=1):
        listed.append(_item(ROINumber=number, ROIName=name, ReferencedFrameOfReferenceUID=frame)[0])
        contours = []
        for points in outlines:
            flat = [f"{v:.5f}" for v in np.asarray(points, float).ravel()]
            kind = "POINT" if len(points) == 1 else "CLOSED_PLANAR"
            contour = _item(ContourGeometricType=kind, NumberOfContourPoints=len(points), ContourData=flat)
            contours.append(contour[0])
        drawn.append(_item(ReferencedROINumber=number, ContourSequence=pydicom.Sequence(contours))[0])
    data.StructureSetROISequence, data.ROIContourSequence = pydicom.Sequence(listed), pydicom.Sequence(drawn)
    _save(path, data, tags)
