"""A batch is cut, moved and joined with its rows together; a reader knows an extent, and a sample its box."""

import json
import pickle
from dataclasses import FrozenInstanceError

import nibabel as nib
import numpy as np
import pytest
import torch
from counted_reads import bytes_read
from faults.faulty_reader import FaultyReader
from PIL import Image

from mae_ext.data.batch import Batch
from mae_ext.data.image.reader import ImageReader
from mae_ext.data.loading.sandbox import Sandbox
from mae_ext.data.sample import Crop, Extent, Sample, extent_of, held, judged, read_checked, verdicts, whole
from mae_ext.data.video.reader import VideoReader
from mae_ext.data.volume.reader import VolumeReader
from mae_ext.errors import BadSample, RunError, UserError
from mae_ext.model.mask import Mask


@pytest.fixture
def batch():
    rows = torch.arange(6)
    return Batch(
        x=rows.view(6, 1, 1, 1).expand(6, 3, 4, 4).float(),
        mask=Mask(rows[:, None] + torch.tensor([0, 10]), rows[:, None] + torch.tensor([20, 30]), (5, 10)),
        valid=(rows % 2 == 0).view(6, 1, 1, 1).expand(6, 1, 4, 4),
        spacing=rows[:, None].expand(6, 2).float(),
        sources=[f"{i}.png" for i in range(6)],
        bad=[{"path": "bad.png"}],
        targets={"classes": rows * 100, "boxes": rows[:, None].expand(6, 4).float()},
    )


def test_rows_of_a_batch_stay_together(batch):
    part = batch.rows(2, 5)
    assert part.x[:, 0, 0, 0].tolist() == part.spacing[:, 0].tolist() == part.mask.keep[:, 0].tolist() == [2, 3, 4]
    assert part.mask.pred.tolist() == [[22, 32], [23, 33], [24, 34]] and part.mask.grid == (5, 10)
    assert part.valid[:, 0, 0, 0].tolist() == [True, False, True]
    assert part.sources == ["2.png", "3.png", "4.png"]
    assert part.targets["classes"].tolist() == [200, 300, 400] and part.targets["boxes"][:, 3].tolist() == [2, 3, 4]


def test_the_parts_of_a_batch_are_the_batch_and_bad_files_are_told_once(batch):
    parts = [batch.rows(i, i + 2) for i in (0, 2, 4)]
    assert torch.equal(torch.cat([part.x for part in parts]), batch.x)
    assert torch.equal(torch.cat([part.mask.keep for part in parts]), batch.mask.keep)
    assert [source for part in parts for source in part.sources] == batch.sources
    assert not any(part.bad for part in parts)


def test_moving_a_batch_moves_every_tensor_and_keeps_the_rest(batch):
    moved = batch.to(torch.device("meta"))
    tensors = (moved.x, moved.valid, moved.spacing, moved.mask.keep, moved.mask.pred, *moved.targets.values())
    assert all(tensor.device.type == "meta" for tensor in tensors)
    assert (moved.sources, moved.bad, moved.mask.grid) == (batch.sources, batch.bad, batch.mask.grid)
    assert batch.x.device.type == "cpu"


def test_what_a_batch_does_not_have_it_does_not_get(batch):
    bare = Batch(batch.x, batch.mask).to(torch.device("cpu")).rows(0, 2)
    assert bare.valid is None and bare.spacing is None and bare.sources == [] and len(bare.x) == 2


def test_samples_crops_and_batches_travel_between_processes(batch):
    crop, sample = Crop((0, 1), (4, 5), (False, True)), Sample(torch.ones(3, 4, 4), "a.png", spacing=(1.0, 2.0))
    assert pickle.loads(pickle.dumps(crop)) == crop
    again = pickle.loads(pickle.dumps(sample))
    assert again.source == "a.png" and again.spacing == (1.0, 2.0) and torch.equal(again.x, sample.x)
    assert torch.equal(pickle.loads(pickle.dumps(batch)).mask.pred, batch.mask.pred)


def test_a_sample_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        Sample(torch.ones(1, 2, 2), "a.png").source = "b.png"


class Gives:
    """A reader that returns, or raises, what it was made with."""

    suffixes = (".x",)

    def __init__(self, outcome):
        self.outcome = outcome

    def read(self, address, crops):
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


def sample(shape=(3, 4, 5), dtype=torch.uint8):
    return Sample(torch.zeros(shape, dtype=dtype), "a.x")


