"""Statistics: exact, in reader units, deterministic, and unbothered by bad files."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mae_ext.config import Config, Statistics
from mae_ext.data.crops import center_sampler
from mae_ext.data.image.reader import ImageReader
from mae_ext.data.loading.statistics import IMAGENET, Moments, measure, resolve_statistics
from mae_ext.data.plan import spread
from mae_ext.data.sample import CropSampler, Sample
from mae_ext.data.sources.table import Items, PathTable, list_items
from mae_ext.errors import BadSample, ConfigError, UserError
from mae_ext.progress import watched_by


class Tensors:
    """A reader whose address is a row of a list of tensors; None is a bad file."""

    suffixes: tuple[str, ...] = ()

    def __init__(self, rows: list[torch.Tensor | None], valid: torch.Tensor | None = None) -> None:
        self.rows, self.valid, self.seen = rows, valid, list[int]()

    def read(self, address: str, crops: Sequence[CropSampler]) -> list[Sample]:
        self.seen.append(int(address))
        x = self.rows[int(address)]
        if x is None:
            raise BadSample(address, "empty")
        return [Sample(x, address, self.valid) for _ in crops]

    def items(self) -> Items:
        return Items(PathTable(map(str, range(len(self.rows)))))


def statistics_of(reader: Tensors, **options: Any) -> Statistics:
    return measure(reader.items(), reader, center_sampler((8, 8)), **options)


def test_of_images_are_those_of_all_their_pixels(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (7, 8, 8, 3), dtype=np.uint8) // [1, 2, 4]
    for i, image in enumerate(pixels.astype(np.uint8)):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    reader = ImageReader((8, 8), 3)
    found = measure(list_items(str(tmp_path), reader.suffixes), reader, center_sampler((8, 8)))
    np.testing.assert_allclose(found.mean, (pixels / 255).mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(found.std, (pixels / 255).std((0, 1, 2)), rtol=1e-12)


@pytest.mark.parametrize("offset", [0.0, 1e4, -3e6])
def test_an_offset_costs_no_digits(offset: float) -> None:
    rows = [torch.randn(2, 5, 6, 7, generator=torch.Generator().manual_seed(i)) + offset for i in range(20)]
    found = statistics_of(Tensors(list(rows)))
    everything = torch.stack(rows).double()
    np.testing.assert_allclose(found.mean, everything.mean((0, 2, 3, 4)), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(found.std, everything.std((0, 2, 3, 4), correction=0), rtol=1e-9)


def test_only_valid_voxels_count() -> None:
    x, valid = torch.full((2, 4, 4), 99.0), torch.zeros(1, 4, 4, dtype=torch.bool)
    x[:, 1, :2], valid[:, 1, :2] = torch.tensor([1.0, 3.0]), True
    found = statistics_of(Tensors([x], valid))
    assert found == Statistics(mean=(2.0, 2.0), std=(1.0, 1.0))


def test_a_constant_channel_is_centred_and_not_blown_up() -> None:
    x = torch.stack([torch.full((8, 8), 0.1), torch.zeros(8, 8), torch.arange(64.0).view(8, 8)])
    found = statistics_of(Tensors([x, x]))
    assert found.std[:2] == (1.0, 1.0) and found.std[2] == pytest.approx(18.47, abs=0.01)
    assert found.mean[0] == pytest.approx(0.1)


@pytest.mark.parametrize("level", [-1024.0, -0.1, 0.0, 0.3, 3e6])
def test_a_channel_is_constant_at_any_level_and_beside_one_that_is_not(level: float) -> None:
    spread = torch.arange(48.0).view(1, 3, 4, 4) - 20
    found = statistics_of(Tensors([torch.cat([torch.full((1, 3, 4, 4), level), spread])] * 3))
    assert found.mean == pytest.approx((level, 3.5)) and found.std == (
        1.0,
        pytest.approx(float(spread.std(correction=0))),
    )


def test_a_weak_channel_is_not_called_constant() -> None:
    assert statistics_of(Tensors([torch.tensor([[[0.5, 0.5001]]])])).std[0] == pytest.approx(5e-5, rel=1e-2)


@pytest.mark.parametrize(("total", "count"), [(10, 10), (3, 10), (10, 3), (1000, 7), (1, 1)])
def test_files_are_taken_evenly_from_the_whole_list(total: int, count: int) -> None:
    chosen = spread(total, count)
    assert len(chosen) == len(set(chosen)) == min(total, count)
    assert chosen[0] == 0 and chosen[-1] >= total - total / len(chosen) - 1 and chosen == sorted(chosen)
    gaps = np.diff([*chosen, total])
    assert gaps.max() - gaps.min() <= 1


def test_the_same_list_gives_the_same_numbers() -> None:
    rows = list(torch.rand(50, 3, 8, 8, generator=torch.Generator().manual_seed(0)))
    one, two = Tensors(list(rows)), Tensors(list(rows))
    assert statistics_of(one, count=16) == statistics_of(two, count=16)
    assert one.seen == two.seen and len(one.seen) == 16


def test_bad_files_are_passed_over_counted_and_reported(caplog: pytest.LogCaptureFixture) -> None:
    x, heard = torch.rand(3, 8, 8), []
    found = statistics_of(Tensors([None, x, None, x]), name="photos", on_bad=heard.append)
    assert found == statistics_of(Tensors([x, x]))
    assert [error.path for error in heard] == ["0", "2"]
    assert "photos: 2 of 4 files" in caplog.text and "0: empty" in caplog.text


def test_workers_change_no_bit_of_the_numbers_nor_what_is_heard_of_bad_files(photos: Path, tmp_path: Path) -> None:
    for file in photos.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes()[: 99 if file.name in ("03.jpg", "20.png") else None])
    reader = ImageReader((16, 16), 3)
    heard: dict[int, list[str]] = {0: [], 3: []}
    found = [
        measure(
            list_items(str(tmp_path), reader.suffixes), reader, center_sampler((16, 16)), 25, workers=workers,
            on_bad=lambda error, to=to: to.append(Path(error.path).name),
        )
        for workers, to in heard.items()
    ]  # fmt: skip
    assert found[0] == found[1]
    assert heard[0] == heard[3] == ["03.jpg", "20.png"]


def test_whoever_watches_is_told_how_far_measuring_has_come() -> None:
    told: list[Any] = []

    @contextmanager
    def watcher(what: str) -> Iterator[Any]:
        told.append(what)
        yield lambda *progress: told.append(progress)
        told.append("over")

    with watched_by(watcher):
        statistics_of(Tensors([torch.rand(3, 8, 8)] * 3), name="photos")
    statistics_of(Tensors([torch.rand(3, 8, 8)]))
    assert told == ["photos: measuring mean and standard deviation on 3 files", (1, 3), (2, 3), (3, 3), "over"]


def test_when_all_are_bad_their_kinds_are_counted_and_one_is_named() -> None:
    with pytest.raises(UserError, match=r"photos: none of 5 files .*: 5 empty \(such as 0; 1, 2\)"):
        statistics_of(Tensors([None] * 5), name="photos")


def test_a_moment_of_nothing_changes_nothing() -> None:
    moments = Moments()
    moments.add(Sample(torch.rand(1, 4, 4), "a", torch.zeros(1, 4, 4, dtype=torch.bool)))
    assert moments.count == 0


class TestResolve:
    def data(self, channels: int = 3) -> dict[str, Any]:
        reader = Tensors([torch.rand(channels, 24, 16)])
        return {"image": SimpleNamespace(items=reader.items(), reader=reader)}

    def chosen(self, config: Config, data: dict[str, Any]) -> Any:
        return resolve_statistics(config, data).modalities["image"].data.statistics

    def test_every_word_becomes_numbers(self, make_config: Callable[..., Config]) -> None:
        data = self.data()
        measured = measure(data["image"].items, data["image"].reader, center_sampler((24, 16)))
        given = Statistics(mean=(1, 2, 3), std=(4, 5, 6))
        nothing = Statistics(mean=(0, 0, 0), std=(1, 1, 1))
        words = {"measured": measured, "imagenet": IMAGENET, "none": nothing}
        for word, expected in words.items():
            assert self.chosen(make_config(data={"path": "x", "statistics": word}), data) == expected
        config = make_config(data={"path": "x", "statistics": given.model_dump()})
        assert self.chosen(config, {}) == given

    def test_what_was_resolved_stays_and_survives_yaml(self, make_config: Callable[..., Config]) -> None:
        config = make_config(data={"path": "x", "statistics": "measured"})
        once = resolve_statistics(config, self.data())
        assert resolve_statistics(once, {}) == once
        assert config.modalities["image"].data.statistics == "measured"

    @pytest.mark.parametrize("word", ["imagenet", {"mean": [0.5], "std": [0.5]}])
    def test_another_count_of_channels_is_refused(self, make_config: Callable[..., Config], word: Any) -> None:
        config = make_config(channels=5, data={"path": "x", "statistics": word})
        with pytest.raises(ConfigError, match=r"modalities.image.data.statistics: .* the model has 5"):
            resolve_statistics(config, self.data())
