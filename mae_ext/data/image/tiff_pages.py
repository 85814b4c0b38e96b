"""Which pages of a TIFF are a sample's, and what its bands are called: OME, ImageJ and GDAL say it in tags."""

import html
import re
from math import prod
from typing import Literal

import tifffile

from mae_ext.errors import BadSample

At = int | Literal["middle"]
"""A place along an axis of pages: from 0, from the end below it, or in the middle (of n, number n // 2)."""

GDAL_METADATA = 42112
MOST_TEXT = 8 << 20
"""Characters of a description that are looked through for names."""

WORDS = {"C": "channels", "Z": "z", "T": "t"}
COLOURS = ("red", "green", "blue", "alpha")


def axes_of(series: tifffile.TiffPageSeries, pages: int) -> list[tuple[str, int]]:
    """(letter, length) of the axes that pages run along, slowest first; their product is `pages`."""
    axes: list[tuple[str, int]] = []
    for letter, length in zip(series.axes, series.shape, strict=True):
        if prod((n for _, n in axes), start=1) == pages:
            break
        axes.append((letter, int(length)))
    return axes if prod((n for _, n in axes), start=1) == pages else [("I", pages)]


def check_place(name: str, at: At | None) -> At | None:
    """Of a reader's argument. Raises ValueError."""
    if at is not None and at != "middle" and type(at) is not int:
        raise ValueError(f"{name}={at!r}: expected a number from 0 (-1 is the last) or 'middle'")
    return at


def chosen(address: str, axes: list[tuple[str, int]], places: dict[str, At | None]) -> list[int]:
    """Numbers of the pages at the places that are asked for, all along other axes. Raises BadSample, "channels"."""
    lengths = dict(axes)
    picked: dict[str, int] = {}
    for letter, at in places.items():
        if at is None:
            continue
        length = lengths.get(letter, 1)
        place = length // 2 if at == "middle" else at
        if not -length <= place < length:
            detail = f"{WORDS[letter]}={at} is asked for, and there are {length}, from 0"
            raise BadSample(address, "channels", detail)
        picked[letter] = place % length
    numbers = [0]
    for letter, length in axes:
        along = [picked[letter]] if letter in picked else range(length)
        numbers = [n * length + i for n in numbers for i in along]
    return numbers


def words(axes: list[tuple[str, int]]) -> str:
    """What several axes of pages are: " (3 channels x 4 z)"; "" of one."""
    long = [(WORDS.get(letter, letter), n) for letter, n in axes if n > 1]
    return f" ({' x '.join(f'{n} {word}' for word, n in long)})" if len(long) > 1 else ""


def names_of(
    file: tifffile.TiffFile, number: int, axes: list[tuple[str, int]], samples: int, form: str
) -> tuple[str, ...]:
    """A name for each band, "" where it has none; () where none has. number: of the picture in the file."""
    pages = prod(n for _, n in axes)
    page = file.series[number].keyframe
    names: list[str] = []
    if file.is_ome and isinstance(text := file.pages.first.description, str):
        said = _of_ome(text[:MOST_TEXT], number)
        before, count = 1, 1
        for letter, length in axes:
            before, count = (before, length) if letter == "C" else (before * (length if count == 1 else 1), count)
        after = pages // (before * count)
        if len(said) == count:
            names = [name for _ in range(before) for name in said for _ in range(after)] if count > 1 else said * pages
        names = [name for name in names for _ in range(samples)] if samples > 1 and form == "bands" else names
    elif GDAL_METADATA in page.tags and isinstance(text := page.tags.valueof(GDAL_METADATA), str):
        by_band = _of_gdal(text[:MOST_TEXT])
        names = [by_band.get(i, "") for i in range(pages * samples)]
    elif file.is_imagej and pages > 1 and samples == 1:
        labels = (file.imagej_metadata or {}).get("Labels")
        names = [str(label) for label in labels] if isinstance(labels, list) and len(labels) == pages else []
    if not any(names) and pages == 1 and form in ("rgb", "rgba"):
        return COLOURS[:samples]
    return tuple(names) if any(names) and len(names) == pages * samples else ()


def _of_ome(text: str, number: int) -> list[str]:
    """Channels of one Image of OME's description, in order (OME 2016-06: Channel/@Name)."""
    images = re.split(r"<(?:\w+:)?Image\b", text)[1:]
    if number >= len(images):
        return []
    tags: list[str] = re.findall(r"<(?:\w+:)?Channel\b([^>]*)>", images[number])
    return [_attribute(tag, "Name") for tag in tags]


def _of_gdal(text: str) -> dict[int, str]:
    """Names of bands (GDAL's GeoTIFF driver: Item with role "description", else with name "DESCRIPTION")."""
    items: list[tuple[str, str]] = re.findall(r"<Item\b([^>]*)>([^<]*)</Item>", text)
    names: dict[int, str] = {}
    for tag, value in items:
        described = "description" in (_attribute(tag, "role").lower(), _attribute(tag, "name").lower())
        if described and re.fullmatch(r"\d{1,6}", band := _attribute(tag, "sample")):
            names[int(band)] = html.unescape(value).strip()
    return names


def _attribute(tag: str, name: str) -> str:
    match = re.search(rf"(?:^|\s){name}\s*=\s*(?:\"([^\"]*)\"|'([^']*)')", tag)
    return html.unescape(match[1] or match[2] or "").strip() if match else ""
