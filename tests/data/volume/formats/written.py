"""One oblique scan, written in each format by that format's own library."""

import numpy as np
import pytest

SHAPE = (7, 6, 5)
TURN = np.array([[0.9, -0.3, 0.316], [0.349, 0.929, -0.119], [-0.258, 0.217, 0.941]])
DIRECTION = np.linalg.qr(TURN)[0]
SPACING, ORIGIN = (0.8, 1.25, 2.5), (-20.5, 31.25, 7.0)


def numbered(dtype=np.int16, shape=SHAPE):
    """(x, y, z): no two voxels alike."""
    return (np.arange(np.prod(shape)).reshape(shape[::-1]).T % 250).astype(dtype)


def itk(dtype=np.int16, shape=SHAPE, parts=1):
    """A SimpleITK image that stands obliquely in the scanner."""
    sitk = pytest.importorskip("SimpleITK", reason="SimpleITK is not installed (extra dev)")
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    image = sitk.GetImageFromArray(numbered(dtype, shape).T)
    image = sitk.Compose([image + part for part in range(parts)]) if parts > 1 else image
    image.SetSpacing(SPACING)
    image.SetOrigin(ORIGIN)
    image.SetDirection(DIRECTION.ravel().tolist())
    return image


def write_itk(image, path, compressed=False):
    import SimpleITK

    SimpleITK.WriteImage(image, str(path), compressed)
    return str(path)


def cut_at(path, share=0.5):
    """The file without its end."""
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