def test_a_reader_is_held_to_its_contract():
    crops = [whole, whole]
    for good in ([sample()] * 2, [sample(), sample(dtype=torch.float32)]):
        assert read_checked(Gives(good), "a.x", crops, (3, 4, 5)) is good
    assert len(read_checked(Gives([sample((1, 9))] * 2), "a.x", crops)) == 2  # of no shape in particular
    for bad in (
        [sample()],
        [sample()] * 3,
        [sample(), sample((3, 5, 4))],
        [sample(), sample((1, 4, 5))],
        [sample(dtype=torch.float64)] * 2,
        [sample(dtype=torch.int32)] * 2,
    ):
        with pytest.raises(
            RunError, match=r"reader Gives gave .* for a\.x; expected 2 x \(3, 4, 5\) in uint8 or float32"
        ):
            read_checked(Gives(bad), "a.x", crops, (3, 4, 5))


def test_what_a_reader_raises_is_the_files_fault_only_where_it_says_so():
    told = BadSample("a.x", "truncated", "3 of 4 bytes")
    with pytest.raises(BadSample) as info:
        read_checked(Gives(told), "a.x", [whole])
    assert info.value is told
    with pytest.raises(BadSample) as info:
        read_checked(Gives(MemoryError("so much")), "a.x", [whole])
    assert (info.value.path, info.value.kind, info.value.detail) == ("a.x", "out of memory", "so much")
    with pytest.raises(RunError, match=r"reader Gives broke on a\.x .*: KeyError\('x'\)"):
        read_checked(Gives(KeyError("x")), "a.x", [whole])
    with pytest.raises(RunError, match="reader Gives broke on"):
        read_checked(Gives([None]), "a.x", [whole])


class Odd(Exception):
    """What a parser raises that nobody thought of."""


class Parser:
    @judged
    def parse(self, address, error=None):
        if error is not None:
            raise error
        return address


@pytest.mark.parametrize(
    "error", [Odd("two\nlines"), AssertionError(), KeyError("x"), RecursionError("deep"), StopIteration()], ids=repr
)
def test_whatever_a_parser_raises_is_a_verdict_that_says_what_and_where(error):
    with pytest.raises(BadSample) as found:
        Parser().parse("a.x", error)
    verdict = found.value
    assert (verdict.path, verdict.kind, verdict.__cause__) == ("a.x", "unreadable", error)
    assert type(error).__name__ in verdict.detail and "test_sample.py:" in verdict.detail and "\n" not in verdict.detail


@pytest.mark.parametrize("error", [MemoryError("9 GB"), RuntimeError("can't allocate memory: 9 GB")], ids=repr)
def test_a_file_that_wants_too_much_memory_is_called_so(error):
    with pytest.raises(BadSample, match="9 GB") as found:
        Parser().parse("a.x", error)
    assert found.value.kind == "out of memory"


@pytest.mark.parametrize(
    "error",
    [BadSample("b", "cut"), UserError("pip"), RunError("stop"), ImportError("av"), KeyboardInterrupt(), SystemExit(1)],
    ids=repr,
)  # fmt: skip
def test_what_is_no_matter_of_the_file_goes_through(error):
    with pytest.raises(type(error)) as found, verdicts("a.x"):
        raise error
    assert found.value is error


def test_a_verdict_names_the_last_line_of_the_package_that_the_error_came_through():
    with pytest.raises(BadSample) as found, verdicts("a.x"):
        Batch(torch.zeros(1)).rows(0, "x")
    assert "raised in batch.py:" in found.value.detail


def test_a_verdict_of_a_reader_of_another_package_names_its_line_and_not_its_librarys():
    with pytest.raises(BadSample) as found, verdicts("a.x"):
        json.loads("{")
    assert "raised in test_sample.py:" in found.value.detail


def test_a_judged_method_keeps_its_name_its_arguments_and_what_it_gives():
    assert Parser().parse("a.x", error=None) == "a.x" and Parser.parse.__name__ == "parse"


def test_an_error_that_is_no_verdict_is_a_bug_of_the_reader_in_one_line():
    with pytest.raises(RunError) as found, held(Parser(), "a.x"):
        raise Odd("two\nlines")
    assert "Parser" in str(found.value) and "a.x" in str(found.value) and "Odd" in str(found.value)
    assert "\n" not in str(found.value)
    with pytest.raises(BadSample, match="out of memory"), held(Parser(), "a.x"):
        raise MemoryError
    for error in (BadSample("b", "cut"), UserError("pip"), RunError("stop")):
        with pytest.raises(type(error)) as found, held(Parser(), "a.x"):
            raise error
        assert found.value is error


def refuse(path):
    raise BadSample(path, "cut", f"in {path}")


def test_a_verdict_on_a_file_with_any_bytes_in_its_name_travels_whole():
    name = b"caf\xe9/\xff.png".decode("utf-8", "surrogateescape")
    with pytest.raises(BadSample) as found, Sandbox(60.0) as box:
        box.call(refuse, name, name=name)
    assert (found.value.path, found.value.detail) == (name, f"in {name}")
    assert json.loads(json.dumps({"path": found.value.path}))["path"] == name


