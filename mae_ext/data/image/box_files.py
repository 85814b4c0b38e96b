"""Label files of boxes, as people have them: one COCO JSON, or a folder of Pascal VOC XML files.

Both become Annotations. Nothing here knows which images there are. A label file is trusted as little as an image: its
size is limited, XML may have no DTD and so no entities, and what is wrong is a UserError that names file and place.
"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar
from xml.etree.ElementTree import Element, ParseError, TreeBuilder
from xml.parsers import expat

from mae_ext.data.sources.address import fetch
from mae_ext.errors import BadSample, UserError, some

MAX_COCO_BYTES = 1 << 30
"""The largest file of COCO itself, instances_train2017.json, has 0.45 GB."""

MAX_XML_BYTES = 4 << 20
"""Room for ten thousand objects: one takes some 400 bytes."""

MAX_XML_DEPTH = 16
"""VOC's own files are five deep (annotation, object, part, bndbox, xmin)."""

T = TypeVar("T")
Id = int | str


@dataclass(frozen=True)
class Annotation:
    """What a label file says of one image.

    where: for messages. parts: of the image's path, as far as the file knows it. size: (height, width) in pixels, None
    where the file does not say. boxes: left, top, right, bottom in pixels, as edges: the whole image is 0, 0, width,
    height. ignored: VOC's `difficult`, COCO's `iscrowd`.
    """

    where: str
    parts: tuple[str, ...]
    size: tuple[int, int] | None
    boxes: list[tuple[float, float, float, float]] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    ignored: list[bool] = field(default_factory=list)


@dataclass(frozen=True)
class Annotations:
    """order: all class names the files know, in the order in which they are numbered. suffixed: whether `parts` end in
    the image's suffix (COCO) or without it (VOC)."""

    images: list[Annotation]
    order: tuple[str, ...]
    suffixed: bool


def read_annotations(path: str) -> Annotations:
    """A COCO `.json`, or a folder with VOC `.xml` files at any depth. Raises UserError."""
    here = Path(path)
    if here.is_dir():
        return _read_voc(here)
    if here.suffix.lower() == ".json" and here.is_file():
        return _read_coco(path)
    what = "there is no such file or folder" if not here.exists() else "it is neither"
    raise UserError(f"labels '{path}': expected a COCO .json or a folder of Pascal VOC .xml files, but {what}")


def _content(path: str, max_bytes: int) -> bytes:
    try:
        content = fetch(path, max_bytes)
    except BadSample as error:
        raise UserError(f"labels {error}") from error
    assert isinstance(content, bytes)
    return content


# Pascal VOC


def _read_voc(folder: Path) -> Annotations:
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() == ".xml" and not p.name.startswith("."))
    if not files:
        raise UserError(
            f"labels '{folder}': no .xml file in it, at any depth; expected one for each image{_others(folder)}"
        )
    images, faults = [], []
    for file in files:
        try:
            images.append(_voc(str(file), file.relative_to(folder)))
        except UserError as error:
            faults.append(str(error))
    if faults:
        raise UserError(f"{len(faults)} of {len(files)} label files cannot be used: {some(faults, '; ')}")
    return Annotations(images, tuple(sorted({name for image in images for name in image.names})), suffixed=False)


def _others(folder: Path) -> str:
    """What to do with label files of another kind."""
    if some_json := sorted(folder.rglob("*.json"))[:1]:
        return f"; it holds {some_json[0].name}: of COCO, name the file itself"
    if some_txt := sorted(folder.rglob("*.txt"))[:1]:
        return f"; it holds {some_txt[0].name}: YOLO's text files are not read, convert them to COCO"
    return ""


def _voc(where: str, name: Path) -> Annotation:
    """VOC counts pixels from 1 and includes both ends (VOC2012 devkit, section 5), so the left edge is xmin - 1.

    By the letter, xmin = xmax is a box of one pixel. In practice it is a slip of the mouse (BCCD has two), and counts
    as a box without area.
    """
    root = parse_xml(_content(where, MAX_XML_BYTES), where)
    if root.tag != "annotation":
        raise UserError(f"labels {where}: begins with <{root.tag[:40]}>; expected <annotation>, as Pascal VOC has it")
    image = Annotation(where, name.with_suffix("").parts, _voc_size(root, where))
    for i, entry in enumerate(root.findall("object"), start=1):
        place = f"labels {where}: object {i}"
        label, box = (entry.findtext("name") or "").strip(), entry.find("bndbox")
        if not label or box is None:
            raise UserError(f"{place}: has no {'name' if not label else 'bndbox'}")
        left, top, right, bottom = (
            _number(box.findtext(key), f"{place}: {key}") for key in ("xmin", "ymin", "xmax", "ymax")
        )
        image.boxes.append((left - (right > left), top - (bottom > top), right, bottom))
        image.names.append(label)
        image.ignored.append((entry.findtext("difficult") or "0").strip() == "1")
    return image


def _voc_size(root: Element, where: str) -> tuple[int, int] | None:
    if root.find("size") is None:
        return None
    return _size([root.findtext(f"size/{key}") for key in ("height", "width")], f"labels {where}: size/")


