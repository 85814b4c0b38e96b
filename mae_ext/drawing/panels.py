"""Rows of pictures with titles and captions, as a PNG, or as a GIF where samples move."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from einops import rearrange
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn.functional import pad

from mae_ext.drawing.boxes import legible
from mae_ext.drawing.planes import three_planes
from mae_ext.errors import UserError
from mae_ext.writing import staged

INK, FAINT, PAPER = (28, 32, 38), (105, 113, 124), (255, 255, 255)
MARGIN, GAP, BAR = 10, 8, 6
SMALLEST_EDGE = 160
"""Pixels: smaller images are enlarged by a whole factor, without smoothing, so that patches stay sharp."""

FRAME_MS = 120
"""How long each frame of a clip is shown: slower than life, so that motion can be compared."""

FONT_SIZE = 13


@dataclass(frozen=True)
class Panel:
    """One row of a picture. columns: (title, (C, *S) in 0..1), all of one shape. caption: lines of text under them.

    display: how the reader wants its samples drawn. spacings: of each column's sample, where they have one.
    bars: a colour along the foot of each column, or None.
    """

    columns: tuple[tuple[str, Tensor], ...]
    caption: tuple[str, ...]
    display: str = "image"
    spacings: tuple[tuple[float, ...] | None, ...] = ()
    bars: tuple[tuple[int, int, int] | None, ...] = ()


def on_a_scale(x: Tensor, original: Tensor) -> Tensor:
    """(B, C, *S) -> the same in 0..1, where the original is not: from the 0.5th to its 99.5th percentile."""
    few = original.flatten(1)
    few = few[:, :: max(1, few.shape[1] // 100_000)]
    bounds = torch.quantile(few, torch.tensor([0.0, 0.005, 0.995, 1.0], device=x.device), dim=1)
    low, high = (
        torch.where((bounds[0] >= 0) & (bounds[3] <= 1), b, q) for b, q in ((0.0, bounds[1]), (1.0, bounds[2]))
    )
    across = (-1, *[1] * (x.ndim - 1))
    return (x - low.view(across)) / (high - low).clamp(min=1e-6).view(across)


def save(panel: Panel, stem: Path) -> Path:
    """Write a panel: as a PNG, or where it moves as a GIF; the suffix is added."""
    return _write([draw(moment) for moment in moments(panel)], stem)


def moments(panel: Panel) -> list[Panel]:
    """The panel with columns (C, H, W), once for each frame to be shown, as its reader wants. The only such choice.

    Raises UserError for samples that nobody knows how to draw.
    """
    columns = panel.columns
    if panel.display == "volume":
        spacings = panel.spacings or (None,) * len(columns)
        planes = [three_planes(x, mm) for (_, x), mm in zip(columns, spacings, strict=True)]
        # Voxels of another shape make planes of another size.
        tall, wide = (max(plane.shape[axis] for plane in planes) for axis in (1, 2))
        return [_still(panel, [pad(p, (0, wide - p.shape[2], 0, tall - p.shape[1])) for p in planes])]
    if panel.display == "clip":
        return [_still(panel, [x[:, i] for _, x in columns]) for i in range(columns[0][1].shape[1])]
    if (axes := columns[0][1].ndim - 1) != 2:
        raise UserError(f"pictures of samples with {axes} spatial axes, shown as '{panel.display}', are not drawn yet")
    return [panel]


def _still(panel: Panel, planes: Sequence[Tensor]) -> Panel:
    titled = tuple((title, plane) for (title, _), plane in zip(panel.columns, planes, strict=True))
    return replace(panel, columns=titled, display="image")


def save_sheet(panels: Sequence[Panel], stem: Path) -> Path:
    """All panels in one picture, without their names, the common caption once."""
    together = zip(*map(moments, panels), strict=True)  # samples of one run have the same number of frames
    return _write([_sheet(moment) for moment in together], stem)


def _sheet(panels: Sequence[Panel]) -> Image.Image:
    rows = [draw(panel, with_caption=False, heading=False) for panel in panels]
    across = 1 if len(rows) < 4 else 2
    width, height = max(r.width for r in rows), max(r.height for r in rows)
    down = -(-len(rows) // across)
    head, foot = _line_height(FONT_SIZE) + 4, _line_height(FONT_SIZE) + MARGIN
    sheet = Image.new("RGB", (across * width, head + down * height + foot), PAPER)
    pen = ImageDraw.Draw(sheet)
    for i, row in enumerate(rows):
        sheet.paste(row, (i // down * width, head + i % down * height))
    for column in range(across):
        _titles(pen, panels[0], column * width, MARGIN, _shown_width(panels[0]))
    caption = _fitting(" · ".join(panels[0].caption[1:]), FONT_SIZE, sheet.width - 2 * MARGIN)
    pen.text((MARGIN, sheet.height - foot + 2), caption, FAINT, _font(FONT_SIZE))
    return sheet


def save_rows(panels: Sequence[Panel], stem: Path, caption: str) -> Path:
    """Panels one under the other, each with its titles, and the caption once."""
    together = zip(*map(moments, panels), strict=True)
    return _write([_rows(moment, caption) for moment in together], stem)


def _rows(panels: Sequence[Panel], caption: str) -> Image.Image:
    rows = [draw(panel, with_caption=False) for panel in panels]
    width, foot = max(r.width for r in rows), _line_height(FONT_SIZE) + MARGIN
    sheet = Image.new("RGB", (width, sum(r.height for r in rows) + foot), PAPER)
    top = 0
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height
    text = _fitting(caption, FONT_SIZE, width - 2 * MARGIN)
    ImageDraw.Draw(sheet).text((MARGIN, top + 2), text, FAINT, _font(FONT_SIZE))
    return sheet


def draw(panel: Panel, with_caption: bool = True, heading: bool = True) -> Image.Image:
    """Columns of planes (C, H, W) side by side: title, picture, caption."""
    planes = [_enlarge(to_image(x)) for _, x in panel.columns]
    width, height = planes[0].size
    head = _line_height(FONT_SIZE) + 4 if heading else 0
    notes = list(panel.caption)
    if panel.columns[0][1].shape[0] not in (1, 3):
        notes.append(f"shown: the first of {panel.columns[0][1].shape[0]} channels")
    foot = len(notes) * _line_height(FONT_SIZE - 1) + 4 if with_caption else 0
    total = len(planes) * width + (len(planes) - 1) * GAP + 2 * MARGIN
    # A caption must be readable under a narrow picture too.
    total = max(total, 340) if with_caption else total
    image = Image.new("RGB", (total, MARGIN + head + height + foot + MARGIN // 2), PAPER)
    pen = ImageDraw.Draw(image)
    if heading:
        _titles(pen, panel, 0, MARGIN // 2, width)
    for i, plane in enumerate(planes):
        left, low = MARGIN + i * (width + GAP), MARGIN // 2 + head + height
        image.paste(plane, (left, low - height))
        if panel.bars and (colour := panel.bars[i]) is not None:
            pen.rectangle((left, low - BAR, left + width - 1, low - 1), colour)
    for i, note in enumerate(notes if with_caption else ()):
        y = MARGIN // 2 + head + height + 4 + i * _line_height(FONT_SIZE - 1)
        text = _fitting(note, FONT_SIZE - 1, total - 2 * MARGIN)
        pen.text((MARGIN, y), text, INK if i == 0 else FAINT, _font(FONT_SIZE - 1))
    return image


def to_image(x: Tensor) -> Image.Image:
    """(C, H, W) in 0..1 -> RGB. One channel is grey, three are RGB, of any other number the first is shown."""
    x = x if x.shape[0] in (1, 3) else x[:1]
    levels = (x.nan_to_num(0.0).clamp(0, 1) * 255).round().to(torch.uint8).expand(3, -1, -1)
    return Image.fromarray(np.ascontiguousarray(rearrange(levels, "c h w -> h w c").numpy()))


def _enlarge(image: Image.Image) -> Image.Image:
    factor = max(1, -(-SMALLEST_EDGE // min(image.size)))
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def _shown_width(panel: Panel) -> int:
    return _enlarge(to_image(panel.columns[0][1])).width


def _titles(pen: ImageDraw.ImageDraw, panel: Panel, left: int, top: int, width: int) -> None:
    for i, (title, _) in enumerate(panel.columns):
        pen.text((left + MARGIN + i * (width + GAP), top), _fitting(title, FONT_SIZE, width), INK, _font(FONT_SIZE))


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(Path(mpl.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"), size)


def _line_height(size: int) -> int:
    return size + 5


def _fitting(text: str, size: int, width: int) -> str:
    """The text, or its end after "…": of a long path the end says more."""
    text = legible(text)
    if _font(size).getlength(text) <= width:
        return text
    while text and _font(size).getlength("…" + text) > width:
        text = text[max(1, len(text) // 50) :]
    return "…" + text


def _write(frames: Sequence[Image.Image], stem: Path) -> Path:
    moving = len(frames) > 1
    path = stem.with_name(stem.name + (".gif" if moving else ".png"))
    with staged(path) as [partial]:
        if moving:
            # One palette for all frames: without it the colours of what stands still would flicker.
            few = [frames[0], frames[len(frames) // 2], frames[-1]]
            mosaic = Image.new("RGB", (few[0].width, sum(frame.height for frame in few)))
            for i, frame in enumerate(few):
                mosaic.paste(frame, (0, i * frame.height))
            colours = mosaic.quantize(256, Image.Quantize.MEDIANCUT)
            indexed = [frame.quantize(palette=colours, dither=Image.Dither.NONE) for frame in frames]
            more = {"append_images": indexed[1:], "duration": FRAME_MS, "loop": 0}
            indexed[0].save(partial, format="GIF", save_all=True, **more)
        else:
            frames[0].save(partial, format="PNG", optimize=True)
    return path
