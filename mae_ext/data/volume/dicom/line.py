"""One line on a series, as who runs the scanner would read it: whose, what, how, how much, and what values."""

import numpy as np

from mae_ext.data.sources.dicom.said import clause
from mae_ext.data.volume.foreground import MOST_VALUES, body_mask, scaled, spread_over, usable
from mae_ext.data.volume.scan import Declared
from mae_ext.errors import BadSample, UserError

CT_AIR = -500.0
"""HU, between lung and what is outside; of everything else Otsu's threshold parts the body from air."""

ENDS = (1, 99)
"""Per cent of the body's voxels that lie below the values that are told."""


def described(address: str, scan: Declared) -> str:
    """ "DICOM series int16 512x512x120, 0.7 x 0.7 x 2.5 mm, LPS; patient 3fa9c12e, CT CHEST, kernel B30f, -95 to 310 in
    the body (HU)"; of any other format what its header says. Raises BadSample."""
    if not scan.format.startswith("DICOM"):
        return str(scan)
    try:
        whose = clause(address)
    except (OSError, UserError):
        whose = ""
    ct = ", CT" in whose
    return "; ".join(filter(None, (str(scan), ", ".join(filter(None, (whose, _values(scan, ct)))))))


def _values(scan: Declared, ct: bool) -> str:
    voxels = scan.load()
    if voxels.ndim > 3:
        voxels = voxels[0]
    step = max(1, round((voxels.size / MOST_VALUES) ** (1 / 3)))
    few = voxels[::step, ::step, ::step]
    measured = ~np.ma.getmaskarray(few)
    plain = np.ma.getdata(few)
    values = scaled(plain, scan.slope, scan.inter)
    measured &= usable(values)
    try:
        inside = body_mask(plain[None], scan.slope, scan.inter, measured, CT_AIR if ct else "otsu") & measured
    except (ValueError, IndexError, BadSample):
        inside = measured
    if not inside.any():
        inside = measured
    if not inside.any():
        return ""
    low, high = np.percentile(values[inside][spread_over(int(inside.sum()))], ENDS)
    return f"{low:.4g} to {high:.4g} in the body{' (HU)' * ct}"
