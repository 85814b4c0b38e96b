"""What can mislead of a scan that can be read: sides that are not said, places that contradict each other, a lean."""

from collections.abc import Callable, Sequence

import numpy as np

from mae_ext.data.plan import spread
from mae_ext.data.sources.path_table import PathTable
from mae_ext.data.volume.geometry import apart, lean, orientation
from mae_ext.data.volume.scan import Declared
from mae_ext.errors import BadSample, some

LEANS = 0.1
"""Degrees. Less is what headers with three or four digits leave of right angles."""

ITK_LEANS = 0.0057
"""Degrees, a cosine of 1e-4: a sform that leans by more is none to ITK (found with SimpleITK 2.5.7)."""

CONTRADICT = 0.1
"""Of a voxel at a corner: rounding of either form is less."""

LOOKED_AT = 1024
"""Scans of a source, spread over it, whose headers are asked for left and right."""


def doubts(scan: Declared) -> list[str]:
    """A clause each, for people; none of an ordinary scan. Of a header that has been checked."""
    clauses, degrees = [], lean(scan.affine)
    if scan.resampled:
        clauses.append(f"resampled: {scan.resampled}")
    if not scan.sided:
        code = orientation(scan.affine).code
        if scan.format == "Analyze":
            clauses.append(
                f"says nothing of left and right, as no Analyze file does: read as {code}, as nibabel, SPM and FSL do; "
                f"software on ITK reads it as {orientation(scan.other).code if scan.other is not None else code}"
            )
        elif scan.other is None:
            clauses.append(f"says nothing of left and right (no good RAS flag): read as {code}, as FreeSurfer does")
        else:
            clauses.append(
                f"says nothing of left and right (sform and qform code 0): read as {code}, as nibabel and FSL do; "
                f"software on ITK reads it as {orientation(scan.other).code}"
            )
    if degrees >= LEANS:
        clauses.append(f"its voxel axes lean by {degrees:.1f} degrees, as under a tilted gantry")
    if scan.format == "MINC":
        clauses.append(
            "placed as MINC means it, and as nibabel does; software on ITK turns it by 180 degrees, right for left and "
            "front for back, as it turns the MINC files that it writes"
        )
    if scan.nifti is not None and scan.sided:
        if scan.other is not None:
            clauses += _contradiction(scan, degrees)
        elif degrees > ITK_LEANS and int(scan.nifti["sform_code"]) > 0:
            clauses.append(
                f"a sform that leans by {degrees:.3g} degrees and no qform: software on ITK opens neither it nor a "
                f"prediction for it"
            )
    return clauses


def _contradiction(scan: Declared, degrees: float) -> list[str]:
    assert scan.other is not None
    shape = tuple(scan.shape[a] for a in scan.spatial)
    if not np.isfinite(scan.other).all():
        return ["its qform is damaged: the sform is taken, and software on ITK may take the qform"]
    between = apart(scan.affine, scan.other, shape)
    if between.voxels <= CONTRADICT:
        return []
    other = int(scan.nifti["sform_code"]) != 1 or degrees > ITK_LEANS
    itk = "software on ITK takes the qform" if other else "as does software on ITK"
    return [f"sform and qform lie up to {between.mm:.3g} mm apart: the sform is taken, as nibabel and FSL do; {itk}"]


def one_sided(sided: Callable[[str], bool], addresses: PathTable | Sequence[str]) -> str | None:
    """A warning that counts the scans that say nothing of left and right, or None. sided: whether a file says it."""
    unsaid, looked_at = [], spread(len(addresses), LOOKED_AT)
    for address in (addresses[index] for index in looked_at):
        try:
            if not sided(address):
                unsaid.append(address)
        except BadSample:  # whoever reads it says so
            continue
    if not unsaid:
        return None
    return (
        f"{len(unsaid)} of {len(looked_at)} scans that were looked at say nothing of left and right (a NIfTI does so "
        f"by sform and qform code 0), so which side is which is a guess: {some(unsaid)}; `mae-ext doctor` says how "
        f"each is read"
    )
