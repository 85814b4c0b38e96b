"""`data.channels`: which channels a run sees, in every place that reads, keeps, counts or says them."""

import nibabel as nib
import numpy as np
import pytest
import tifffile
import torch
from good_config import changed

from mae_ext.config import load_config, parse_config
from mae_ext.data.crops import evaluation_sampler
from mae_ext.data.loading.batches import build_reader
from mae_ext.data.loading.doctor import as_config, inspect
from mae_ext.data.loading.statistics import measure
from mae_ext.data.sample import whole
from mae_ext.data.sources.table import list_items
from mae_ext.data.volume.reader import VolumeReader
from mae_ext.errors import BadSample, ConfigError

AXES = {"modalities__image__channels": 2, "modalities__image__data__statistics": "measured"}


def config_of(channels, count=2, **values):
    own = {"modalities__image__channels": count, "modalities__image__data__channels": channels}
    return parse_config(changed(**AXES | values | own))


def test_they_are_said_to_the_reader_and_are_written_down_there_alone(tmp_path):
    config = config_of([3, "red"])
    assert config.modalities["image"].data.reader.arguments == {"bands": [3, "red"]}
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    again = load_config(tmp_path / "config.yaml")
    assert again == config
    other = load_config(tmp_path / "config.yaml", ["modalities.image.data.channels=[1, 0]"])
    assert other.modalities["image"].data.reader.arguments == {"bands": [1, 0]}


@pytest.mark.parametrize(
    ("channels", "count", "said"),
    [
        ([0, 1, 2], 2, "are 3, and channels=2"),
        ([0], 2, "are 1, and channels=2"),
        ([-1, 0], 2, "greater than or equal to 0"),
        ([], 2, "at least 1 item"),
        ([0.5, 1], 2, "channels"),
    ],
)
def test_as_many_as_the_model_has_are_asked_for_before_any_work(channels, count, said):
    with pytest.raises(ConfigError) as caught:
        config_of(channels, count)
    assert said in str(caught.value) and "modalities.image.data.channels" in str(caught.value)


def test_of_a_reader_that_picks_none_they_are_refused_by_name():
    with pytest.raises(ConfigError, match=r"data\.channels: reader 'video' picks none"):
        config_of([0, 1], modalities__image__data__reader={"name": "video"})


def test_statistics_verdicts_and_the_reader_itself_go_by_them(tmp_path):
    pixels = np.stack([np.full((32, 48), 100 * i, np.uint16) for i in range(4)], -1)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="minisblack", planarconfig="contig")
    image = config_of([3, 1]).modalities["image"]
    reader, items = build_reader(image, "here"), list_items(str(tmp_path), (".tif",))
    numbers = measure(items, reader, evaluation_sampler(image.data.augment, image.size))
    assert numbers.mean == pytest.approx([300 / 65535, 100 / 65535])
    (verdict,) = inspect([str(tmp_path)], **as_config(config_of([3, 1]), "image", "doctor"))
    (wrong,) = inspect([str(tmp_path)], **as_config(config_of([3, 7]), "image", "doctor"))
    assert verdict.ok and wrong.kind == "channels" and "bands 0 to 3, and bands=[3, 7]" in wrong.detail


def test_of_a_scan_they_are_those_along_its_channel_axis_and_the_cache_knows_them(tmp_path):
    voxels = np.random.default_rng(0).integers(0, 900, (10, 9, 8, 3)).astype(np.int16)
    nib.nifti1.Nifti1Image(voxels, np.eye(4)).to_filename(tmp_path / "a.nii")

    def read(bands, channels, **options):
        reader = VolumeReader((8, 9, 10), channels, intensity="none", channel_axis=3, bands=bands, **options)
        return reader.read(str(tmp_path / "a.nii"), [whole])[0].x

    everything = read(None, 3)
    assert everything.shape == (3, 8, 9, 10)
    kept = {"cache": str(tmp_path / "kept")}
    for options in ({}, kept, kept):
        assert torch.equal(read([2, 0], 2, **options), everything[[2, 0]])
        assert torch.equal(read([0, 2], 2, **options), everything[[0, 2]])
    with pytest.raises(BadSample, match=r"3 channels, which are bands 0 to 2, and bands=\[3\]"):
        read([3], 1)
    with pytest.raises(BadSample, match="no channel has the name 't1'"):
        read(["t1"], 1)


def test_windows_of_a_ct_are_of_the_one_channel_that_is_picked():
    windows = {"name": "window", "windows": [[0, 80], [-100, 300]]}
    assert VolumeReader((8, 8, 8), 2, intensity=windows, channel_axis=3, bands=[1]).bands == (1,)
    with pytest.raises(ValueError, match="are 2, and channels that the model has of the scan=1"):
        VolumeReader((8, 8, 8), 2, intensity=windows, channel_axis=3, bands=[0, 1])
