"""A file whose values are unlike the others' is pointed at, and no other."""

from typing import Any

import numpy as np
import pytest
import torch

from mae_ext.data.loading.doctor import Verdict
from mae_ext.data.loading.values import Values, of_types, two_kinds, typical, unlike, valid_of, values_of
from mae_ext.data.loading.verdict_report import of_values
from mae_ext.data.sample import Sample


def ct(seed: int) -> Values:
    """Air at -1000, a body at 40, bone up to 1100 HU, and what patients differ by."""
    rng = np.random.default_rng(seed)
    body = rng.normal(40 + rng.normal(0, 10), 60, 3000)
    found = values_of("int16", np.concatenate([rng.normal(-1000, 15, 4000), body, rng.uniform(300, 1100, 100)]))
    assert found is not None
    return found


def test_the_five_numbers_are_those_of_all_values_and_nan_is_none() -> None:
    found = values_of("float32", np.array([*range(101), np.nan, np.inf]))
    assert found == Values("float32", 0, 1, 50, 99, 100)
    assert values_of("float32", np.array([np.nan])) is None


def test_what_is_not_valid_of_a_sample_does_not_count() -> None:
    x, valid = torch.tensor([[1.0, 2, 9], [3, 4, 9]]), torch.tensor([[True, True, False]])
    assert valid_of(Sample(x, "a", valid)).tolist() == [1, 2, 3, 4]


def test_a_wrapped_uint16_and_a_pet_among_scans_are_pointed_at_and_no_scan_is() -> None:
    scans: list[Values | None] = [ct(seed) for seed in range(12)]
    wrapped = Values("uint16", 0, 2, 64532, 65528, 65535)
    pet = Values("float32", 0, 0, 0, 9, 14)
    said = unlike([*scans, wrapped, None, pet])
    assert list(said) == [12, 14]
    assert "median 64532, where -" in said[12] and "1 % 0, where -10" in said[14]
    assert unlike(scans) == {}


def test_of_few_files_nothing_is_called_unlike() -> None:
    assert unlike([ct(1), ct(2), ct(3), Values("uint16", 0, 2, 64532, 65528, 65535)]) == {}


def test_photos_of_8_bits_are_one_kind_be_they_dark_or_bright() -> None:
    rng = np.random.default_rng(0)
    photos: list[Values | None] = [
        values_of("uint8", np.clip(rng.normal(mean, 40, 2000), 0, 255).astype(np.uint8)) for mean in range(40, 220, 12)
    ]
    assert unlike(photos) == {}
    assert two_kinds([str(i) for i in range(len(photos))], photos) == ""


def test_two_kinds_in_halves_are_said_with_one_of_each() -> None:
    values: list[Values | None] = [Values("float32", 0, 0, 0, 9 + i, 14) for i in range(4)]
    values += [ct(seed) for seed in range(5)]
    said = two_kinds([f"{i}.nii" for i in range(9)], values)
    assert said.startswith("two kinds of values: ") and "5 with" in said and "4 with" in said
    assert "such as 0.nii" in said and "such as 4.nii" in said


def test_pictures_beside_masks_of_another_type_are_said_once_and_each_judged_among_its_like() -> None:
    pictures: list[Values | None] = [Values("uint8", 0, 3, 20 + i, 200, 255) for i in range(24)]
    masks: list[Values | None] = [Values("uint16", 0, 0, 0, 30 + i, 40 + i) for i in range(12)]
    masks[7] = Values("uint16", 0, 0, 900, 9000, 60000)
    both, paths = [*pictures, *masks], [f"{i}.png" for i in range(36)]
    assert list(unlike(both)) == [31]
    said = of_types(paths, both)
    assert "12 of uint16 (such as 24.png), 24 of uint8 (such as 0.png)" in said
    assert of_values([Verdict(path, True, values=one) for path, one in zip(paths, both, strict=True)])[0] == said
    assert not of_types(paths[:24], pictures)


def test_scans_of_one_scale_are_one_kind_in_whatever_type_they_are_stored() -> None:
    stored = [ct(seed) for seed in range(16)]
    scans: list[Values | None] = [Values("float64" if i % 2 else "int16", *one.numbers) for i, one in enumerate(stored)]
    assert not of_types([str(i) for i in range(16)], scans)
    assert list(unlike([*scans, Values("uint16", 0, 2, 64532, 65528, 65535)])) == [16]


def test_the_usual_is_the_median_of_the_files() -> None:
    middle = typical([Values("int16", -3, -2, 0, 2, 3), Values("int16", -5, -4, 0, 4, 5), None])
    assert middle == Values("int16", -4, -3, 0, 3, 4)


@pytest.mark.parametrize(("dtype", "lines"), [("uint8", 0), ("int16", 1)])
def test_a_line_on_values_is_printed_where_they_cannot_be_guessed(dtype: str, lines: int) -> None:
    verdicts = [Verdict(str(i), True, values=Values(dtype, 0, 1, 2, 3, 4)) for i in range(3)]
    assert len(of_values(verdicts)) == lines
    assert of_values(verdicts, verbose=True) == ["values, of 3 files by median: 0 to 4, 1 % 1, median 2, 99 % 3"]


def test_of_many_that_are_unlike_twenty_have_a_line_and_the_others_a_count() -> None:
    alike: list[Any] = [Verdict(f"{i}", True, values=ct(i)) for i in range(90)]
    odd = [Verdict(f"odd{i}", True, values=Values("uint16", 0, 2, 64532, 65528, 65535)) for i in range(23)]
    lines = of_values([*alike, *odd])
    assert len(lines) == 22 and lines[20].startswith("and 3 more files")
