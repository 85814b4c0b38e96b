"""Separate files of one case are the channels of one sample, if their voxels are at the same places."""

import nibabel as nib
import numpy as np
import pytest
from data.volume.saved_scans import save

from mae_ext.data.case_names import names_of
from mae_ext.data.labelmap import stem
from mae_ext.data.sample import whole
from mae_ext.data.sources.table import list_items
from mae_ext.data.volume.reader import VolumeReader
from mae_ext.engine.outputs import result_paths
from mae_ext.errors import BadSample, UserError
from mae_ext.tasks.segment.pairs import maps_of

SHAPE = (5, 6, 7)
PLACE = np.array([[0.8, 0, 0, -25], [0, 0.9, 0, -22], [0, 0, 2.5, 10], [0, 0, 0, 1.0]])
BRATS = ("{case}_t1.nii.gz", "{case}_t2.nii.gz")
NNUNET = ("{case}_0000.nii.gz", "{case}_0001.nii.gz")


def values(seed, dtype=np.int16):
    return np.random.default_rng(seed).integers(1, 1000, SHAPE).astype(dtype)


def reader(case, channels=2, **more):
    return VolumeReader(SHAPE, **({"channels": channels, "case": case, "intensity": "none"} | more))


def read(address, of):
    (sample,) = of.read(str(address), [whole])
    return sample.x.numpy()


def write(folder, case, patterns=BRATS, affine=PLACE):
    for number, pattern in enumerate(patterns):
        path = folder / pattern.replace("{case}", case)
        path.parent.mkdir(parents=True, exist_ok=True)
        save(path, values(number), affine)
    return folder / patterns[0].replace("{case}", case)


@pytest.mark.parametrize(
    "patterns",
    [
        BRATS,
        NNUNET,
        ("{case}/t1.nii.gz", "{case}/t2.nii.gz"),
        ("{case}/{case}-t1c.nii.gz", "{case}/{case}-t2f.nii.gz"),
        ("t1/{case}.nii.gz", "t2/{case}.nii.gz"),
    ],
)
def test_files_of_a_case_are_its_channels_in_the_order_of_the_patterns(tmp_path, patterns, caplog):
    for case in ("a_1", "b"):
        write(tmp_path, case, patterns)
    of = reader(patterns)
    items = list_items(str(tmp_path), of.suffixes)
    assert len(items) == 2 and items.labels is None and not caplog.messages
    assert [stem(address, of.suffixes) for address in items.addresses] == ["a_1", "b"]
    x = read(items.addresses[0], of)
    np.testing.assert_array_equal(x, np.stack([values(0), values(1)]))
    swapped = reader(patterns[::-1])
    other = list_items(str(tmp_path), swapped.suffixes).addresses[0]
    np.testing.assert_array_equal(read(other, swapped), x[::-1])


def test_a_folder_above_the_cases_is_their_class(tmp_path):
    for kind, case in (("gbm", "a"), ("met", "b")):
        write(tmp_path / kind, case, ("{case}/t1.nii.gz", "{case}/t2.nii.gz"))
    items = list_items(str(tmp_path), reader(("{case}/t1.nii.gz", "{case}/t2.nii.gz")).suffixes)
    assert items.classes == ("gbm", "met") and items.labels.tolist() == [0, 1]


def test_files_on_one_lattice_may_be_stored_along_other_axes_and_in_other_numbers(tmp_path):
    first = save(tmp_path / "a_t1.nii.gz", values(0), PLACE)
    second = nib.Nifti1Image(np.moveaxis(values(1), (0, 1, 2), (2, 1, 0)).astype(np.float32) / 4, PLACE)
    turned = second.as_reoriented(nib.orientations.axcodes2ornt("PIR", labels=(("L", "R"), ("P", "A"), ("I", "S"))))
    turned.header.set_data_dtype(np.int16)
    turned.header.set_slope_inter(0.25, 0)
    nib.Nifti1Image(np.asanyarray(turned.dataobj), turned.affine, turned.header).to_filename(tmp_path / "a_t2.nii.gz")
    assert nib.load(tmp_path / "a_t2.nii.gz").shape != nib.load(first).shape
    np.testing.assert_allclose(read(first, reader(BRATS)), np.stack([values(0), values(1) / 4]), atol=0.13)


def test_a_case_whose_files_lie_elsewhere_or_lack_one_is_named(tmp_path):
    first = write(tmp_path, "a")
    moved = PLACE.copy()
    moved[0, 3] += 0.02
    save(tmp_path / "a_t2.nii.gz", values(1), moved)
    with pytest.raises(BadSample, match=r"lattice.*case 'a'.*a_t2\.nii\.gz lies up to 0\.02 mm from the first file"):
        read(first, reader(BRATS))
    moved[0, 3] -= 0.015
    save(tmp_path / "a_t2.nii.gz", values(1), moved)
    read(first, reader(BRATS))
    save(tmp_path / "a_t2.nii.gz", values(1)[:4], PLACE)
    with pytest.raises(BadSample, match=r"lattice.*has 4 x 6 x 7 voxels, the first file 5 x 6 x 7"):
        read(first, reader(BRATS))
    (tmp_path / "a_t2.nii.gz").unlink()
    for of in (reader(BRATS), reader(BRATS, cache=str(tmp_path / "cache"))):
        with pytest.raises(BadSample) as refused:
            read(first, of)
        assert refused.value.kind == "missing file" and "a_t2.nii.gz" in refused.value.detail
        assert refused.value.path == str(first)