def extents(folder):
    """Reader, address, the extent and the spacing that crops are drawn from."""
    rgb = Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8))
    turned = Image.Exif()
    turned[0x0112] = 6
    rgb.save(folder / "a.png")
    rgb.save(folder / "turned.jpg", exif=turned)
    rgb.save(folder / "turned.png", exif=turned)
    picture = ImageReader((8, 8))
    for name, size in (("a.png", (20, 30)), ("turned.jpg", (30, 20)), ("turned.png", (30, 20))):
        yield picture, str(folder / name), size, None
    np.savez(folder / "rows.npz", train_images=np.zeros((2, 9, 40, 50), np.uint8), train_labels=np.zeros((2, 1)))
    yield VideoReader((4, 16, 16), 1, stride=2), f"{folder}/rows.npz::train_images::1", (6, 40, 50), None
    voxels = np.random.default_rng(0).normal(0, 9, (10, 12, 14)).astype(np.float32)
    nib.Nifti1Image(voxels, np.diag([1, 2, 3, 1])).to_filename(folder / "a.nii.gz")
    yield VolumeReader((4, 4, 4)), str(folder / "a.nii.gz"), (14, 12, 10), (3.0, 2.0, 1.0)
    spaced = VolumeReader((4, 4, 4), spacing=(1.5, 2.0, 2.0))
    yield spaced, str(folder / "a.nii.gz"), (27, 12, 6), (1.5, 2.0, 2.0)


def part(size):
    """All of the first axis and half of the others, the last one turned."""
    return Crop((0,) * len(size), (size[0], *(n // 2 for n in size[1:])), (*(False,) * (len(size) - 1), True))


def test_a_reader_knows_the_extent_that_its_samples_were_cut_from_and_they_know_their_box(tmp_path):
    for reader, address, size, spacing in extents(tmp_path):
        extent = extent_of(reader, address)
        assert (extent.size, extent.spacing) == (size, spacing)
        crops = [part, whole]
        samples = reader.read(address, crops)
        assert [sample.box for sample in samples] == [crop(size) for crop in crops]
        assert all(sample.extent == extent for sample in samples)


def test_an_extent_is_refused_as_the_sample_is(tmp_path):
    (tmp_path / "no.png").write_bytes(b"text, and no picture")
    (tmp_path / "no.nii").write_bytes(b"text, and no scan: " + bytes(400))
    for reader, name, kind in (
        (ImageReader((8, 8)), "no.png", "not an image"), (VolumeReader((4, 4, 4)), "no.nii", "not a scan"),
        (ImageReader((8, 8)), "gone.png", "no such file"), (VolumeReader((4, 4, 4)), "gone.nii", "no such file"),
        (VideoReader((4, 8, 8)), "gone.mp4", "no such file"),
    ):  # fmt: skip
        for ask in (lambda r, a: r.extent(a), lambda r, a: r.read(a, [whole])):
            with pytest.raises(BadSample) as caught:
                ask(reader, str(tmp_path / name))
            assert caught.value.kind == kind


def test_of_a_reader_that_knows_no_extent_it_is_what_crops_are_asked_and_read_for(tmp_path):
    Image.new("RGB", (30, 20)).save(tmp_path / "a.png")
    reader = FaultyReader((8, 8), 3, "bad", "none is called so")
    assert extent_of(reader, str(tmp_path / "a.png")) == Extent.as_stored((20, 30))
    with pytest.raises(BadSample, match="no such file"):
        extent_of(reader, str(tmp_path / "gone.png"))


def test_the_extent_of_a_scan_costs_the_beginning_of_its_file(tmp_path, monkeypatch):
    nib.Nifti1Image(np.zeros((60, 60, 40), np.int16), np.eye(4)).to_filename(tmp_path / "a.nii")
    pytest.importorskip("pydicom", reason="pip install 'mae-ext[dicom]'")
    from data.volume.dicom.dicom_files import series

    planes = np.random.default_rng(0).integers(0, 99, (3, 300, 300), dtype=np.int16)
    series(tmp_path / "ct", planes)
    reader = VolumeReader((4, 4, 4))
    with bytes_read(monkeypatch) as of:
        assert reader.extent(str(tmp_path / "a.nii")).size == (40, 60, 60)
        assert reader.extent(f"{tmp_path}/ct/").size == (3, 300, 300)
    assert of(tmp_path / "a.nii") == 1 << 16 < (tmp_path / "a.nii").stat().st_size
    assert of(tmp_path / "ct" / "001.dcm") == 1 << 16 < (tmp_path / "ct" / "001.dcm").stat().st_size
