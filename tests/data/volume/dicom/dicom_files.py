"""DICOM as scanners write it, for tests: classic slices and enhanced objects, any tag of theirs changed or left out."""

import struct
from math import ceil, sqrt

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset

CLASSIC_CT, ENHANCED_CT, ENHANCED_MR = (
    f"1.2.840.10008.5.1.4.1.1.{end}" for end in ("2", "2.1", "4.1")
)  # fmt: skip
POINTERS = {"stack": 0x00209056, "position": 0x00209057, "time": 0x00209128, "echo": 0x00189082, "b": 0x00189087}


def _image(shape, sop, stored):
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = sop
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    data.SeriesInstanceUID, data.Modality = "1.2.3", "CT"
    data.Rows, data.Columns = shape
    bits = 8 * stored.itemsize
    data.BitsAllocated, data.BitsStored, data.HighBit = bits, bits, bits - 1
    data.PixelRepresentation = int(stored.dtype.kind == "i")
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.PixelData = stored.tobytes()
    return data


def _save(path, data, tags):
    for key, value in tags.items():
        if value is None:
            del data[key]
        elif isinstance(value, pydicom.DataElement):
            data.add(value)
        else:
            setattr(data, key, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)


def classic(path, stored, position, orientation=(1, 0, 0, 0, 1, 0), **tags):
    """stored: (rows, columns) int16 or uint16. Rows are 0.7 mm apart, columns 0.8. tags: None leaves one out."""
    data = _image(stored.shape, CLASSIC_CT, np.ascontiguousarray(stored))
    data.PixelSpacing, data.ImageOrientationPatient = [0.7, 0.8], list(orientation)
    data.ImagePositionPatient, data.InstanceNumber = list(position), 1
    data.RescaleSlope, data.RescaleIntercept = 2, -1024
    _save(path, data, tags)


def series(folder, planes, **tags):
    """Slices 2.5 mm apart along z from (-100, -90, 30)."""
    for z, plane in enumerate(planes):
        classic(folder / f"{z:03d}.dcm", plane, (-100, -90, 30 + 2.5 * z), InstanceNumber=z + 1, **tags)


def _item(**values):
    item = Dataset()
    for key, value in values.items():
        setattr(item, key, value)
    return pydicom.Sequence([item])


def frame(stored, z, **values):
    """One of an enhanced object: 2.5 mm times z above (-100, -90, 30). values: what `enhanced` knows."""
    return {"stored": stored, "position": (-100, -90, 30 + 2.5 * z), "index": {"position": z + 1}} | values


def _macros(frame, shared):
    """The functional groups of a frame but for those that are shared."""
    groups = Dataset()
    position = list(frame["position"])
    orientation = list(frame.get("orientation", (1, 0, 0, 0, 1, 0)))
    made = {
        "PlanePositionSequence": _item(ImagePositionPatient=position),
        "PlaneOrientationSequence": _item(ImageOrientationPatient=orientation),
        "PixelMeasuresSequence": _item(PixelSpacing=list(frame.get("spacing", (0.7, 0.8))), SliceThickness=2.5),
    }
    if (scale := frame.get("scale", (2, -1024))) is not None:
        made["PixelValueTransformationSequence"] = _item(
            RescaleSlope=scale[0], RescaleIntercept=scale[1], RescaleType="US"
        )
    if "echo" in frame:
        made["MREchoSequence"] = _item(EffectiveEchoTime=frame["echo"])
    if "b" in frame:
        made["MRDiffusionSequence"] = _item(DiffusionBValue=frame["b"], **frame.get("diffusion", {}))
    if "kind" in frame:
        made["MRImageFrameTypeSequence"] = _item(
            FrameType=["ORIGINAL", "PRIMARY", frame["kind"], "NONE"],
            ComplexImageComponent=frame.get("component", "MAGNITUDE"),
        )
    for name, value in made.items():
        if name not in shared:
            setattr(groups, name, value)
    return groups


def enhanced(path, frames, sop=ENHANCED_MR, dimensions=("position",), shared=(), **tags):
    """frames: of `frame`, in the order in which they are stored. shared: macros that are said once for all frames."""
    stored = np.ascontiguousarray([f["stored"] for f in frames])
    data = _image(stored.shape[1:], sop, stored)
    data.Modality, data.InstanceNumber, data.NumberOfFrames = "MR", 1, len(frames)
    data.DimensionIndexSequence = pydicom.Sequence(
        [_item(DimensionIndexPointer=POINTERS[name])[0] for name in dimensions]
    )
    common, every = _macros(frames[0], ()), []
    data.SharedFunctionalGroupsSequence = _item(**{name: common[name].value for name in shared})
    for f in frames:
        groups = _macros(f, shared)
        values = [f["index"].get(name, 1) for name in dimensions]
        groups.FrameContentSequence = _item(DimensionIndexValues=values, StackID=str(f.get("stack", 1)))
        every.append(groups)
    data.PerFrameFunctionalGroupsSequence = pydicom.Sequence(every)
    _save(path, data, tags)


def _csa(**values):
    """Siemens' private header, of the second kind (nibabel's reader, nicom/csareader.py): names and numbers as text."""
    made = b"SV10\x04\x03\x02\x01" + struct.pack("<2I", len(values), 77)
    for name, (kind, numbers) in values.items():
        made += struct.pack("<64si4s3i", name.encode(), len(numbers), kind.encode(), 0, len(numbers), 77)
        for text in (f"{number}".encode() + b"\0" for number in numbers):
            made += struct.pack("<4i", len(text), len(text), 77, len(text)) + text + bytes(-len(text) % 4)
    return made


def mosaic(path, stored, corner=(-100.0, -90.0, 30.0), orientation=(1, 0, 0, 0, 1, 0), number=1, **tags):
    """stored: (slices, rows, columns) int16, 2.5 mm apart along the normal from `corner`, as Siemens' tiles."""
    count, rows, columns = stored.shape
    across = ceil(sqrt(count))
    tiles = np.zeros((across * rows, across * columns), stored.dtype)
    for i, plane in enumerate(stored):
        top, left = i // across * rows, i % across * columns
        tiles[top : top + rows, left : left + columns] = plane
    data = _image(tiles.shape, CLASSIC_CT, tiles)
    along, down = np.array(orientation[:3], float), np.array(orientation[3:], float)
    # The corner that is written is that of an image as large as the tiles, about the middle of a slice.
    written = corner - along * 0.8 * (across - 1) * columns / 2 - down * 0.7 * (across - 1) * rows / 2
    data.ImageType, data.Modality, data.EchoTime = ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"], "MR", 30
    data.PixelSpacing, data.ImageOrientationPatient = [0.7, 0.8], list(orientation)
    data.ImagePositionPatient, data.InstanceNumber = [float(v) for v in written], number
    data.SliceThickness = data.SpacingBetweenSlices = 2.5
    block = data.private_block(0x29, "SIEMENS CSA HEADER", create=True)
    normal = [f"{v:.8f}" for v in np.cross(along, down)]
    said = {"AcquisitionMatrixText": ("SH", [f"{rows}*{columns}"]), "NumberOfImagesInMosaic": ("US", [count])}
    block.add_new(0x10, "OB", _csa(**said, SliceNormalVector=("FD", normal)))
    _save(path, data, tags)
