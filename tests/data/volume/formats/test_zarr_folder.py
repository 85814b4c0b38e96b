"""A Zarr folder is a scan; of OME-Zarr a level is, with the spacing and the axes that it names."""

import json

import numpy as np
import pytest

from mae_ext.data.sample import whole
from mae_ext.data.sources.cache import source_identity
from mae_ext.data.sources.table import list_items
from mae_ext.data.volume.reader import VolumeReader
from mae_ext.errors import BadSample, UserError

zarr = pytest.importorskip("zarr", reason="zarr is not installed (extra zarr)")

VOXELS = np.random.default_rng(0).integers(0, 1000, (8, 9, 10)).astype(np.uint16)
reader = VolumeReader((8, 9, 10), intensity="none", array_spacing=(3, 1, 2))


def read(address, of=reader):
    (sample,) = of.read(str(address), [whole])
    return sample


def write_ome(path, values, axes, scale, unit="micrometer", version=2, levels=2):
    """values: of level 0; each level is every second voxel along z, y, x of the one before."""
    group = zarr.open_group(str(path), mode="w", zarr_format=version)
    datasets = []
    for level in range(levels):
        every = tuple(slice(None, None, 2**level if axis in "zyx" else 1) for axis in axes)
        group.create_array(f"s{level}", data=values[every], chunks=tuple(min(n, 4) for n in values[every].shape))
        steps = [s * (2**level if axis in "zyx" else 1) for s, axis in zip(scale, axes, strict=True)]
        datasets.append({"path": f"s{level}", "coordinateTransformations": [{"type": "scale", "scale": steps}]})
    kinds = {"t": "time", "c": "channel"}
    named = [{"name": a, "type": kinds.get(a, "space"), **({} if a in kinds else {"unit": unit})} for a in axes]
    multiscales = [{"axes": named, "datasets": datasets, "version": "0.4"}]
    group.attrs.update({"ome": {"multiscales": multiscales}} if version == 3 else {"multiscales": multiscales})
    return str(path)


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("more", [{}, {"compressors": None}, {"shards": (8, 8, 8)}, {"filters": "delta"}])
def test_an_array_of_zarr_is_a_scan_at_the_spacing_of_the_config(tmp_path, version, more):
    if (version == 2 and "shards" in more) or (version == 3 and "filters" in more):
        pytest.skip("only the other version has these")
    if "filters" in more:
        from numcodecs import Delta

        more = {"filters": [Delta("u2")]}
    zarr.create_array(
        str(tmp_path / "a.zarr"), shape=VOXELS.shape, dtype="u2", chunks=(4, 4, 4), zarr_format=version, **more
    )[:] = VOXELS
    assert list(list_items(str(tmp_path), reader.suffixes).addresses) == [str(tmp_path / "a.zarr")]
    sample = read(tmp_path / "a.zarr")
    np.testing.assert_array_equal(sample.x[0].numpy(), VOXELS)
    assert sample.spacing == (3.0, 1.0, 2.0)


@pytest.mark.parametrize("version", [2, 3])
def test_a_level_of_ome_zarr_has_its_own_scale_in_mm(tmp_path, version):
    path = write_ome(tmp_path / "a.ome.zarr", VOXELS, "zyx", (400.0, 200.0, 100.0), version=version)
    assert list(list_items(str(tmp_path), reader.suffixes).addresses) == [path]
    assert list(list_items(path, reader.suffixes).addresses) == [path]
    np.testing.assert_array_equal(read(path).x[0].numpy(), VOXELS)
    np.testing.assert_allclose(read(path).spacing, (0.4, 0.2, 0.1))
    small = VolumeReader((4, 5, 5), intensity="none", dataset="1")
    for address, of in ((f"{path}::1", small), (f"{path}::s1", small), (path, small)):
        sample = read(address, of)
        np.testing.assert_array_equal(sample.x[0].numpy(), VOXELS[::2, ::2, ::2])
        np.testing.assert_allclose(sample.spacing, (0.8, 0.4, 0.2))
    with pytest.raises(BadSample, match="level 7 of 2: there are s0, s1"):
        read(f"{path}::7")


def test_axes_go_by_their_names_and_nanometres_are_no_reason_to_refuse(tmp_path):
    turned = np.stack([VOXELS.transpose(2, 1, 0)] * 2)[None] + np.array([0, 1]).reshape(1, 2, 1, 1, 1).astype("u2")
    path = write_ome(tmp_path / "a.zarr", turned, "tcxyz", (1, 1, 8.0, 4.0, 30.0), "nanometer")
    sample = read(path, VolumeReader((8, 9, 10), channels=2, intensity="none"))
    np.testing.assert_array_equal(sample.x.numpy(), np.stack([VOXELS, VOXELS + 1]))
    np.testing.assert_allclose(sample.spacing, (30e-6, 4e-6, 8e-6))
    half = VolumeReader((15, 9, 10), channels=2, intensity="none", spacing=(16e-6, 4e-6, 8e-6))
    assert half.extent(path).size == (14, 9, 10)


