"""Planes that repeat places are parted by what tells them apart, and by nothing that leaves a slice alone."""

from math import nan

import pytest

from mae_ext.data.sources.dicom.glance import NUMBERS
from mae_ext.data.sources.dicom.volumes import Plane, alike, places, volumes


def plane(file, z, gradient="", folder="", **numbers):
    return Plane(file, dict.fromkeys(NUMBERS, nan) | numbers, gradient, folder, float(z))


def parted(planes):
    return {label: [p.file for p in part] for label, part in volumes(planes)}


def grid(of, places=4, count=3):
    """Place by place: count planes of each, which differ as `of` says."""
    return [plane(count * z + k, z, **of(z, k)) for z in range(places) for k in range(count)]


def test_a_series_whose_places_come_once_is_one_volume():
    planes = [plane(z, z, number=z, moment=60 * z, acquisition=z) for z in range(5)]
    assert parted(planes) == {"": [0, 1, 2, 3, 4]}


@pytest.mark.parametrize(
    ("of", "labels"),
    [
        (lambda z, k: {"echo": 5.0 + k}, ["echo 5", "echo 6", "echo 7"]),
        (lambda z, k: {"b": 500.0 * k} if k else {}, ["b 0", "b 500", "b 1000"]),
        (lambda z, k: {"time": k + 1.0}, ["time 1", "time 2", "time 3"]),
        (lambda z, k: {"flip": 5.0 * k}, ["flip 0", "flip 5", "flip 10"]),
        (lambda z, k: {"inversion": 100.0 * k}, ["inversion 0", "inversion 100", "inversion 200"]),
        (lambda z, k: {"acquisition": k + 1.0}, ["acquisition 1", "acquisition 2", "acquisition 3"]),
        (lambda z, k: {"gradient": "abc"[k]}, ["gradient a", "gradient b", "gradient c"]),
        (lambda z, k: {"moment": 1e9 - 60 * k}, ["time 3", "time 2", "time 1"]),
        (lambda z, k: {"number": 4.0 * k + z}, ["volume 1", "volume 2", "volume 3"]),
        (lambda z, k: {"moment": 1e9 + 10 * (4 * k + z)}, ["volume 1", "volume 2", "volume 3"]),
        (lambda z, k: {"folder": "pqr"[k]}, ["folder p", "folder q", "folder r"]),
    ],
    ids=lambda value: "" if callable(value) else value[0].split()[0],
)
def test_volumes_of_one_place_are_parted_by_what_they_differ_in(of, labels):
    assert parted(grid(of)) == {label: list(range(k, 12, 3)) for k, label in enumerate(labels)}


def test_two_echoes_part_a_series_also_where_no_place_repeats():
    assert parted([plane(z, z, echo=5.0 + z % 2) for z in range(6)]) == {"echo 5": [0, 2, 4], "echo 6": [1, 3, 5]}


def test_a_place_that_repeats_alone_is_left_to_who_reads_the_series():
    assert parted([*(plane(z, z, number=z) for z in range(5)), plane(5, 2, number=9)]) == {"": [0, 1, 2, 3, 4, 5]}


def test_directions_that_differ_in_their_last_digits_are_one():
    assert alike([(1, 0, 0), (0.9996, 0.0004, 0), (0.99, 0.1, 0), (nan, 0, 0), (1, 0, 0)]) == [0, 0, 1, 0, 0]


def test_heights_that_are_not_said_are_places_of_their_own():
    assert len(places([plane(0, nan), plane(1, nan), plane(2, 1)])) >= 1
