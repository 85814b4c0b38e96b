"""A file of an array is a scan, its axes D, H, W; of a file that holds several, one is asked for."""

import numpy as np
import pytest
from data.volume.saved_scans import middle

from mae_ext.data.sources.address import fetch
from mae_ext.data.sources.table import list_items
from mae_ext.data.volume.reader import VolumeReader
from mae_ext.errors import BadSample, UserError

VOXELS = np.random.default_rng(0).integers(-1000, 1000, (5, 6, 7)).astype(np.int16)
reader = VolumeReader((5, 6, 7), intensity="none", array_spacing=(3, 1, 2))


def read(address, of=reader):
    (sample,) = of.read(str(address), [middle((5, 6, 7))])
    return sample


@pytest.mark.parametrize("dtype", [np.int16, ">f4", np.float64, np.bool_])
@pytest.mark.parametrize("order", ["C", "F"])
def test_a_npy_file_is_a_scan_at_the_spacing_of_the_config(tmp_path, dtype, order):
    voxels = np.asarray(VOXELS > 0 if dtype == np.bool_ else VOXELS, dtype, order=order)
    np.save(tmp_path / "a.npy", voxels)
    assert list(list_items(str(tmp_path), reader.suffixes).addresses) == [str(tmp_path / "a.npy")]
    sample = read(tmp_path / "a.npy")
    np.testing.assert_array_equal(sample.x[0].numpy(), voxels.astype(np.float32))
    assert sample.spacing == (3.0, 1.0, 2.0)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_npz_file_is_a_scan_and_one_in_medmnist_layout_is_rows(tmp_path, save):
    save(tmp_path / "a.npz", data=VOXELS, age=np.array(7))
    assert list(list_items(str(tmp_path / "a.npz"), reader.suffixes).addresses) == [str(tmp_path / "a.npz")]
    np.testing.assert_array_equal(read(tmp_path / "a.npz").x[0].numpy(), VOXELS)
    save(tmp_path / "a.npz", data=VOXELS, other=VOXELS + 1)
    with pytest.raises(BadSample, match=r"2 arrays may be the scan: data, other; say which: reader\.dataset=NAME"):
        read(tmp_path / "a.npz")
    np.testing.assert_array_equal(read(f"{tmp_path}/a.npz::other").x[0].numpy(), VOXELS + 1)
    of = VolumeReader((5, 6, 7), intensity="none", dataset="other")
    np.testing.assert_array_equal(read(tmp_path / "a.npz", of).x[0].numpy(), VOXELS + 1)
    save(tmp_path / "a.npz", train_images=VOXELS[None])
    assert list(list_items(str(tmp_path / "a.npz"), reader.suffixes).addresses) == [
        f"{tmp_path}/a.npz::train_images::0"
    ]


@pytest.mark.parametrize("packing", [{}, {"compression": "gzip", "shuffle": True}, {"compression": "lzf"}])
def test_a_dataset_of_hdf5_is_a_scan_and_its_attribute_its_spacing(tmp_path, packing):
    h5py = pytest.importorskip("h5py", reason="h5py is not installed (extra hdf5)")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("scans/ct", data=VOXELS, **packing)
        file["scans/ct"].attrs["element_size_um"] = [2000, 500, 250]
    assert list(list_items(str(tmp_path), reader.suffixes).addresses) == [str(tmp_path / "a.h5")]
    for address in (tmp_path / "a.h5", f"{tmp_path}/a.h5::scans/ct"):
        sample = read(address)
        np.testing.assert_array_equal(sample.x[0].numpy(), VOXELS)
        assert sample.spacing == (2.0, 0.5, 0.25)
    assert list(list_items(f"{tmp_path}/a.h5::scans/ct", reader.suffixes).addresses) == [f"{tmp_path}/a.h5::scans/ct"]


def test_rows_of_a_dataset_are_samples_of_any_reader(tmp_path):
    h5py = pytest.importorskip("h5py", reason="h5py is not installed (extra hdf5)")
    many = np.stack([VOXELS, VOXELS + 1])
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = many
    rows = list_items(f"{tmp_path}/a.h5::x", reader.suffixes)
    assert list(rows.addresses) == [f"{tmp_path}/a.h5::x::0", f"{tmp_path}/a.h5::x::1"]
    np.testing.assert_array_equal(read(rows.addresses[1]).x[0].numpy(), many[1])
    np.testing.assert_array_equal(fetch(list_items(f"{tmp_path}/a.h5::x", (".png",)).addresses[1], 1 << 20), many[1])
    with pytest.raises(BadSample, match="truncated"):
        read(f"{tmp_path}/a.h5::x::2")
    with pytest.raises(UserError, match="Name it as"):
        list_items(f"{tmp_path}/a.h5", (".png",))
    with pytest.raises(UserError, match="'y' is none of its datasets of numbers: x"):
        list_items(f"{tmp_path}/a.h5::y", reader.suffixes)


def test_values_that_lie_in_other_files_than_the_hdf5_itself_are_not_read(tmp_path):
    h5py = pytest.importorskip("h5py", reason="h5py is not installed (extra hdf5)")
    (tmp_path / "secret").write_bytes(bytes(1000))
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["x"] = VOXELS
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("external", (5, 10, 20), "u1", external=[(str(tmp_path / "secret"), 0, 1000)])
        file["link"] = h5py.ExternalLink(str(tmp_path / "b.h5"), "x")
        layout = h5py.VirtualLayout((5, 6, 7), "i2")
        layout[:] = h5py.VirtualSource(str(tmp_path / "b.h5"), "x", (5, 6, 7))
        file.create_virtual_dataset("virtual", layout)
    for name in ("external", "link", "virtual"):
        with pytest.raises(BadSample, match=r"header.*(other files|another file)"):
            read(f"{tmp_path}/a.h5::{name}")


def test_what_is_no_number_is_no_scan_and_nothing_is_unpickled(tmp_path):
    np.save(tmp_path / "a.npy", np.array([[["x", {}]]], object), allow_pickle=True)
    np.savez(tmp_path / "a.npz", x=np.array([[["x", {}]]], object))
    for name, kind in (("a.npy", "data type"), ("a.npz", "no such array")):
        with pytest.raises(BadSample) as refused:
            read(tmp_path / name)
        assert refused.value.kind == kind


def test_channels_of_hdf5_are_picked_by_the_names_of_an_attribute(tmp_path):
    h5py = pytest.importorskip("h5py", reason="h5py is not installed (extra hdf5)")
    both = np.stack([VOXELS, VOXELS + 1])
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = both
        file["x"].attrs["channel_names"] = ["CT", "PET"]
    options = {"channels": 1, "intensity": "none", "channel_axis": 0}
    of = VolumeReader(VOXELS.shape, bands=["pet"], **options)
    np.testing.assert_array_equal(read(tmp_path / "a.h5", of).x[0].numpy(), VOXELS + 1)
    for names in (["CT", "PET", "MR"], [1, 2], "CT"):
        with h5py.File(tmp_path / "a.h5", "a") as file:
            file["x"].attrs["channel_names"] = names
        with pytest.raises(
            BadSample, match=r"no channel has the name 'pet' \(names: none; take them by number, 0 to 1"
        ):
            read(tmp_path / "a.h5", of)