def test_a_time_point_is_named_or_asked_for(tmp_path):
    path = write_ome(
        tmp_path / "a.zarr", np.stack([VOXELS, VOXELS + 5, VOXELS + 7]), "tzyx", (1, 1, 1, 1), "millimeter"
    )
    with pytest.raises(BadSample, match="may be time"):
        read(path)
    np.testing.assert_array_equal(read(f"{path}::0::1").x[0].numpy(), VOXELS + 5)
    middle = VolumeReader((8, 9, 10), intensity="none", time_axis=0, time="middle")
    np.testing.assert_array_equal(read(path, middle).x[0].numpy(), VOXELS + 5)
    with pytest.raises(BadSample, match="no time point 3"):
        read(f"{path}::0::3")


def test_a_zarr_that_changed_is_another_source_wherever_it_changed(tmp_path):
    path = write_ome(tmp_path / "a.zarr", VOXELS, "zyx", (1, 1, 1))
    before = source_identity(path), source_identity(f"{path}::1")
    assert before[0] != before[1] and source_identity(path) == before[0]
    array = zarr.open_array(f"{path}/s0", mode="r+")
    array[3, 3, 3] = 4242
    assert source_identity(path) != before[0]


def test_a_reader_of_photos_passes_a_zarr_over_by_name_and_does_not_list_its_chunks(tmp_path, caplog):
    write_ome(tmp_path / "a.zarr", VOXELS, "zyx", (1, 1, 1))
    (tmp_path / "a.png").write_bytes(b"x")
    assert len(list_items(str(tmp_path), (".png",))) == 1
    assert "1 .zarr (such as a.zarr): where each is a scan, use --reader volume" in caplog.text
    with pytest.raises(UserError, match="use --reader volume"):
        list_items(str(tmp_path / "a.zarr"), (".png",))


@pytest.mark.parametrize(
    ("changed", "kind"),
    [
        ({"compressor": {"id": "bz2", "level": 1}}, "compression"),
        ({"filters": [{"id": "pickle"}]}, "compression"),
        ({"dtype": "|O"}, "data type"),
        ({"dtype": [["a", "<i2"]]}, "data type"),
        ({"shape": [8, 9]}, "header"),
        ({"shape": [-8, 9, 10]}, "header"),
        ({"shape": [80_000, 9000, 10_000]}, "too large"),
        ({"chunks": [1 << 30, 4, 4]}, "too large"),
        ({"shape": [800, 900, 1000], "chunks": [1, 1, 1]}, "too large"),
        ({"chunks": [0, 4, 4]}, "header"),
        ({"shape": "x"}, "header"),
    ],
)
def test_metadata_that_would_take_memory_time_or_code_are_refused(tmp_path, changed, kind):
    zarr.create_array(str(tmp_path / "a.zarr"), shape=VOXELS.shape, dtype="u2", chunks=(4, 4, 4), zarr_format=2)
    file = tmp_path / "a.zarr/.zarray"
    file.write_text(json.dumps(json.loads(file.read_text()) | changed))
    with pytest.raises(BadSample) as refused:
        read(tmp_path / "a.zarr")
    assert refused.value.kind == kind


@pytest.mark.parametrize("version", [2, 3])
def test_channels_of_ome_zarr_are_picked_by_the_names_of_its_omero_block(tmp_path, version):
    values = np.arange(3 * 4 * 5 * 6, dtype=np.int16).reshape(3, 4, 5, 6)
    address = write_ome(tmp_path / "a.zarr", values, "czyx", (1, 1, 1, 1), "millimeter", version)
    group = zarr.open_group(address, mode="a", zarr_format=version)
    omero = {"channels": [{"label": "DAPI"}, {"label": "GFP"}, {"color": "FF0000"}]}
    group.attrs.update({"ome": dict(group.attrs["ome"]) | {"omero": omero}} if version == 3 else {"omero": omero})
    of = VolumeReader((4, 5, 6), channels=2, intensity="none", bands=["gfp", "DAPI"])
    every = VolumeReader((4, 5, 6), channels=3, intensity="none")
    np.testing.assert_array_equal(read(address, of).x.numpy(), read(address, every).x.numpy()[[1, 0]])
    with pytest.raises(BadSample, match="no channel has the name 'RFP'"):
        read(address, VolumeReader((4, 5, 6), channels=1, intensity="none", bands=["RFP"]))
