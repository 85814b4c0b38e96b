"""Fine-tuning on a folder as a PACS exports it, scans and their SEG side by side, and label maps of it."""

import nibabel as nib
import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom", reason="DICOM is an optional extra: pip install 'mae-ext[dicom]'")

from data.volume.dicom.dicom_files import _item, series  # noqa: E402
from data.volume.dicom.label_objects import segmentation  # noqa: E402
from tasks.segment.small_runs import VOLUME  # noqa: E402

from mae_ext.cli import run  # noqa: E402

SHAPE = (12, 11, 10)


@pytest.fixture
def export(tmp_path):
    root = tmp_path / "export"
    root.mkdir()
    for n in range(4):
        inside = np.zeros(SHAPE, bool)
        inside[2 + n % 2 : 8, 3:8, 2:7] = True
        planes = (inside * 500 + np.random.default_rng(n).integers(0, 40, SHAPE)).astype(np.int16)
        uids = {"SeriesInstanceUID": f"1.2.{n}", "FrameOfReferenceUID": f"1.9.{n}", "PatientID": f"P{n}"}
        series(tmp_path / "one", planes, **uids)
        for file in (tmp_path / "one").iterdir():
            file.rename(root / f"IM{n}{file.stem}")
        frames = [(z, 1, plane) for z, plane in enumerate(inside) if plane.any()]
        segmentation(root / f"{n}.seg", frames, ["Box"], ReferencedSeriesSequence=_item(SeriesInstanceUID=f"1.2.{n}"))
    return root


def test_an_export_is_learned_from_by_itself_and_answered_in_the_place_of_its_scans(fine_tune, export, tmp_path, capfd):
    task = {"classes": ["box"], "masks": str(export)}
    assert fine_tune({"volume": VOLUME}, task, export, overrides={"train.steps": 30}) == 0
    assert "4 label maps of" in capfd.readouterr().err
    assert run(["predict", str(tmp_path / "ft"), str(export), "--out", str(tmp_path / "out")]) == 0
    written = sorted((tmp_path / "out").glob("*.nii.gz"))
    assert len(written) == 4 and all(path.name.startswith("export_series=") for path in written)
    for path in written:
        answer = nib.load(path)
        assert answer.shape == SHAPE[::-1]
        np.testing.assert_allclose(np.abs(np.diag(answer.affine))[:3], (0.8, 0.7, 2.5))
        labels = np.asarray(answer.dataobj)
        inside = labels[2:7, 3:8, 3:8].mean()
        assert inside > 0.5 and inside > 2 * (labels.sum() - labels[2:7, 3:8, 2:8].sum()) / (labels.size - 150)