def _size(sides: Sequence[Any], place: str) -> tuple[int, int] | None:
    """(height, width), None where either is missing, null, or not above 0: some tools write 0 or -1 for unknown."""
    if any(side is None for side in sides):
        return None
    height, width = (int(_number(side, f"{place}{key}")) for side, key in zip(sides, ("height", "width"), strict=True))
    return (height, width) if height > 0 and width > 0 else None


def parse_xml(content: bytes, where: str) -> Element:
    """The tree of an XML file without DTD. Raises UserError: not XML, too deep, or a DTD, which can hold an entity bomb
    or name another file; with none, XML has five entities, and they are single characters."""
    parser, builder, depth = expat.ParserCreate(), TreeBuilder(), 0

    def refuse(*_: Any) -> None:
        raise UserError(f"labels {where}: has a document type (<!DOCTYPE ...>), which is not read; remove it")

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > MAX_XML_DEPTH:
            raise UserError(f"labels {where}: nested more than {MAX_XML_DEPTH} deep; this is not Pascal VOC")
        builder.start(tag, attributes)

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(tag)

    parser.StartDoctypeDeclHandler = refuse
    parser.EntityDeclHandler = refuse
    parser.ExternalEntityRefHandler = refuse  # type: ignore[assignment]
    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = start, end, builder.data
    try:
        parser.Parse(content, True)
        return builder.close()
    except (expat.ExpatError, ParseError, ValueError, LookupError) as error:
        raise UserError(f"labels {where}: not XML: {error}") from None


def _number(text: Any, place: str) -> float:
    try:
        value = float(text)
    except (TypeError, ValueError, OverflowError):
        value = float("nan")
    if not isfinite(value):
        raise UserError(f"{place} is {text!r}; expected a number")
    return value


# COCO


def _read_coco(path: str) -> Annotations:
    where = f"labels {path}"

    def refuse(constant: str) -> float:
        raise ValueError(f"{constant} is not a number")

    try:
        root = json.loads(_content(path, MAX_COCO_BYTES), parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not JSON: {error}") from None
    rows = {key: _list(root, key, where) for key in ("images", "annotations", "categories")}
    categories = _by_id(rows["categories"], "categories", where, lambda row, place: _text(row, "name", place))
    if twice := sorted(name for name in set(categories.values()) if list(categories.values()).count(name) > 1):
        raise UserError(f"{where}: categories {', '.join(twice)} have more than one id; expected one name for each")
    images = _by_id(rows["images"], "images", where, lambda row, place: _coco_image(row, place, path))
    for i, row in enumerate(rows["annotations"]):
        place = f"{where}: annotations[{i}]"
        image, category = _known(row, "image_id", images, place), _known(row, "category_id", categories, place)
        box = row.get("bbox")
        if not isinstance(box, list) or len(box) != 4:
            raise UserError(f"{place}: bbox is {str(box)[:60]}; expected [x, y, width, height]")
        left, top, width, height = (_number(value, f"{place}: bbox[{j}]") for j, value in enumerate(box))
        image.boxes.append((left, top, left + width, top + height))
        image.names.append(category)
        image.ignored.append(bool(row.get("iscrowd", 0)))
    return Annotations(
        list(images.values()), tuple(categories[key] for key in sorted(categories, key=_rank)), suffixed=True
    )


def _coco_image(row: dict[str, Any], place: str, path: str) -> Annotation:
    name = _text(row, "file_name", place)
    size = _size([row.get(key) for key in ("height", "width")], f"{place}: ")
    return Annotation(f"{path} ({name})", PurePosixPath(name.replace("\\", "/")).parts, size)


def _list(root: Any, key: str, where: str) -> list[dict[str, Any]]:
    rows = root.get(key) if isinstance(root, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{where}: has no list '{key}' of objects; expected COCO's images, annotations and categories")
    return rows


def _by_id(rows: list[dict[str, Any]], what: str, where: str, make: Callable[[dict[str, Any], str], T]) -> dict[Id, T]:
    """COCO's ids are whole numbers; some tools write text, or whole numbers as floats."""
    by_id: dict[Id, T] = {}
    for i, row in enumerate(rows):
        place, key = f"{where}: {what}[{i}]", _id(row.get("id"))
        if key is None or key in by_id:
            raise UserError(f"{place}: id is {row.get('id')!r}; expected a whole number, or text, that no other has")
        by_id[key] = make(row, place)
    return by_id


def _rank(key: Id) -> tuple[bool, int, str]:
    """Numbers come first, in their order, also where they are text."""
    text = str(key)
    number = int(text) if re.fullmatch(r"-?[0-9]{1,18}", text) else None
    return number is None, number or 0, text


def _id(value: Any) -> Id | None:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int | str) and not isinstance(value, bool) else None


def _text(row: dict[str, Any], key: str, place: str) -> str:
    value = row.get(key)
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{place}: {key} is {value!r}; expected a name")
    return value.strip()


def _known(row: dict[str, Any], key: str, known: dict[Id, T], place: str) -> T:
    value = _id(row.get(key))
    if value is None or value not in known:
        raise UserError(f"{place}: {key} is {row.get(key)!r}, which the file does not define")
    return known[value]