def test_what_is_no_first_file_of_a_case_is_named_by_the_listing(tmp_path, caplog):
    write(tmp_path, "a")
    save(tmp_path / "a_seg.nii.gz", values(3))
    save(tmp_path / "b_t2.nii.gz", values(3))
    assert len(list_items(str(tmp_path), reader(BRATS).suffixes)) == 1
    assert "1 files of no case (such as a_seg.nii.gz)" in caplog.text
    assert "1 files of cases without their first file (such as b_t2.nii.gz)" in caplog.text
    (tmp_path / "list.txt").write_text("a_t1.nii.gz\n")
    assert list(list_items(str(tmp_path / "list.txt"), BRATS).addresses) == [str(tmp_path / "a_t1.nii.gz")]
    (tmp_path / "list.txt").write_text("a_t1.nii.gz\na_t2.nii.gz\n")
    with pytest.raises(UserError, match="1 of 2 are no first files of a case"):
        list_items(str(tmp_path / "list.txt"), BRATS)
    assert len(list_items(str(tmp_path / "a_t1.nii.gz"), BRATS)) == 1
    with pytest.raises(UserError, match="no file of the pattern"):
        list_items(str(tmp_path), ("{case}_flair.nii.gz",))


@pytest.mark.parametrize(
    "case", ["t1.nii.gz", "{case}.txt", "../{case}.nii", "/{case}.nii", ["{case}.nii", "{case}.nii"]]
)
def test_patterns_that_mean_nothing_are_refused(case):
    with pytest.raises(ValueError, match="case"):
        reader(case)


def test_each_file_of_a_case_counts_in_the_cache(tmp_path):
    first = write(tmp_path / "scans", "a")
    of = reader(BRATS, cache=str(tmp_path / "cache"))
    np.testing.assert_array_equal(read(first, of), np.stack([values(0), values(1)]))
    save(tmp_path / "scans/a_t2.nii.gz", values(7), PLACE)
    np.testing.assert_array_equal(read(first, of), np.stack([values(0), values(7)]))


def test_intensity_is_measured_for_each_file_of_a_case(tmp_path):
    save(tmp_path / "a_t1.nii.gz", values(0), PLACE)
    save(tmp_path / "a_t2.nii.gz", values(1).astype(np.float32) * 37 + 5000, PLACE)
    x = read(tmp_path / "a_t1.nii.gz", reader(BRATS, intensity="zscore"))
    np.testing.assert_allclose(x.mean((1, 2, 3)), 0, atol=1e-4)
    np.testing.assert_allclose(x.std((1, 2, 3)), 1, atol=1e-4)


def test_label_maps_and_predictions_go_by_the_case(tmp_path):
    first = write(tmp_path / "images", "a", NNUNET)
    labels = tmp_path / "labels"
    labels.mkdir()
    save(labels / "a.nii.gz", (values(0) > 500).astype(np.uint8), PLACE)
    of = reader(NNUNET)
    items = list_items(str(tmp_path / "images"), of.suffixes)
    assert maps_of(items, str(labels), of.suffixes) == [str(labels / "a.nii.gz")]
    assert maps_of(items, f"{tmp_path}/labels/{{case}}.nii.gz", of.suffixes) == [str(labels / "a.nii.gz")]
    with pytest.raises(UserError, match="1 of 1 samples have no label map"):
        maps_of(items, f"{tmp_path}/labels/{{case}}_seg.nii.gz", of.suffixes)
    found = of.label_map(str(labels / "a.nii.gz"), like=str(first))
    np.testing.assert_array_equal(found, values(0) > 500)
    (path,) = result_paths(list(items.addresses), of.suffixes, tmp_path / "out", ".nii.gz")
    assert path == tmp_path / "out/a.nii.gz"
    of.write_labels(found, str(first), tmp_path / "back.nii.gz")
    np.testing.assert_allclose(nib.load(tmp_path / "back.nii.gz").affine, PLACE, atol=1e-6)


def test_a_case_is_described_with_its_channels(tmp_path):
    first = write(tmp_path, "a")
    assert reader(BRATS).describe(str(first)).startswith("case of 2 NIfTI-1 int16 7x6x5x2, 0.8 x 0.9 x 2.5 mm, RAS")


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        (BRATS, ("t1", "t2")),
        (NNUNET, ("0000", "0001")),
        (("t1/{case}.nii.gz", "t2/{case}.nii.gz"), ("t1", "t2")),
        (("raw/{case}/{case}-t1c_n4.nii.gz", "raw/{case}/{case}-t2f_n4.nii.gz"), ("t1c", "t2f")),
        (("{case}_t1.nii.gz", "{case}_t1_gd.nii.gz", "{case}_flair.mha"), ("t1", "t1_gd", "flair")),
        (("{case}_ct.nii.gz",), ("ct",)),
    ],
)
def test_channels_are_called_as_their_files_are_beside_the_case(patterns, names):
    assert names_of(patterns) == names


def test_channels_of_a_case_are_picked_by_name(tmp_path):
    first = write(tmp_path, "a_1")
    both = read(first, reader(BRATS))
    np.testing.assert_array_equal(read(first, reader(BRATS, bands=["t2", "T1"])), both[::-1])
    np.testing.assert_array_equal(read(first, reader(BRATS, channels=1, bands=["t2"])), both[1:])
    with pytest.raises(BadSample, match=r"no channel has the name 't3' \(names: t1, t2\)"):
        read(first, reader(BRATS, bands=["t1", "t3"]))


def test_a_file_of_several_channels_in_a_case_has_a_name_for_each(tmp_path):
    save(tmp_path / "a_t1.nii.gz", values(0), PLACE)
    nib.Nifti1Image(np.stack([values(1).T, values(2).T], -1), PLACE).to_filename(tmp_path / "a_t2.nii.gz")
    of = reader(BRATS, channels=3, channel_axis=3)
    assert of.formats.declared(str(tmp_path / "a_t1.nii.gz")).names == ("t1", "t2_0", "t2_1")
